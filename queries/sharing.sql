-- Sharing penalty of every stack of every layer and budget, with both errors, the HOSVD bounds of
-- the shared one and its ranks.
SELECT
    model, task, protocol, layer,
    CASE
        WHEN subject LIKE '% heads' THEN 'heads of a projection'
        WHEN subject LIKE '% experts' THEN 'experts of a projection'
        WHEN subject LIKE '% layers %' THEN 'neighbouring layers'
        ELSE 'modules of a layer'
    END AS comparison,
    regexp_replace(subject, ' layers \d+~\d+$', ' layers') AS stack,
    version AS budget,
    max(value) FILTER (WHERE metric = 'sharing_penalty') AS sharing_penalty,
    max(value) FILTER (WHERE metric = 'sharing_penalty_random') AS noise_penalty,
    max(value) FILTER (WHERE metric = 'shared_error') AS shared_error,
    max(value) FILTER (WHERE metric = 'separate_error') AS separate_error,
    max(value) FILTER (WHERE metric = 'hosvd_lower') AS hosvd_lower,
    max(value) FILTER (WHERE metric = 'hosvd_upper') AS hosvd_upper,
    max(text) AS ranks
FROM results
WHERE kind = 'heterogeneity' AND version LIKE '% of values saved'
GROUP BY ALL
ORDER BY model, task, protocol, comparison, stack, budget, layer
