-- Accuracies of tokens and of the multiple-choice and question tasks: means over the seeds of recovery, with 95 %
-- intervals from Student's t over seeds or, where there is one run, over blocks of items. `change` is over the
-- uncompressed model on the same items, its interval of the paired differences (and of seeds);
-- `mcnemar_p` is the exact test's, of one run's right and wrong answers.
WITH runs AS (
    SELECT
        model, recipe, layer_set, array_to_string(layers, ',') AS layers,
        task, metric, version, protocol,
        avg(bits_saved_with_embeddings_percent) AS bits_saved_percent,
        avg(value) AS mean_value,
        half_width(
            stddev_samp(value), mean_half_width(any_value(observations)),
            avg(stderr), min(stderr_samples), count(*)
        ) AS spread,
        count(*) AS runs,
        max(samples) AS samples
    FROM results
    WHERE kind IN ('accuracy', 'cloze', 'last_word', 'zero_shot', 'hotpotqa')
    GROUP BY ALL
),

uncompressed AS (
    SELECT model, task, metric, protocol, observations AS baseline_items
    FROM observations
    WHERE recipe = 'baseline'
),

compared AS (
    SELECT
        runs.*, baseline_items, seeds_half_width, outcomes,
        CASE WHEN recipe <> 'baseline' THEN difference(baseline_items, observations) END AS change
    FROM runs
    LEFT JOIN observations USING (model, recipe, layer_set, layers, task, metric, protocol)
    LEFT JOIN uncompressed USING (model, task, metric, protocol)
)

SELECT
    model, recipe, layer_set, layers, bits_saved_percent,
    task, metric,
    mean_value AS value, mean_value - spread AS low, mean_value + spread AS high,
    runs, samples, version, protocol,
    change.mean AS change,
    sqrt(change.half_width ** 2 + seeds_half_width ** 2) AS change_half_width,
    CASE WHEN recipe <> 'baseline' THEN mcnemar(baseline_items, outcomes) END AS mcnemar_p
FROM compared
ORDER BY model, task, metric, recipe, bits_saved_percent
