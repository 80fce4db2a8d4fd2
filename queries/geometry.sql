-- Where compression moves the activations: each measure at each point of each layer, over all token
-- positions. `place` orders the points; a run is named by its layers only where its layer set has
-- several.
WITH wide AS (
    SELECT
        model, task, protocol, recipe, layer_set, array_to_string(layers, ',') AS layers,
        bits_saved_with_embeddings_percent AS bits_saved_percent,
        layer, list_contains(results.layers, layer) AS is_compressed, point,
        metric AS measure,
        any_value(value) FILTER (WHERE statistic = 'mean') AS mean,
        any_value(value) FILTER (WHERE statistic = 'median') AS median,
        any_value(value) FILTER (WHERE statistic = 'deviation') AS deviation,
        any_value(samples) AS tokens
    FROM results
    WHERE kind = 'geometry'
    GROUP BY ALL
)

SELECT
    model, task, protocol, recipe, layer_set, layers,
    recipe || ' ' || CASE
        WHEN min(layers) OVER line = max(layers) OVER line THEN layer_set
        ELSE layers
    END AS run,
    bits_saved_percent, layer, is_compressed, point,
    list_position(
        [
            'layer_input', 'attention_output', 'after_attention', 'ffn_output', 'layer_output',
            'attention_delta', 'ffn_delta', 'layer_delta'
        ], point
    ) AS place,
    measure, mean, median, deviation, tokens
FROM wide
WINDOW line AS (PARTITION BY model, task, protocol, recipe, layer_set)
ORDER BY model, task, protocol, run, layer, place, measure
