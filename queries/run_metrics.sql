-- What was measured of whole runs, beside the uncompressed model by the same protocol: means over the
-- seeds of recovery. `change` is paired over the windows or items that both read, of a perplexity in
-- nats per token, its 95 % interval with what seeds add; `half_width` is that of the value.
WITH measured AS (
    SELECT *, CASE WHEN quality_metrics.metric IS NULL THEN 1 ELSE value END AS scale
    FROM results LEFT JOIN quality_metrics USING (metric)
    WHERE layer IS NULL AND module IS NULL AND prompt IS NULL
),

runs AS (
    SELECT
        model, recipe, layer_set, array_to_string(layers, ',') AS layers,
        task, kind, metric, statistic, state, protocol,
        any_value(version) AS version, -- which may say that memory ran out
        avg(value) AS mean_value,
        half_width(
            stddev_samp(value), avg(scale) * mean_half_width(any_value(observations)),
            avg(stderr), min(stderr_samples), count(*)
        ) AS spread,
        max(samples) AS samples
    FROM measured
    GROUP BY ALL
),

uncompressed AS (
    SELECT
        model, task, metric, coalesce(statistic, '') AS same_statistic,
        coalesce(state, '') AS same_state, protocol, mean_value AS uncompressed
    FROM runs
    WHERE recipe = 'baseline'
),

uncompressed_items AS (
    SELECT model, task, metric, protocol, observations AS baseline_items
    FROM observations
    WHERE recipe = 'baseline'
),

compared AS (
    SELECT
        runs.*, uncompressed, seeds_half_width,
        CASE WHEN recipe <> 'baseline' THEN difference(baseline_items, observations) END AS found
    FROM runs
    LEFT JOIN observations
        USING (model, recipe, layer_set, layers, task, kind, metric, protocol)
    LEFT JOIN uncompressed_items USING (model, task, metric, protocol)
    LEFT JOIN uncompressed
        ON
            uncompressed.model = runs.model AND uncompressed.task = runs.task
            AND uncompressed.metric = runs.metric AND uncompressed.protocol = runs.protocol
            AND same_statistic = coalesce(statistic, '') AND same_state = coalesce(state, '')
)

SELECT
    model, recipe, layer_set, layers, task, kind, metric, statistic, state,
    mean_value AS value, spread AS half_width, uncompressed,
    found.mean AS change,
    sqrt(found.half_width ** 2 + seeds_half_width ** 2) AS change_half_width,
    samples, version, protocol
FROM compared
ORDER BY model, recipe, layers, task, metric, statistic, state
