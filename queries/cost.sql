-- What a user feels: size on disk, tokens per second and peak memory, dense against compressed;
-- means over the seeds of recovery.
WITH wide AS (
    PIVOT (
        SELECT
            model, recipe, layer_set, array_to_string(layers, ',') AS layers, methods,
            concat_ws('_', metric, state) AS quantity,
            value, version
        FROM results
        WHERE kind = 'speed'
    )
    ON quantity
    USING avg(value)
    GROUP BY model, recipe, layer_set, layers, methods, version
),

sizes AS (
    SELECT
        model, recipe, layer_set, array_to_string(layers, ',') AS layers,
        avg(checkpoint_bytes) AS checkpoint_bytes,
        avg(bits_saved_modules_percent) AS bits_saved_modules_percent,
        avg(bits_saved_blocks_percent) AS bits_saved_blocks_percent,
        avg(bits_saved_without_embeddings_percent) AS bits_saved_without_embeddings_percent,
        avg(bits_saved_with_embeddings_percent) AS bits_saved_with_embeddings_percent
    FROM results
    GROUP BY ALL
),

kinds AS (
    SELECT DISTINCT model, recipe, kind
    FROM perplexities
),

dense AS (
    SELECT DISTINCT model, checkpoint_bytes AS dense_checkpoint_bytes
    FROM results
    WHERE recipe = 'baseline'
)

SELECT *
FROM wide
INNER JOIN sizes USING (model, recipe, layer_set, layers)
LEFT JOIN kinds USING (model, recipe)
INNER JOIN dense USING (model)
ORDER BY model, recipe, bits_saved_with_embeddings_percent
