-- Every metric of the uncompressed models, the n-gram baseline among them.
SELECT model, task, kind, metric, value, stderr, samples, version
FROM results
WHERE recipe = 'baseline'
ORDER BY model, task, metric
