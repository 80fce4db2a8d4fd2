-- Perplexity against bits saved, for every recipe and set of layers; `efficient` marks the Pareto
-- envelope: nothing else of the model saves at least as much at a lower perplexity, measured by the
-- same protocol.
WITH compared AS (
    SELECT
        one.model, one.task, one.protocol, one.recipe, one.layer_set, one.layers,
        coalesce(bool_or(other.recipe IS NOT NULL), false) AS beaten
    FROM perplexities AS one LEFT JOIN perplexities AS other
        ON
            other.model = one.model AND other.task = one.task
            AND other.protocol = one.protocol
            AND other.bits_saved_percent >= one.bits_saved_percent
            AND other.perplexity <= one.perplexity
            AND (
                other.bits_saved_percent > one.bits_saved_percent
                OR other.perplexity < one.perplexity
            )
    GROUP BY ALL
)

SELECT
    model, task, protocol, recipe, approach, kind, layer_set, layers, layer_count, runs, recovered,
    bits_saved_percent, perplexity, low, high, nats_lost, baseline_perplexity,
    NOT beaten AS efficient
FROM perplexities INNER JOIN compared USING (model, task, protocol, recipe, layer_set, layers)
ORDER BY model, task, protocol, recipe, bits_saved_percent, layers
