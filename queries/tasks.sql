-- Accuracies of the multiple-choice and question tasks: means over the seeds of recovery, with 95 %
-- intervals from Student's t over seeds or, where there is one run, over items. `change` is over the
-- uncompressed model on the same items, its interval of the paired differences (and of seeds);
-- `mcnemar_p` is the exact test's, of one run's right and wrong answers.
WITH runs AS (
    SELECT
        model, recipe, layer_set, array_to_string(layers, ',') AS layers,
        task, metric, version, protocol,
        avg(bits_saved_with_embeddings_percent) AS bits_saved_percent,
        avg(value) AS mean_value,
        half_width(stddev_samp(value), avg(stderr), min(stderr_samples), count(*)) AS spread,
        count(*) AS runs,
        max(samples) AS samples,
        coalesce(half_width(stddev_samp(value), NULL, NULL, count(*)), 0) AS seeds_half_width,
        CASE WHEN count(*) = 1 THEN any_value(observations) END AS outcomes
    FROM results
    WHERE kind IN ('cloze', 'last_word', 'zero_shot', 'hotpotqa')
    GROUP BY ALL
),

observed AS (
    SELECT
        model, recipe, layer_set, array_to_string(layers, ',') AS layers, task, metric, protocol,
        generate_subscripts(observations, 1) AS place, unnest(observations) AS outcome
    FROM results
    WHERE kind IN ('cloze', 'last_word', 'zero_shot', 'hotpotqa') AND observations IS NOT NULL
),

means AS (
    SELECT
        model, recipe, layer_set, layers, task, metric, protocol, place,
        avg(outcome) AS outcome
    FROM observed
    GROUP BY ALL
),

items AS (
    SELECT
        model, recipe, layer_set, layers, task, metric, protocol,
        list(outcome ORDER BY place) AS item_means
    FROM means
    GROUP BY ALL
),

uncompressed AS (
    SELECT
        model, task, metric, protocol,
        item_means AS baseline_items
    FROM items
    WHERE recipe = 'baseline'
),

compared AS (
    SELECT
        runs.*, baseline_items,
        CASE WHEN recipe <> 'baseline' THEN difference(baseline_items, item_means) END AS change
    FROM runs
    LEFT JOIN items USING (model, recipe, layer_set, layers, task, metric, protocol)
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
