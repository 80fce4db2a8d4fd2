-- What was measured of layers and modules of a run: over all parts of it the least, the mean and the
-- most, means over the seeds of recovery. Queries of single tasks have every part by itself.
WITH seeds AS (
    SELECT
        model, recipe, layer_set, array_to_string(layers, ',') AS layers,
        task, metric, statistic, state, point, module, comparison, entries,
        layer, next_layer, partner, expert, "row", "column", values_saved_percent, stored_by,
        avg(value) AS value
    FROM results
    WHERE layer IS NOT NULL OR module IS NOT NULL
    GROUP BY ALL
)

SELECT
    model, recipe, layer_set, layers,
    task, metric, statistic, state, point, module, comparison, entries,
    count(*) AS parts, min(value) AS least, avg(value) AS mean, max(value) AS most
FROM seeds
GROUP BY ALL
ORDER BY model, recipe, layers, task, metric, statistic, state, point, module, comparison, entries
