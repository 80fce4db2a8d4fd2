-- Perplexity against bits saved, for every run; `efficient` marks the Pareto envelope: no other
-- run of the model saves at least as much at a lower perplexity.
WITH points AS (
    SELECT
        model, task, recipe, layer_set, layers, layer_count,
        bits_saved_with_embeddings_percent AS bits_saved_percent,
        value AS perplexity,
        stderr
    FROM results
    WHERE kind = 'perplexity' AND metric = 'perplexity'
)

SELECT
    *,
    NOT EXISTS (
        SELECT 1 FROM points AS other
        WHERE
            other.model = points.model AND other.task = points.task
            AND other.bits_saved_percent >= points.bits_saved_percent
            AND other.perplexity <= points.perplexity
            AND (
                other.bits_saved_percent > points.bits_saved_percent
                OR other.perplexity < points.perplexity
            )
    ) AS efficient
FROM points
ORDER BY model, task, recipe, bits_saved_percent, layers
