-- Every metric of the uncompressed models, the n-gram baseline among them.
SELECT model, task, kind, metric, value, stderr, samples, version, protocol
FROM results
WHERE recipe = 'baseline' AND layer IS NULL AND prompt IS NULL
ORDER BY model, task, metric
