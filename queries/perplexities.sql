-- Perplexity (of masked models pseudo-perplexity) of every recipe on every set of layers: the mean
-- over the seeds of its recovery, with a 95 % interval from Student's t over seeds, or, where there is one run, over the windows of the
-- evaluation; of one window there is none. `nats_lost` per token is over the uncompressed model, by the same protocol.
-- `approach` follows from the methods.
WITH runs AS (
    SELECT
        model, task, protocol, recipe, methods, layer_set, layers, layer_count,
        min(run) AS run,
        count(*) AS runs,
        avg(bits_saved_with_embeddings_percent) AS bits_saved_percent,
        avg(bits_saved_modules_percent) AS bits_saved_modules_percent,
        min(modules_dense_bits) AS modules_dense_bits,
        avg(value) AS perplexity,
        -- what one window says is no sample of the text, whatever the seeds say
        CASE
            WHEN count(stderr) = count(*)
                THEN half_width(stddev_samp(value), avg(stderr), min(stderr_samples), count(*))
        END AS half_width
    FROM results
    WHERE
        kind = 'perplexity'
        -- what follows takes less for better
        AND metric IN (SELECT objectives.metric FROM objectives WHERE lower_is_better)
    GROUP BY ALL
),

uncompressed AS (
    SELECT model, task, protocol, perplexity AS baseline_perplexity
    FROM runs
    WHERE recipe = 'baseline'
),

named AS (
    SELECT
        *,
        methods LIKE '%lora' AS recovered,
        regexp_replace(methods, '\+lora$', '') AS compression
    FROM runs
)

SELECT
    model, task, protocol, recipe, methods, layer_set, layers, layer_count, run, runs, recovered,
    CASE
        WHEN recipe = 'baseline' THEN 'uncompressed'
        WHEN regexp_matches(compression, '(^|\+)(tt|tucker|td_moe)') THEN 'tensor format'
        WHEN regexp_full_match(compression, 'dense\+int\d') THEN 'RTN-' || right(compression, 1)
        WHEN compression = 'gptq' THEN 'GPTQ'
        WHEN compression = 'advised' THEN 'advised'
        WHEN compression = 'svd-whitened' THEN 'whitened SVD'
        WHEN compression = 'svd' THEN 'SVD'
        WHEN compression = 'drop' THEN 'drop'
        ELSE 'other'
    END AS approach,
    bits_saved_percent, bits_saved_modules_percent, modules_dense_bits,
    perplexity, half_width,
    CASE WHEN half_width IS NOT NULL THEN greatest(perplexity - half_width, 1) END AS low,
    perplexity + half_width AS high,
    ln(perplexity / baseline_perplexity) AS nats_lost,
    half_width / perplexity AS nats_half_width,
    baseline_perplexity
FROM named LEFT JOIN uncompressed USING (model, task, protocol)
ORDER BY model, task, protocol, recipe, bits_saved_percent, layers
