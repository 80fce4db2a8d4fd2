-- Would the verdict be another one of a part of the model? Among runs without recovery that compress
-- the same module groups: every run of a tensor format beside the best alternative that saves at
-- least as much, chosen and compared as in `controls`. One row a part: how many runs there are, how
-- many of them are ahead beyond their interval, and the one that leads most.
WITH runs AS (
    SELECT *
    FROM losses
    WHERE recipe <> 'baseline' AND NOT recovered
),

compared AS (
    SELECT
        one.model, one.task, one.protocol, one.module_groups, one.recipe, one.layers,
        any_value(one.bits_saved_percent) AS bits_saved_percent,
        arg_min(other, other.perplexity) AS alternative,
        difference_of_best(
            any_value(one.window_nats), arg_min(other.window_nats, other.even_nats),
            any_value(one.window_nats), arg_min(other.window_nats, other.odd_nats)
        ) AS found,
        between_runs(found, any_value(one), alternative) AS apart
    FROM runs AS one INNER JOIN runs AS other
        ON
            other.model = one.model AND other.task = one.task
            AND other.protocol = one.protocol AND other.module_groups = one.module_groups
            AND other.bits_saved_percent >= one.bits_saved_percent
    WHERE one.approach = 'tensor format' AND NOT other.holds_tensor_format
    GROUP BY ALL
),

leads AS (
    SELECT
        *, alternative.recipe AS alternative_recipe,
        apart.nats AS lead_nats, apart.half_width AS lead_half_width
    FROM compared
    WHERE apart.half_width IS NOT NULL
)

SELECT
    model, task, protocol, module_groups,
    count(*) AS runs,
    count(*) FILTER (lead_nats > lead_half_width) AS ahead,
    count(*) FILTER (lead_nats < -lead_half_width) AS behind,
    arg_max(recipe, lead_nats) AS recipe,
    arg_max(layers, lead_nats) AS layers,
    arg_max(bits_saved_percent, lead_nats) AS bits_saved_percent,
    arg_max(alternative_recipe, lead_nats) AS alternative_recipe,
    max(lead_nats) AS lead_nats,
    arg_max(lead_half_width, lead_nats) AS lead_half_width
FROM leads
GROUP BY model, task, protocol, module_groups
ORDER BY model, task, protocol, module_groups
