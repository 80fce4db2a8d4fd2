-- What compression does to embeddings of sentences (task `sentence_fidelity`), by bits saved over the
-- whole model: the mean cosine with those of the uncompressed model, and how often the sentence that
-- follows in the text is the nearest, of which `recall_lost` is what the uncompressed model found
-- more, over the same pairs. `half_width`: half of 95 % intervals, over sentences or pairs,
-- of several seeds of recovery over these, whose means the values are.
WITH rows AS (
    SELECT
        model, task, protocol, recipe, layer_set, array_to_string(layers, ',') AS layers,
        metric, state, max(samples) AS samples,
        avg(bits_saved_with_embeddings_percent) AS bits_saved_percent,
        avg(value) AS mean_value,
        half_width(stddev_samp(value), NULL, avg(stderr), min(stderr_samples), count(*)) AS half_width
    FROM results
    WHERE kind = 'sentence_fidelity'
    GROUP BY ALL
)

SELECT
    cosines.model, cosines.task, cosines.recipe, cosines.layers, cosines.bits_saved_percent,
    cosines.mean_value AS cosine, cosines.half_width AS cosine_half_width,
    found.mean_value AS recall, dense.mean_value AS dense_recall,
    lost.mean_value AS recall_lost, lost.half_width AS recall_lost_half_width,
    lost.samples AS pairs
FROM rows AS cosines
INNER JOIN rows AS found USING (model, task, protocol, recipe, layer_set, layers)
INNER JOIN rows AS dense USING (model, task, protocol, recipe, layer_set, layers)
INNER JOIN rows AS lost USING (model, task, protocol, recipe, layer_set, layers)
WHERE
    cosines.metric = 'cosine' AND lost.metric = 'recall_at_1_lost'
    AND found.metric = 'recall_at_1' AND found.state = 'compressed'
    AND dense.metric = 'recall_at_1' AND dense.state = 'dense'
ORDER BY cosines.model, cosines.task, cosines.bits_saved_percent DESC, cosines.recipe
