-- For each budget (least bits saved, in percent of the model): the run of lowest perplexity,
-- beside the best run that only drops modules, the control that a method must beat.
WITH points AS (
    SELECT
        model, task, recipe, layers,
        bits_saved_with_embeddings_percent AS bits_saved_percent,
        value AS perplexity,
        methods = 'drop' AS is_control
    FROM results
    WHERE kind = 'perplexity' AND metric = 'perplexity' AND recipe <> 'baseline'
),

budgets AS (
    SELECT unnest([1, 2, 5, 10, 15, 20, 30, 40]) AS budget_percent
)

SELECT
    model,
    task,
    budget_percent,
    arg_min(recipe, perplexity) FILTER (NOT is_control) AS recipe,
    arg_min(layers, perplexity) FILTER (NOT is_control) AS layers,
    arg_min(bits_saved_percent, perplexity) FILTER (NOT is_control) AS bits_saved_percent,
    min(perplexity) FILTER (NOT is_control) AS perplexity,
    min(perplexity) FILTER (is_control) AS drop_perplexity
FROM points INNER JOIN budgets ON points.bits_saved_percent >= budgets.budget_percent
GROUP BY model, task, budget_percent
ORDER BY model, task, budget_percent
