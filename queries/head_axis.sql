-- How much of the published mismatch is the published layout: recipes that share Q, K, V and O with
-- the heads split (`right`, layout `tensorllm`) and with the residual stream split in their place
-- (`published`, which is compared with the other), on the same layers, against SVD of the same
-- modules at equal bytes: the best that saves at least as much as either, up to a point of the
-- modules' bits; a whitened one if there is any. Gaps are nats per token over it; `share_remaining`
-- is the right layout's gap over the published one's, given where the latter is beyond noise. Means
-- over seeds, 95 % intervals by linear propagation, the three evaluations taken for independent,
-- though they read the same text.
WITH pairs AS (
    SELECT
        split.model, split.task, split.protocol, split.recipe AS pair, split.layer_set, split.layers,
        split.modules_dense_bits,
        split AS heads,
        published
    FROM perplexities AS split INNER JOIN perplexities AS published
        ON
            published.model = split.model AND published.task = split.task
            AND published.protocol = split.protocol
            AND published.compared_with = split.recipe
            AND published.layer_set = split.layer_set AND published.layers = split.layers
            AND published.methods = split.methods
            AND published.head_layout = 'published'
            AND split.head_layout = 'tensorllm'
),

compared AS (
    SELECT
        pairs.model, pairs.task, pairs.protocol, pairs.pair, pairs.layer_set, pairs.layers,
        heads, published,
        coalesce(
            arg_min(reference, reference.perplexity)
                FILTER (reference.control = 'whitened SVD'),
            arg_min(reference, reference.perplexity)
        ) AS svd
    FROM pairs LEFT JOIN perplexities AS reference
        ON
            reference.model = pairs.model AND reference.task = pairs.task
            AND reference.protocol = pairs.protocol AND reference.layers = pairs.layers
            AND reference.control IN ('whitened SVD', 'SVD')
            AND reference.recovered = heads.recovered
            AND reference.modules_dense_bits = pairs.modules_dense_bits
            AND reference.bits_saved_modules_percent + 1 >= greatest(
                heads.bits_saved_modules_percent, published.bits_saved_modules_percent
            )
    GROUP BY ALL
),

gaps AS (
    SELECT
        *,
        ln(published.perplexity / svd.perplexity) AS published_gap_nats,
        sqrt(published.nats_half_width ** 2 + svd.nats_half_width ** 2) AS published_gap_half_width,
        ln(heads.perplexity / svd.perplexity) AS right_gap_nats,
        sqrt(heads.nats_half_width ** 2 + svd.nats_half_width ** 2) AS right_gap_half_width
    FROM compared
)

SELECT
    model, task, protocol, pair, layer_set, layers,
    heads.layer_count AS layer_count,
    heads.recipe AS right_recipe, published.recipe AS published_recipe,
    heads.bits_saved_percent AS right_bits_saved_percent,
    published.bits_saved_percent AS published_bits_saved_percent,
    heads.perplexity AS right_perplexity, heads.low AS right_low, heads.high AS right_high,
    published.perplexity AS published_perplexity,
    published.low AS published_low, published.high AS published_high,
    ln(published.perplexity / heads.perplexity) AS nats_gained,
    sqrt(heads.nats_half_width ** 2 + published.nats_half_width ** 2) AS nats_gained_half_width,
    svd.recipe AS svd_recipe, svd.control AS svd_control,
    svd.bits_saved_percent AS svd_bits_saved_percent, svd.perplexity AS svd_perplexity,
    published_gap_nats, published_gap_half_width,
    right_gap_nats, right_gap_half_width,
    CASE
        WHEN published_gap_nats > published_gap_half_width
            THEN right_gap_nats / published_gap_nats
    END AS share_remaining,
    CASE
        WHEN published_gap_nats > published_gap_half_width
            THEN sqrt(
                heads.nats_half_width ** 2
                + (share_remaining * published.nats_half_width) ** 2
                + ((1 - share_remaining) * svd.nats_half_width) ** 2
            ) / published_gap_nats
    END AS share_half_width
FROM gaps
ORDER BY model, task, protocol, pair, layer_count, layers
