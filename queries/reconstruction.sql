-- Reconstruction error of every module and layer, with the bounds of its factor set.
SELECT
    model, method_name, approach, "group", layer, module, stack,
    relative_error, stack_error, lower_bound, upper_bound, seconds
FROM decompositions
ORDER BY model, method_name, layer, module
