-- What is chosen on one half of the windows, judged on the other (task `accuracy`). Of all runs of
-- a model, `tries` many, the choice is that which saves most bits while its accuracy on every other
-- window from the first (the validation) falls at most `tolerance` below the uncompressed model's; of
-- tolerance NULL it is the most accurate there, which flatters the winner of many tries. `test_accuracy`
-- is of the windows between those, with the 95 % interval of a binomial share (Wilson 1927, tokens
-- taken for independent); `test_change` is over the uncompressed model, paired by windows.
WITH halves AS (
    SELECT
        model, task, protocol, recipe, layer_set, layers,
        list_filter(observations, lambda share, place: place % 2 = 1) AS validation,
        list_filter(observations, lambda share, place: place % 2 = 0) AS test
    FROM observations
    WHERE kind = 'accuracy' AND metric = 'accuracy'
),

sizes AS (
    SELECT
        model, task, protocol, recipe, layer_set, array_to_string(layers, ',') AS layers,
        avg(bits_saved_with_embeddings_percent) AS bits_saved_percent,
        max(samples / len(observations)) AS window_tokens
    FROM results
    WHERE kind = 'accuracy' AND metric = 'accuracy'
    GROUP BY ALL
),

uncompressed AS (
    SELECT model, task, protocol, validation AS dense_validation, test AS dense_test
    FROM halves
    WHERE recipe = 'baseline'
),

runs AS (
    SELECT
        model, task, protocol, recipe, layers, bits_saved_percent,
        list_avg(validation) AS validation_accuracy,
        list_avg(dense_validation) AS dense_validation_accuracy,
        list_avg(test) AS test_accuracy,
        list_avg(dense_test) AS dense_test_accuracy,
        difference(dense_test, test) AS change,
        window_tokens * len(test) AS test_tokens
    FROM halves
    INNER JOIN sizes USING (model, task, protocol, recipe, layer_set, layers)
    INNER JOIN uncompressed USING (model, task, protocol)
    WHERE recipe <> 'baseline'
),

tolerances AS (
    SELECT unnest([0, 0.005, 0.01, 0.02, NULL]::DOUBLE[]) AS tolerance
),

found AS (
    SELECT
        model, task, protocol, tolerance,
        count(*) AS tries,
        arg_max(
            runs, CASE WHEN tolerance IS NULL THEN validation_accuracy ELSE bits_saved_percent END
        ) FILTER (
            tolerance IS NULL OR validation_accuracy >= dense_validation_accuracy - tolerance
        ) AS chosen
    FROM runs CROSS JOIN tolerances
    GROUP BY ALL
),

judged AS (
    SELECT
        *,
        chosen.test_accuracy AS share,
        chosen.test_tokens AS n,
        t95(1000000000) AS z
    FROM found
)

SELECT
    model, task, protocol, tolerance, tries,
    chosen.recipe, chosen.layers, chosen.bits_saved_percent,
    chosen.validation_accuracy, chosen.dense_validation_accuracy,
    share AS test_accuracy,
    (share + z ** 2 / (2 * n) - z * sqrt(share * (1 - share) / n + z ** 2 / (4 * n ** 2)))
        / (1 + z ** 2 / n) AS low,
    (share + z ** 2 / (2 * n) + z * sqrt(share * (1 - share) / n + z ** 2 / (4 * n ** 2)))
        / (1 + z ** 2 / n) AS high,
    n AS test_tokens,
    chosen.dense_test_accuracy,
    chosen.change.mean AS test_change,
    chosen.change.half_width AS test_change_half_width
FROM judged
ORDER BY model, task, protocol, tolerance
