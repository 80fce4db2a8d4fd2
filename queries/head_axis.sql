-- How much of the published mismatch is the published layout: recipes that share Q, K, V and O with
-- the heads split (`right`, layout `tensorllm`) and with the residual stream split in their place
-- (`published`, which is compared with the other), on the same layers, against SVD of the same
-- modules at equal bytes: the best that saves at least as much as either, up to a point of the
-- modules' bits; a whitened one if there is any. Gaps are nats per token over it; `share_remaining`
-- is the right layout's gap over the published one's, given where the latter is beyond noise. Means
-- over seeds; 95 % intervals are of the windows' differences (of their combination, to first order,
-- for the share), or, where losses of the windows are unknown, of evaluations taken for independent.
WITH pairs AS (
    SELECT
        split.model, split.task, split.protocol, split.recipe AS pair, split.layer_set, split.layers,
        split.modules_dense_bits,
        split AS heads,
        published
    FROM losses AS split INNER JOIN losses AS published
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
    FROM pairs LEFT JOIN losses AS reference
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
        between_runs(difference(svd.window_nats, published.window_nats), svd, published)
            AS published_gap,
        between_runs(difference(svd.window_nats, heads.window_nats), svd, heads) AS right_gap,
        between_runs(difference(heads.window_nats, published.window_nats), heads, published)
            AS gain
    FROM compared
),

shares AS (
    SELECT
        *,
        CASE
            WHEN published_gap.nats > published_gap.half_width
                THEN right_gap.nats / published_gap.nats
        END AS share
    FROM gaps
),

spreads AS (
    -- to first order the share moves as the right layout's loss does over this mixture of the others
    SELECT
        *,
        difference(
            list_transform(
                list_zip(published.window_nats, svd.window_nats),
                lambda pair: share * pair[1] + (1 - share) * pair[2]
            ),
            heads.window_nats
        ) AS over_mixture
    FROM shares
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
    gain.nats AS nats_gained, gain.half_width AS nats_gained_half_width,
    svd.recipe AS svd_recipe, svd.control AS svd_control,
    svd.bits_saved_percent AS svd_bits_saved_percent, svd.perplexity AS svd_perplexity,
    published_gap.nats AS published_gap_nats, published_gap.half_width AS published_gap_half_width,
    right_gap.nats AS right_gap_nats, right_gap.half_width AS right_gap_half_width,
    right_gap.paired AS paired,
    share AS share_remaining,
    CASE
        WHEN over_mixture IS NULL
            THEN sqrt(
                heads.nats_half_width ** 2
                + (share * published.nats_half_width) ** 2
                + ((1 - share) * svd.nats_half_width) ** 2
            ) / published_gap.nats
        ELSE sqrt(
            over_mixture.half_width ** 2
            + heads.seeds_half_width ** 2
            + (share * published.seeds_half_width) ** 2
            + ((1 - share) * svd.seeds_half_width) ** 2
        ) / published_gap.nats
    END AS share_half_width
FROM spreads
ORDER BY model, task, protocol, pair, layer_count, layers
