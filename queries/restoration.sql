-- How well each decomposition restores a module's super weights, its next largest entries and
-- random ones, with what it stores. Layer sets of a recipe that hold the layer share it.
WITH measured AS (
    SELECT *
    FROM results
    WHERE kind = 'restoration' AND layer IS NOT NULL
),

shares AS (
    SELECT model, task, recipe, layer, module, avg(value) AS stored_share
    FROM measured
    WHERE metric = 'stored_share'
    GROUP BY ALL
),

errors AS (
    SELECT
        model, task, recipe, approach, stored_by AS method, layer, module, entries,
        max(samples) AS samples,
        avg(value) FILTER (metric = 'absolute_error') AS absolute_error,
        avg(value) FILTER (metric = 'relative_error') AS relative_error
    FROM measured
    WHERE metric <> 'stored_share'
    GROUP BY ALL
)

SELECT
    *,
    100 * stored_share AS stored_percent,
    bool_or(entries = 'super_weights') OVER (PARTITION BY model, task, layer, module)
        AS has_super_weight
FROM errors INNER JOIN shares USING (model, task, recipe, layer, module)
ORDER BY model, task, layer, module, entries, method, stored_share
