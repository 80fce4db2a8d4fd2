-- Accuracies of the lm-eval tasks, with standard errors.
SELECT
    model, recipe, layer_set, layers, bits_saved_with_embeddings_percent AS bits_saved_percent,
    task, metric, value, stderr, samples, version
FROM results
WHERE kind IN ('cloze', 'last_word')
ORDER BY model, task, metric, recipe, bits_saved_percent
