-- What training after compression recovers, adapters counted: each recovered recipe after it and
-- before it, which is the recipe that it is compared with, of the same methods and layers (trained
-- factors may be rounded at the end, which it then pays for). `share_recovered` is of
-- the loss per token that compression cost, where that is beyond noise; its interval is over seeds.
-- `equal_bits`: the best run of the same methods without recovery that saves at least as much as the
-- recovered one, which may spend the adapters' bits on larger ranks. `alternative`: the best run
-- without recovery that holds no tensor format and saves at least as much; `gap_nats` is what the
-- recovered run still loses against it, chosen and compared as in `verdict`. Means over seeds, 95 %
-- intervals.
WITH recovered_runs AS (
    SELECT *
    FROM losses
    WHERE recovered
),

compared AS (
    SELECT
        one.model, one.task, one.protocol, one.recipe, one.layer_set, one.layers,
        any_value(other) FILTER (
            other.recipe = one.compared_with AND other.layers = one.layers
            AND other.methods = one.methods
            AND (
                one.trained = 'factors'
                OR other.rounding_bits IS NOT DISTINCT FROM one.rounding_bits
            )
        ) AS earlier,
        arg_min(other, row(other.perplexity, other.bits_saved_percent)) FILTER (
            other.methods = one.methods
            AND other.rounding_bits IS NOT DISTINCT FROM one.rounding_bits
            AND other.bits_saved_percent >= one.bits_saved_percent
        ) AS equal_bits,
        arg_min(other, other.perplexity) FILTER (
            NOT other.holds_tensor_format
            AND other.bits_saved_percent >= one.bits_saved_percent
        ) AS alternative,
        difference_of_best(
            arg_min(other.window_nats, other.even_nats) FILTER (
                NOT other.holds_tensor_format
                AND other.bits_saved_percent >= one.bits_saved_percent
            ),
            any_value(one.window_nats),
            arg_min(other.window_nats, other.odd_nats) FILTER (
                NOT other.holds_tensor_format
                AND other.bits_saved_percent >= one.bits_saved_percent
            ),
            any_value(one.window_nats)
        ) AS found,
        between_runs(found, alternative, any_value(one)) AS gap
    FROM recovered_runs AS one LEFT JOIN losses AS other
        ON
            other.model = one.model AND other.task = one.task
            AND other.protocol = one.protocol
            AND other.recipe <> 'baseline' AND NOT other.recovered
    GROUP BY ALL
)

SELECT
    model, task, protocol, recipe, trained, approach, kind, layer_set, layers, runs,
    bits_saved_percent, earlier.bits_saved_percent AS before_bits_saved_percent,
    earlier.perplexity AS before_perplexity,
    earlier.low AS before_low, earlier.high AS before_high,
    perplexity, low, high,
    baseline_perplexity,
    CASE
        WHEN earlier.nats_lost > earlier.nats_lost_half_width
            THEN 100 * (1 - nats_lost / earlier.nats_lost)
    END AS share_recovered_percent,
    CASE
        WHEN earlier.nats_lost > earlier.nats_lost_half_width
            THEN 100 * nats_half_width / earlier.nats_lost
    END AS share_half_width_percent,
    equal_bits.recipe AS equal_bits_recipe, equal_bits.layers AS equal_bits_layers,
    equal_bits.perplexity AS equal_bits_perplexity,
    alternative.recipe AS alternative, alternative.kind AS alternative_kind,
    alternative.perplexity AS alternative_perplexity,
    gap.nats AS gap_nats,
    ln(earlier.perplexity / alternative.perplexity) AS before_gap_nats,
    gap.half_width AS gap_half_width, gap.paired AS paired,
    CASE
        WHEN alternative IS NULL THEN 'no alternative'
        WHEN gap_half_width IS NULL THEN 'too few windows'
        WHEN gap_nats < -gap_half_width THEN 'ahead'
        WHEN gap_nats > gap_half_width THEN 'behind'
        ELSE 'within noise'
    END AS standing
FROM recovered_runs
INNER JOIN compared USING (model, task, protocol, recipe, layer_set, layers)
ORDER BY model, task, protocol, recipe, bits_saved_percent, layers
