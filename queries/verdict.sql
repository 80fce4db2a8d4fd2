-- Does a tensor format beat what a user would otherwise pick? For each budget (least bits saved, in
-- percent of the model): the best run, the best tensor format, and the best alternative that saves
-- at least as much. An alternative holds no tensor format; a mixture of tensor formats with something
-- else is on neither side. `lead_nats` is how much lower the tensor format's loss per token is: each
-- side's best is chosen on every other window and the two are compared on the windows between, paired,
-- and the same with the halves exchanged. Without losses of the windows (`paired` is false) the two
-- shown are compared as if they had read different texts. `holm_p`: of no difference, by Holm's
-- correction for the budgets of the table; a lead is one below 0.05. With `with_recovery`, runs
-- recovered by training may enter on either side.
WITH budgets AS (
    SELECT unnest([5, 10, 20, 30, 40]) AS budget_percent
),

pools AS (
    SELECT false AS with_recovery, *
    FROM losses
    WHERE recipe <> 'baseline' AND NOT recovered
    UNION ALL
    SELECT true AS with_recovery, *
    FROM losses
    WHERE
        recipe <> 'baseline'
        AND (model, task, protocol) IN (
            SELECT (model, task, protocol) FROM losses WHERE recovered
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
        difference_of_best(
            arg_min(window_nats, even_nats) FILTER (approach = 'tensor format'),
            arg_min(window_nats, even_nats) FILTER (NOT holds_tensor_format),
            arg_min(window_nats, odd_nats) FILTER (approach = 'tensor format'),
            arg_min(window_nats, odd_nats) FILTER (NOT holds_tensor_format)
        ) AS found,
        min(perplexity) FILTER (approach = 'quantisation') AS quantised_perplexity,
        min(perplexity) FILTER (control = 'whitened SVD') AS whitened_svd_perplexity,
        min(perplexity) FILTER (control = 'drop') AS drop_perplexity
    FROM pools INNER JOIN budgets ON pools.bits_saved_percent >= budgets.budget_percent
    GROUP BY ALL
),

compared AS (
    SELECT *, between_runs(found, tensor, other) AS apart
    FROM studies CROSS JOIN budgets
    LEFT JOIN best USING (model, task, protocol, with_recovery, budget_percent)
),

tested AS (
    SELECT *, two_sided(apart.nats, apart.half_width, apart.degrees) AS p
    FROM compared
),

ranked AS (
    -- Holm: the k-th smallest of m counts m - k + 1 times, and no less than the one before
    SELECT
        *,
        least(1, p * (count(p) OVER study - row_number() OVER (study ORDER BY p) + 1)) AS step
    FROM tested
    WINDOW study AS (PARTITION BY model, task, protocol, with_recovery)
),

corrected AS (
    SELECT
        *,
        CASE WHEN p IS NOT NULL THEN max(step) OVER (
            PARTITION BY model, task, protocol, with_recovery ORDER BY p
        ) END AS holm_p
    FROM ranked
)

SELECT
    model, task, protocol, with_recovery, budget_percent,
    CASE
        WHEN best IS NULL THEN 'nothing saves so much'
        WHEN tensor IS NULL THEN 'no tensor format'
        WHEN other IS NULL THEN 'no alternative'
        WHEN holm_p IS NULL THEN 'too few windows'
        WHEN holm_p >= 0.05 THEN 'within noise'
        WHEN apart.nats > 0 THEN 'yes'
        ELSE 'no'
    END AS tensor_format_wins,
    CASE tensor_format_wins
        WHEN 'yes' THEN 'wins'
        WHEN 'no' THEN 'loses'
        WHEN 'within noise'
            THEN format('no difference larger than {:.3g}', abs(apart.nats) + apart.half_width)
        ELSE tensor_format_wins
    END AS tensor_format,
    apart.nats AS lead_nats, apart.half_width AS lead_half_width, apart.paired AS paired, holm_p,
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
FROM corrected
ORDER BY model, task, protocol, with_recovery, budget_percent
