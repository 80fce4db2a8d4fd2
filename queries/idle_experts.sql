-- Experts that no token of a mixture's diagnostics reached, by layer, before and after compression: how
-- many, which, and of how many tokens. The uncompressed model stands once, not with every run.
WITH counted AS (
    SELECT
        model, derived, task, protocol, recipe, layer_set,
        array_to_string(layers, ',') AS layers,
        layer, state, value, text, samples
    FROM results
    WHERE kind = 'moe' AND metric = 'experts_without_tokens'
),

named AS (
    SELECT
        model, task, protocol, layer, state,
        CASE WHEN state = 'compressed' THEN recipe || ' ' || CASE
            WHEN min(layers) OVER line = max(layers) OVER line THEN layer_set
            ELSE layers
        END ELSE coalesce(derived, '') END AS run,
        value::BIGINT AS experts_without_tokens,
        text AS experts,
        samples AS tokens
    FROM counted
    WINDOW line AS (PARTITION BY model, task, protocol, recipe, layer_set)
)

SELECT DISTINCT *
FROM named
WHERE experts_without_tokens > 0
ORDER BY model, task, protocol, layer, run
