-- Sharing penalty of every stack of every layer and budget, with both errors, the HOSVD bounds of
-- the shared one and its ranks.
SELECT
    model, task, protocol, layer, comparison, part, subject AS stack, budget,
    max(value) FILTER (WHERE metric = 'sharing_penalty' AND state IS NULL) AS sharing_penalty,
    max(value) FILTER (WHERE metric = 'sharing_penalty' AND state = 'random') AS noise_penalty,
    max(value) FILTER (WHERE metric = 'shared_error') AS shared_error,
    max(value) FILTER (WHERE metric = 'separate_error') AS separate_error,
    max(value) FILTER (WHERE metric = 'hosvd_lower') AS hosvd_lower,
    max(value) FILTER (WHERE metric = 'hosvd_upper') AS hosvd_upper,
    max(text) AS ranks
FROM compared_parts
WHERE values_saved_percent IS NOT NULL
GROUP BY ALL
ORDER BY model, task, protocol, comparison, stack, budget, layer
