-- Every module, and stack of modules that some format joins, of an uncompressed model: the tensor
-- format of least error beside truncated SVDs of as many values, `ratio` of the two; the same format
-- of the matrices in random orders of rows and columns (`scrambled_ratio`: true error over scrambled,
-- with a 95 % interval over the orders), and its error over the bound that no algorithm beats.
WITH measured AS (
    SELECT
        coalesce(derived, model) AS model,
        task, protocol, layer, concat_ws('~', module, partner) AS stack, stored_by,
        values_saved_percent AS budget,
        any_value(value) FILTER (metric = 'family_error') AS tensor_error,
        any_value(samples) FILTER (metric = 'family_error') AS stored_values,
        any_value(value) FILTER (metric = 'svd_error') AS svd_error,
        any_value(value) FILTER (metric = 'family_bound') AS lower_bound,
        any_value(value) FILTER (metric = 'scrambled_error') AS scrambled_error,
        any_value(half_width(NULL, NULL, stderr, stderr_samples, 1))
            FILTER (metric = 'scrambled_error') AS scrambled_half_width
    FROM results
    WHERE kind = 'best_of_family' AND layer IS NOT NULL
    GROUP BY ALL
)

SELECT
    model, task, protocol, budget, layer, stack, stored_by AS best_format, stored_values,
    tensor_error, svd_error, tensor_error / nullif(svd_error, 0) AS ratio,
    tensor_error / nullif(scrambled_error, 0) AS scrambled_ratio,
    scrambled_ratio * scrambled_half_width / nullif(scrambled_error, 0)
        AS scrambled_ratio_half_width,
    tensor_error / nullif(lower_bound, 0) AS over_bound
FROM measured
QUALIFY row_number() OVER (
    PARTITION BY model, task, protocol, budget, layer, stack ORDER BY tensor_error, stored_by
) = 1
ORDER BY model, task, protocol, budget, stack, layer
