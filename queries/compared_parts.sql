-- What was measured of parts of an uncompressed model that are compared or stacked, with names to
-- read: `part` are the modules, `subject` says what of them is compared.
SELECT
    coalesce(derived, model) AS model,
    task, protocol, layer, metric, state, value, version, text, values_saved_percent,
    CASE comparison
        WHEN 'heads' THEN 'heads of a projection'
        WHEN 'experts' THEN 'experts of a projection'
        WHEN 'layers' THEN 'neighbouring layers'
        ELSE 'modules of a layer'
    END AS comparison,
    concat_ws('~', module, partner) AS part,
    concat_ws(' ', part, CASE WHEN comparison <> 'modules' THEN comparison END) AS subject,
    format('{:g} % of values saved', values_saved_percent) AS budget
FROM results
WHERE kind = 'heterogeneity' AND comparison IS NOT NULL
