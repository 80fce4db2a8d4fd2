-- Methods compared over all decomposed layers: how much they store and how much error remains.
SELECT
    model,
    "group",
    method_name,
    method,
    count(DISTINCT layer) AS layers,
    100 * (1 - sum(stored_values) / sum(dense_values)) AS values_saved_percent,
    sqrt(sum(relative_error ** 2 * dense_values) / sum(dense_values)) AS relative_error,
    max(stack_error) AS worst_stack_error,
    sum(seconds) AS seconds
FROM decompositions
GROUP BY ALL
ORDER BY model, "group", relative_error
