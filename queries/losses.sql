-- Perplexities with what they are made of, so that runs can be compared window by window: the windows
-- of one protocol are the same ones. `window_nats`: loss of every window in nats per token, the mean
-- over seeds; `seeds_half_width`: half the 95 % interval that seeds leave (zero of one run).
-- `even_nats` and `odd_nats` are means over every other window, counted from zero: what is chosen on
-- the one half is judged on the other. `nats_lost_half_width` is paired with the uncompressed model.
WITH runs AS (
    SELECT
        model, task, protocol, recipe, layer_set, array_to_string(layers, ',') AS layers,
        observations, list_avg(observations) AS mean_nats
    FROM results
    WHERE
        kind = 'perplexity' AND metric IN (SELECT quality_metrics.metric FROM quality_metrics)
        AND observations IS NOT NULL
),

seeds AS (
    SELECT
        model, task, protocol, recipe, layer_set, layers,
        coalesce(half_width(stddev_samp(mean_nats), NULL, NULL, count(*)), 0) AS seeds_half_width
    FROM runs
    GROUP BY ALL
),

observed AS (
    SELECT
        model, task, protocol, recipe, layer_set, layers,
        generate_subscripts(observations, 1) - 1 AS place, unnest(observations) AS nats
    FROM runs
),

means AS (
    SELECT
        model, task, protocol, recipe, layer_set, layers, place,
        avg(nats) AS nats
    FROM observed
    GROUP BY ALL
),

windows AS (
    SELECT
        model, task, protocol, recipe, layer_set, layers,
        list(nats ORDER BY place) AS window_nats,
        avg(nats) FILTER (place % 2 = 0) AS even_nats,
        avg(nats) FILTER (place % 2 = 1) AS odd_nats
    FROM means
    GROUP BY ALL
),

uncompressed AS (
    SELECT model, task, protocol, window_nats AS baseline_nats
    FROM windows
    WHERE recipe = 'baseline'
)

SELECT
    perplexities.*,
    window_nats, even_nats, odd_nats, seeds_half_width,
    coalesce(
        sqrt(difference(baseline_nats, window_nats).half_width ** 2 + seeds_half_width ** 2),
        nats_half_width
    ) AS nats_lost_half_width
FROM perplexities
LEFT JOIN windows USING (model, task, protocol, recipe, layer_set, layers)
LEFT JOIN seeds USING (model, task, protocol, recipe, layer_set, layers)
LEFT JOIN uncompressed USING (model, task, protocol)
ORDER BY model, task, protocol, recipe, bits_saved_percent, layers
