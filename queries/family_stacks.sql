-- The same by stack, over layers, and over all stacks (`of_all`): in how many any tensor format errs
-- less than SVD of as many values (by more than a thousandth), and means of the ratios.
SELECT
    model, task, protocol, budget,
    coalesce(stack, 'all') AS stack,
    count(*) AS compared,
    count(*) FILTER (ratio < 0.999) AS tensor_format_wins,
    avg(ratio) AS mean_ratio, min(ratio) AS least_ratio,
    avg(scrambled_ratio) AS mean_scrambled_ratio,
    count(*) FILTER (scrambled_ratio + scrambled_ratio_half_width < 1) AS order_matters,
    avg(over_bound) AS mean_over_bound,
    mode(best_format) AS most_often_best,
    grouping(stack) = 1 AS of_all
FROM family
GROUP BY GROUPING SETS (
    (model, task, protocol, budget, stack), (model, task, protocol, budget)
)
ORDER BY model, task, protocol, budget, of_all DESC, stack
