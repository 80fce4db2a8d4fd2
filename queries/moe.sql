-- Mixtures of experts before and after compression, by layer and part. Drift is over the experts of
-- a projection: `compressed` is the mean, `least` and `most` the range. What compares the two models
-- stands under `compressed`. Experts without tokens have a query of their own, `idle_experts`.
WITH named AS (
    SELECT
        model, task, protocol, recipe, layer_set, array_to_string(layers, ',') AS layers,
        bits_saved_with_embeddings_percent AS bits_saved_percent,
        layer,
        module AS part,
        concat_ws('_', metric, statistic) AS measure,
        coalesce(state, 'compressed') AS state,
        value
    FROM results
    WHERE kind = 'moe' AND metric <> 'experts_without_tokens'
),

wide AS (
    SELECT
        model, task, protocol, recipe, layer_set, layers, bits_saved_percent,
        layer, part, measure,
        avg(value) FILTER (WHERE state = 'dense') AS dense,
        avg(value) FILTER (WHERE state = 'compressed') AS compressed,
        avg(value) FILTER (WHERE state = 'random') AS by_chance,
        min(value) FILTER (WHERE state = 'compressed') AS least,
        max(value) FILTER (WHERE state = 'compressed') AS most
    FROM named
    GROUP BY ALL
)

SELECT
    model, task, protocol, recipe, layer_set, layers,
    recipe || ' ' || CASE
        WHEN min(layers) OVER line = max(layers) OVER line THEN layer_set
        ELSE layers
    END AS run,
    bits_saved_percent, layer, part, measure, dense, compressed, by_chance, least, most
FROM wide
WINDOW line AS (PARTITION BY model, task, protocol, recipe, layer_set)
ORDER BY model, task, protocol, run, layer, part, measure
