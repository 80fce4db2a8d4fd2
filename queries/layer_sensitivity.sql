-- What compressing one layer alone does: runs of exactly one layer, with the rise of perplexity
-- over the uncompressed model, measured by the same protocol; means over seeds, 95 % intervals, that
-- of the loss paired with the uncompressed model.
SELECT
    model, task, protocol, recipe, methods, kind, recovered, run, runs,
    only_layer AS layer,
    bits_saved_percent,
    perplexity, low, high,
    100 * (perplexity / baseline_perplexity - 1) AS perplexity_rise_percent,
    nats_lost, nats_lost_half_width
FROM losses
WHERE only_layer IS NOT NULL AND baseline_perplexity IS NOT NULL
ORDER BY model, task, protocol, recipe, layer
