-- What compressing one layer alone does: runs of exactly one layer, with the rise of perplexity
-- over the uncompressed model and the mean reconstruction error of the modules they replace.
WITH single AS (
    SELECT
        model, task, recipe, methods, layers,
        bits_saved_with_embeddings_percent AS bits_saved_percent,
        value AS perplexity
    FROM results
    WHERE kind = 'perplexity' AND metric = 'perplexity' AND layer_count = 1
),

baseline AS (
    SELECT model, task, value AS perplexity
    FROM results
    WHERE kind = 'perplexity' AND metric = 'perplexity' AND recipe = 'baseline'
)

SELECT
    single.model,
    single.task,
    single.recipe,
    single.methods,
    cast(single.layers AS INTEGER) AS layer,
    single.bits_saved_percent,
    single.perplexity,
    100 * (single.perplexity / baseline.perplexity - 1) AS perplexity_rise_percent,
    ln(single.perplexity / baseline.perplexity) AS nats_lost
FROM single INNER JOIN baseline USING (model, task)
ORDER BY single.model, single.task, single.recipe, layer
