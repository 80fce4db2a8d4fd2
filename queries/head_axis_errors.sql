-- Reconstruction error of Q, K, V and O with the heads split (`right`) and with the residual stream
-- split in their place (`published`: the same method with no other setting changed), by layer and
-- module. `mean_ratio` is over layers: the geometric mean of right over published, each layer's
-- the mean over its modules, with a 95 % interval from Student's t over layers.
WITH pairs AS (
    SELECT
        split.model, split.method_name AS pair, split.method, split.layer, split.module,
        split.relative_error AS right_error,
        published.relative_error AS published_error
    FROM decompositions AS split INNER JOIN decompositions AS published
        ON
            published.model = split.model AND published.method = split.method
            AND published.settings = split.settings
            AND published.layer = split.layer AND published.module = split.module
            AND published.relative_error > 0 AND published.head_layout = 'published'
            AND split.relative_error > 0 AND split.head_layout = 'tensorllm'
),

by_layer AS (
    SELECT model, pair, layer, avg(ln(right_error / published_error)) AS log_ratio
    FROM pairs
    GROUP BY ALL
),

over_layers AS (
    SELECT
        model, pair,
        count(*) AS layers,
        count(*) FILTER (log_ratio < 0) AS layers_where_right_is_better,
        avg(log_ratio) AS mean_log_ratio,
        half_width(stddev_samp(log_ratio), NULL, NULL, NULL, count(*)) AS log_half_width
    FROM by_layer
    GROUP BY ALL
)

SELECT
    model, pair, method, layer, module, right_error, published_error,
    right_error / published_error AS ratio,
    layers, layers_where_right_is_better,
    exp(mean_log_ratio) AS mean_ratio,
    exp(mean_log_ratio - log_half_width) AS mean_ratio_low,
    exp(mean_log_ratio + log_half_width) AS mean_ratio_high
FROM pairs INNER JOIN over_layers USING (model, pair)
ORDER BY model, pair, layer, module
