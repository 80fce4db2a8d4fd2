-- Super weights of the uncompressed models, found and published, and what drives the ffn.down of
-- every layer: the largest input and output at the same token, and the largest entry.
SELECT
    model,
    task,
    layer,
    metric,
    "row",
    "column",
    value,
    text,
    version
FROM results
WHERE
    kind = 'super_weights' AND recipe = 'baseline'
    AND metric NOT IN ('block_maximum', 'magnitude')
ORDER BY model, task, metric, layer, "row", "column"
