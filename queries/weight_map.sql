-- Magnitudes in the ffn.down of the layers with a super weight (without any: with the largest
-- entry): maxima of blocks, by their first row and column, and single entries around the weight.
SELECT
    model,
    task,
    layer,
    metric,
    "row",
    "column",
    value AS magnitude
FROM results
WHERE kind = 'super_weights' AND recipe = 'baseline' AND metric IN ('block_maximum', 'magnitude')
ORDER BY model, task, layer, metric, "row", "column"
