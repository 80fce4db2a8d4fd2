-- Accuracies of the multiple-choice and question tasks: means over the seeds of recovery, with 95 %
-- intervals from Student's t over seeds or, where there is one run, over items.
SELECT
    model, recipe, layer_set, array_to_string(layers, ',') AS layers,
    avg(bits_saved_with_embeddings_percent) AS bits_saved_percent,
    task, metric,
    avg(value) AS value,
    avg(value) - half_width(stddev_samp(value), avg(stderr), min(stderr_samples), count(*)) AS low,
    avg(value) + half_width(stddev_samp(value), avg(stderr), min(stderr_samples), count(*)) AS high,
    count(*) AS runs,
    max(samples) AS samples, version, protocol
FROM results
WHERE kind IN ('cloze', 'last_word', 'zero_shot', 'hotpotqa')
GROUP BY model, recipe, layer_set, layers, task, metric, version, protocol
ORDER BY model, task, metric, recipe, bits_saved_percent
