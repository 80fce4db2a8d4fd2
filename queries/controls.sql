-- Each run beside its controls at equal bytes: the lowest perplexity of each among the runs that
-- save at least as many bits, by the same protocol and, for a run without recovery, without it.
-- `alternative` is the best of all that holds no tensor format; `lead_nats` how much lower the run's
-- loss per token is than that of the best alternative, chosen and compared as in `verdict`.
WITH compared AS (
    SELECT
        one.model, one.task, one.protocol, one.recipe, one.layer_set, one.layers,
        min(other.perplexity) FILTER (other.control = 'RTN-8') AS rtn_8_perplexity,
        min(other.perplexity) FILTER (other.control = 'RTN-4') AS rtn_4_perplexity,
        min(other.perplexity) FILTER (other.control = 'GPTQ') AS gptq_perplexity,
        min(other.perplexity) FILTER (other.control = 'whitened SVD') AS whitened_svd_perplexity,
        min(other.perplexity) FILTER (other.control = 'drop') AS drop_perplexity,
        arg_min(other, other.perplexity) FILTER (
            NOT other.holds_tensor_format AND other.recipe <> one.recipe
        ) AS alternative,
        difference_of_best(
            any_value(one.window_nats),
            arg_min(other.window_nats, other.even_nats) FILTER (
                NOT other.holds_tensor_format AND other.recipe <> one.recipe
            ),
            any_value(one.window_nats),
            arg_min(other.window_nats, other.odd_nats) FILTER (
                NOT other.holds_tensor_format AND other.recipe <> one.recipe
            )
        ) AS found,
        between_runs(found, any_value(one), alternative) AS apart
    FROM losses AS one LEFT JOIN losses AS other
        ON
            other.model = one.model AND other.task = one.task
            AND other.protocol = one.protocol
            AND other.bits_saved_percent >= one.bits_saved_percent
            AND other.recipe <> 'baseline'
            AND (one.recovered OR NOT other.recovered)
    WHERE one.recipe <> 'baseline'
    GROUP BY ALL
),

judged AS (
    SELECT losses.*, compared.* EXCLUDE (model, task, protocol, recipe, layer_set, layers)
    FROM losses INNER JOIN compared USING (model, task, protocol, recipe, layer_set, layers)
)

SELECT
    model, task, protocol, recipe, approach, kind, recovered, layer_set, layers, runs,
    bits_saved_percent, perplexity, low, high,
    rtn_8_perplexity, rtn_4_perplexity, gptq_perplexity,
    whitened_svd_perplexity, drop_perplexity,
    alternative.recipe AS alternative, alternative.kind AS alternative_kind,
    apart.nats AS lead_nats, apart.half_width AS lead_half_width, apart.paired AS paired
FROM judged
ORDER BY model, task, protocol, bits_saved_percent, recipe, layers
