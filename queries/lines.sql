-- The study's figure: perplexity against bits saved, one line per recipe. Recipes that compress one
-- layer at a time are left out, and a run that several recipes share stands with the longest line.
WITH points AS (
    SELECT
        *,
        count(*) OVER (PARTITION BY model, task, protocol, recipe) AS line_length,
        count(*) OVER (PARTITION BY model, task, protocol, recipe, layer_count) AS same_count
    FROM perplexities
    WHERE recipe <> 'baseline'
),

lines AS (
    SELECT *
    FROM points
    WHERE (model, task, protocol, recipe) NOT IN (
        SELECT (model, task, protocol, recipe) FROM points WHERE same_count > 1
    )
)

SELECT
    model, task, protocol, recipe, methods, approach, kind, recovered, layers, runs,
    bits_saved_percent, perplexity, low, high
FROM lines
QUALIFY row_number() OVER (
    PARTITION BY model, task, protocol, run ORDER BY line_length DESC, recipe
) = 1
ORDER BY model, task, protocol, recipe, bits_saved_percent
