-- Whether it pays how modules share a budget (`allocated`: uniform, importance or loss), in measured
-- loss: every recipe whose budget is shared otherwise than that of the recipe it is compared with, of
-- the same methods, modules and layers, none recovered. `more_nats` per token is what it loses more,
-- paired over the windows, with half of a 95 % interval.
WITH shared AS (
    SELECT DISTINCT
        model, task, protocol, recipe, array_to_string(layers, ',') AS layers, allocated
    FROM results
    WHERE kind = 'perplexity' AND allocated IS NOT NULL
),

runs AS (
    SELECT *
    FROM losses INNER JOIN shared USING (model, task, protocol, recipe, layers)
    WHERE NOT recovered
),

compared AS (
    SELECT
        one, other,
        between_runs(difference(other.window_nats, one.window_nats), other, one) AS apart
    FROM runs AS one INNER JOIN runs AS other
        ON
            other.model = one.model AND other.task = one.task
            AND other.protocol = one.protocol AND other.layers = one.layers
            AND other.recipe = one.compared_with AND other.methods = one.methods
            AND other.module_groups = one.module_groups
            AND other.rounding_bits IS NOT DISTINCT FROM one.rounding_bits
            AND other.allocated <> one.allocated
)

SELECT
    one.model, one.task, one.protocol, one.methods, one.module_groups, one.layers,
    one.recipe, one.allocated, one.bits_saved_percent, one.nats_lost,
    other.recipe AS other_recipe, other.allocated AS other_allocated,
    other.bits_saved_percent AS other_bits_saved_percent, other.nats_lost AS other_nats_lost,
    apart.nats AS more_nats, apart.half_width AS more_half_width
FROM compared
ORDER BY one.model, one.task, one.protocol, one.recipe, one.layers
