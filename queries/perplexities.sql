-- Perplexity (of masked models pseudo-perplexity) of every recipe on every set of layers: the mean
-- over the seeds of its recovery, with a 95 % interval from Student's t over seeds, or, where there
-- is one run, over blocks of the evaluation's windows; of one window there is none. `nats_lost` per token
-- is over the uncompressed model, by the same protocol. `kind` is what figures and sentences call a
-- run: the control that it is, else its approach.
WITH runs AS (
    SELECT
        model, task, protocol, recipe, compared_with, methods,
        module_groups, approach, holds_tensor_format, advised, control, rounding_bits, trained,
        head_layout,
        layer_set, array_to_string(layers, ',') AS layers, layer_count,
        CASE WHEN layer_count = 1 THEN results.layers[1] END AS only_layer,
        min(run) AS run,
        count(*) AS runs,
        avg(bits_saved_with_embeddings_percent) AS bits_saved_percent,
        avg(bits_saved_modules_percent) AS bits_saved_modules_percent,
        min(modules_dense_bits) AS modules_dense_bits,
        avg(value) AS perplexity,
        -- what one window says is no sample of the text, whatever the seeds say
        CASE
            WHEN count(stderr) = count(*)
                THEN half_width(
                    stddev_samp(value), avg(value) * mean_half_width(any_value(observations)),
                    avg(stderr), min(stderr_samples), count(*)
                )
        END AS half_width
    FROM results
    WHERE kind = 'perplexity' AND metric IN (SELECT quality_metrics.metric FROM quality_metrics)
    GROUP BY ALL
),

uncompressed AS (
    SELECT model, task, protocol, perplexity AS baseline_perplexity
    FROM runs
    WHERE recipe = 'baseline'
)

SELECT
    model, task, protocol, recipe, compared_with, methods,
    module_groups, approach, holds_tensor_format, advised, control, coalesce(control, approach) AS kind,
    rounding_bits, trained IS NOT NULL AS recovered, trained, head_layout,
    layer_set, layers, layer_count, only_layer, run, runs,
    bits_saved_percent, bits_saved_modules_percent, modules_dense_bits,
    perplexity, half_width,
    -- one that reaches below 1, which no perplexity does, is that of the logarithm
    CASE WHEN perplexity - half_width > 1 THEN perplexity - half_width
        WHEN half_width IS NOT NULL
        THEN greatest(perplexity * exp(-half_width / perplexity), 1) END AS low,
    perplexity + half_width AS high,
    ln(perplexity / baseline_perplexity) AS nats_lost,
    half_width / perplexity AS nats_half_width,
    baseline_perplexity
FROM runs LEFT JOIN uncompressed USING (model, task, protocol)
ORDER BY model, task, protocol, recipe, bits_saved_percent, layers
