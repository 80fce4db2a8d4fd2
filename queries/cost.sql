-- What a user feels: size on disk, tokens per second and peak memory, dense against compressed.
WITH wide AS (
    PIVOT (
        SELECT model, recipe, layer_set, layers, metric, value, version
        FROM results
        WHERE kind = 'speed'
    )
    ON metric
    USING first(value)
    GROUP BY model, recipe, layer_set, layers, version
),

sizes AS (
    SELECT DISTINCT
        model, recipe, layer_set, layers, checkpoint_bytes,
        bits_saved_modules_percent, bits_saved_blocks_percent,
        bits_saved_without_embeddings_percent, bits_saved_with_embeddings_percent
    FROM results
),

dense AS (
    SELECT DISTINCT model, checkpoint_bytes AS dense_checkpoint_bytes
    FROM results
    WHERE recipe = 'baseline'
)

SELECT *
FROM wide
INNER JOIN sizes USING (model, recipe, layer_set, layers)
INNER JOIN dense USING (model)
ORDER BY model, recipe, bits_saved_with_embeddings_percent
