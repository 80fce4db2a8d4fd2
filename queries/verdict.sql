-- Does a tensor format beat what a user would otherwise pick? For each budget (least bits saved, in
-- percent of the model): the best run, the best tensor format, and the best alternative that saves
-- at least as much. An alternative holds no tensor format; a mixture of tensor formats with something
-- else is on neither side. `lead_nats` is how much lower the tensor format's loss per token is; its
-- interval takes both runs for independent, which is wider than it need be, for they read the same
-- text. With `with_recovery`, runs recovered by LoRA may enter on either side.
WITH budgets AS (
    SELECT unnest([5, 10, 20, 30, 40]) AS budget_percent
),

pools AS (
    SELECT false AS with_recovery, *
    FROM perplexities
    WHERE recipe <> 'baseline' AND NOT recovered
    UNION ALL
    SELECT true AS with_recovery, *
    FROM perplexities
    WHERE
        recipe <> 'baseline'
        AND (model, task, protocol) IN (
            SELECT (model, task, protocol) FROM perplexities WHERE recovered
        )
),

studies AS (
    SELECT
        model, task, protocol, with_recovery,
        list_filter(
            ['RTN-4', 'RTN-8', 'whitened SVD', 'drop'],
            lambda wanted: NOT list_contains(list(control), wanted)
        ) AS missing_controls
    FROM pools
    GROUP BY ALL
),

best AS (
    SELECT
        model, task, protocol, with_recovery, budget_percent,
        arg_min(pools, perplexity) AS best,
        arg_min(pools, perplexity) FILTER (approach = 'tensor format') AS tensor,
        arg_min(pools, perplexity) FILTER (NOT holds_tensor_format) AS other,
        min(perplexity) FILTER (approach = 'quantisation') AS quantised_perplexity,
        min(perplexity) FILTER (control = 'whitened SVD') AS whitened_svd_perplexity,
        min(perplexity) FILTER (control = 'drop') AS drop_perplexity
    FROM pools INNER JOIN budgets ON pools.bits_saved_percent >= budgets.budget_percent
    GROUP BY ALL
),

compared AS (
    SELECT
        *,
        ln(other.perplexity / tensor.perplexity) AS lead_nats,
        sqrt(tensor.nats_half_width ** 2 + other.nats_half_width ** 2) AS lead_half_width
    FROM studies CROSS JOIN budgets
    LEFT JOIN best USING (model, task, protocol, with_recovery, budget_percent)
)

SELECT
    model, task, protocol, with_recovery, budget_percent,
    CASE
        WHEN best IS NULL THEN 'nothing saves so much'
        WHEN tensor IS NULL THEN 'no tensor format'
        WHEN other IS NULL THEN 'no alternative'
        WHEN lead_half_width IS NULL THEN 'too few windows'
        WHEN lead_nats > lead_half_width THEN 'yes'
        WHEN lead_nats < -lead_half_width THEN 'no'
        ELSE 'within noise'
    END AS tensor_format_wins,
    lead_nats, lead_half_width,
    best.recipe AS best_recipe, best.kind AS best_kind, best.layers AS best_layers,
    best.bits_saved_percent AS best_bits_saved_percent,
    best.perplexity AS best_perplexity, best.low AS best_low, best.high AS best_high,
    tensor.recipe AS tensor_recipe, tensor.layers AS tensor_layers,
    tensor.bits_saved_percent AS tensor_bits_saved_percent,
    tensor.perplexity AS tensor_perplexity, tensor.low AS tensor_low, tensor.high AS tensor_high,
    other.recipe AS alternative_recipe, other.kind AS alternative_kind,
    other.bits_saved_percent AS alternative_bits_saved_percent,
    other.perplexity AS alternative_perplexity,
    other.low AS alternative_low, other.high AS alternative_high,
    quantised_perplexity, whitened_svd_perplexity, drop_perplexity,
    array_to_string(missing_controls, ', ') AS missing_controls
FROM compared
ORDER BY model, task, protocol, with_recovery, budget_percent
