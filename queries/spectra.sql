-- Singular spectra of the weights of an uncompressed model, by module and layer.
SELECT
    coalesce(derived, model) AS model, task, protocol, layer, module,
    max(value) FILTER (WHERE metric = 'effective_rank') AS effective_rank,
    max(value) FILTER (WHERE metric = 'stable_rank') AS stable_rank,
    max(value) FILTER (WHERE metric = 'energy_captured') AS energy_captured,
    max(version) AS captured_by,
    max(value) FILTER (WHERE metric = 'tail_exponent') AS tail_exponent
FROM results
WHERE
    kind = 'heterogeneity'
    AND metric IN ('effective_rank', 'stable_rank', 'energy_captured', 'tail_exponent')
GROUP BY ALL
ORDER BY model, task, protocol, module, layer
