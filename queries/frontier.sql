-- Every run as a point of the frontier: bits saved against loss per token over the uncompressed
-- model. `class`: `advised` where pre-flight advice chose the methods of the modules; `combination`
-- of approaches, also of one with rounded factors; else what the approach is. `efficient_of_class`:
-- of those without recovery, none of its class loses no more and saves more, or saves no less and
-- loses less.
WITH points AS (
    SELECT
        *,
        CASE
            WHEN advised THEN 'advised'
            WHEN approach IN ('hybrid', 'mixture') THEN 'combination'
            WHEN rounding_bits IS NOT NULL AND approach <> 'quantisation' THEN 'combination'
            ELSE approach
        END AS class
    FROM losses
    WHERE recipe <> 'baseline'
)

SELECT
    model, task, protocol, class, recipe, methods, approach, holds_tensor_format, module_groups,
    rounding_bits, recovered, layer_set, layers, run, runs, bits_saved_percent,
    perplexity, low, high, nats_lost, nats_lost_half_width, window_nats,
    NOT recovered AND nats_lost < coalesce(min(nats_lost) OVER saving_more, 'inf')
        AS efficient_of_class
FROM points
WINDOW saving_more AS (
    PARTITION BY model, task, protocol, recovered, class
    ORDER BY bits_saved_percent DESC, nats_lost, recipe, layers
    ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
)
ORDER BY model, task, protocol, bits_saved_percent, recipe, layers
