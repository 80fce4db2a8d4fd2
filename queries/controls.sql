-- Each run beside its controls at equal bytes: the lowest perplexity of each among the runs that
-- save at least as many bits, by the same protocol and, for a run without recovery, without it.
-- `alternative` is the best of all that holds no tensor format; `lead_nats` how much lower the run's
-- loss per token is, its interval as in `verdict`.
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
        ) AS alternative
    FROM perplexities AS one LEFT JOIN perplexities AS other
        ON
            other.model = one.model AND other.task = one.task
            AND other.protocol = one.protocol
            AND other.bits_saved_percent >= one.bits_saved_percent
            AND other.recipe <> 'baseline'
            AND (one.recovered OR NOT other.recovered)
    WHERE one.recipe <> 'baseline'
    GROUP BY ALL
)

SELECT
    model, task, protocol, recipe, approach, kind, recovered, layer_set, layers, runs,
    bits_saved_percent, perplexity, low, high,
    rtn_8_perplexity, rtn_4_perplexity, gptq_perplexity,
    whitened_svd_perplexity, drop_perplexity,
    alternative.recipe AS alternative, alternative.kind AS alternative_kind,
    ln(alternative.perplexity / perplexity) AS lead_nats,
    sqrt(nats_half_width ** 2 + alternative.nats_half_width ** 2) AS lead_half_width
FROM perplexities INNER JOIN compared USING (model, task, protocol, recipe, layer_set, layers)
ORDER BY model, task, protocol, bits_saved_percent, recipe, layers
