-- What every value is made of, mean over the seeds of its recovery: loss of every window in nats, or
-- what every item says. Of one protocol they are the same windows or items, so that runs can be
-- compared one by one. `seeds_half_width`: half the 95 % interval of the mean that seeds leave (zero
-- of one run); `outcomes` are those of a single run.
WITH runs AS (
    SELECT
        model, task, kind, protocol, recipe, layer_set, array_to_string(layers, ',') AS layers,
        metric, observations, list_avg(observations) AS mean_value
    FROM results
    WHERE observations IS NOT NULL
),

seeds AS (
    SELECT
        model, task, kind, protocol, recipe, layer_set, layers, metric,
        coalesce(half_width(stddev_samp(mean_value), NULL, NULL, NULL, count(*)), 0) AS seeds_half_width,
        CASE WHEN count(*) = 1 THEN any_value(observations) END AS outcomes
    FROM runs
    GROUP BY ALL
),

observed AS (
    SELECT
        model, task, kind, protocol, recipe, layer_set, layers, metric,
        generate_subscripts(observations, 1) AS place, unnest(observations) AS observation
    FROM runs
),

means AS (
    SELECT
        model, task, kind, protocol, recipe, layer_set, layers, metric, place,
        avg(observation) AS mean_observation
    FROM observed
    GROUP BY ALL
),

lists AS (
    SELECT
        model, task, kind, protocol, recipe, layer_set, layers, metric,
        list(mean_observation ORDER BY place) AS observations
    FROM means
    GROUP BY ALL
)

SELECT
    model, task, kind, protocol, recipe, layer_set, layers, metric,
    observations, seeds_half_width, outcomes
FROM lists INNER JOIN seeds
    USING (model, task, kind, protocol, recipe, layer_set, layers, metric)
ORDER BY model, task, protocol, metric, recipe, layers
