-- Perplexities with what they are made of, so that runs can be compared window by window.
-- `window_nats`: loss of every window in nats per token, the mean over seeds; `seeds_half_width` as in
-- `observations`. `even_nats` and `odd_nats` are means over every other window, counted from zero:
-- what is chosen on the one half is judged on the other. `nats_lost_half_width` is paired with the
-- uncompressed model.
WITH windows AS (
    SELECT
        model, task, protocol, recipe, layer_set, layers,
        observations AS window_nats, seeds_half_width,
        list_avg(list_filter(observations, lambda nats, place: place % 2 = 1)) AS even_nats,
        list_avg(list_filter(observations, lambda nats, place: place % 2 = 0)) AS odd_nats
    FROM observations
    WHERE
        kind = 'perplexity' AND metric IN (SELECT quality_metrics.metric FROM quality_metrics)
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
LEFT JOIN uncompressed USING (model, task, protocol)
ORDER BY model, task, protocol, recipe, bits_saved_percent, layers
