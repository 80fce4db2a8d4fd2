-- What each run says after the fixed prompts, beside how sure it is of its words.
SELECT
    model, prompt, recipe, layer_set, array_to_string(layers, ',') AS layers,
    bits_saved_with_embeddings_percent AS bits_saved_percent,
    text,
    max(value) FILTER (metric = 'tokens') AS tokens,
    max(value) FILTER (metric = 'mean_log_probability') AS mean_log_probability
FROM results
WHERE kind = 'generation' AND prompt IS NOT NULL
GROUP BY ALL
ORDER BY model, prompt, bits_saved_percent, recipe
