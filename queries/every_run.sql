-- Every recipe on every set of layers, also the uncompressed model: what was done, what it saves and
-- loses, a row a perplexity task (one without any where there is none); means over the seeds of
-- recovery. `run`: folder of the checkpoint, of several seeds the first; `checkpoints`: of all.
WITH runs AS (
    SELECT
        model, derived, recipe, recipe_entry, layer_set,
        array_to_string(layers, ',') AS layers, layer_count,
        methods, module_groups, approach, control, rounding_bits, trained,
        min(run) AS run,
        count(DISTINCT run) AS runs,
        list_sort(list(DISTINCT run)) AS checkpoints,
        list_sort(list(DISTINCT seed)) AS seeds,
        avg(dense_bits) AS dense_bits,
        avg(stored_bits) AS stored_bits,
        avg(checkpoint_bytes) AS checkpoint_bytes,
        avg(bits_saved_modules_percent) AS bits_saved_modules_percent,
        avg(bits_saved_blocks_percent) AS bits_saved_blocks_percent,
        avg(bits_saved_without_embeddings_percent) AS bits_saved_without_embeddings_percent,
        avg(bits_saved_with_embeddings_percent) AS bits_saved_percent
    FROM results
    GROUP BY ALL
)

SELECT
    runs.*,
    task, protocol, perplexity, low, high, nats_lost, nats_lost_half_width
FROM runs
LEFT JOIN (
    SELECT
        model, recipe, layer_set, layers,
        task, protocol, perplexity, low, high, nats_lost, nats_lost_half_width
    FROM losses
) USING (model, recipe, layer_set, layers)
ORDER BY model, task, recipe <> 'baseline', bits_saved_percent, recipe, layers
