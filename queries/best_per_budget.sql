-- For each budget (least bits saved, in percent of the model): the run of lowest perplexity,
-- beside the best run that only drops modules, the control that a method must beat, and the best of
-- whitened SVD and of quantisation. Means over seeds; runs measured by different protocols are never
-- put against each other.
WITH points AS (
    SELECT *
    FROM perplexities
    WHERE recipe <> 'baseline'
),

budgets AS (
    SELECT unnest([1, 2, 5, 10, 15, 20, 30, 40]) AS budget_percent
),

found AS (
    SELECT
        model, task, protocol, budget_percent,
        arg_min(points, perplexity) FILTER (control IS DISTINCT FROM 'drop') AS best,
        min(perplexity) FILTER (approach = 'quantisation') AS quantised_perplexity,
        min(perplexity) FILTER (control = 'whitened SVD') AS whitened_svd_perplexity,
        min(perplexity) FILTER (control = 'drop') AS drop_perplexity
    FROM points INNER JOIN budgets ON points.bits_saved_percent >= budgets.budget_percent
    GROUP BY ALL
)

SELECT
    model, task, protocol, budget_percent,
    best.recipe, best.layers, best.kind,
    best.bits_saved_percent, best.perplexity, best.low, best.high,
    quantised_perplexity, whitened_svd_perplexity, drop_perplexity
FROM found
ORDER BY model, task, protocol, budget_percent
