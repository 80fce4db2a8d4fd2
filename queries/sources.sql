-- What the weights of each model were in the files that they come from: how they were quantised
-- (empty of plain numbers), and the bits of these files' tensors beside those that savings count against.
SELECT DISTINCT model, source_quantisation, source_bits, dense_bits
FROM results
WHERE recipe = 'baseline'
ORDER BY model
