-- The study's figure: perplexity against bits saved, one line per recipe. Recipes that compress one
-- layer at a time are left out, and a run that several recipes share stands with the longest line.
WITH points AS (
    SELECT
        model, task, recipe, methods, layers, run,
        bits_saved_with_embeddings_percent AS bits_saved_percent,
        value AS perplexity,
        stderr,
        count(*) OVER (PARTITION BY model, task, recipe) AS line_length,
        count(*) OVER (PARTITION BY model, task, recipe, layer_count) AS same_count
    FROM results
    WHERE kind = 'perplexity' AND metric = 'perplexity' AND recipe <> 'baseline'
),

lines AS (
    SELECT *
    FROM points
    WHERE (model, task, recipe) NOT IN (
        SELECT (model, task, recipe) FROM points WHERE same_count > 1
    )
)

SELECT model, task, recipe, methods, layers, bits_saved_percent, perplexity, stderr
FROM lines
QUALIFY row_number() OVER (
    PARTITION BY model, task, run ORDER BY line_length DESC, recipe
) = 1
ORDER BY model, task, recipe, bits_saved_percent
