-- What it changes that routers learn otherwise: every two kinds of embedded mixtures (`trained_as`)
-- of one width and as long a training, whose use of experts was measured, seed by seed. `change` is
-- the mean over the seeds that both have of the second less the first, with half its 95 % interval,
-- paired; `standing` says of each change by itself whether it is beyond that.
-- Of the uncompressed model: nats per token, and means over layers of what its router does (as in
-- `expert_use`) and of what its experts have in common (as in `sharing`). Of each recipe: nats per token
-- lost, and how many of them beyond the best whitened SVD on the same modules and layers that saves
-- at least as much, a point less at most.
WITH trained AS (
    SELECT DISTINCT model, trained_as, training_seed, hidden_size, training_progress
    FROM results
    WHERE trained_as IS NOT NULL AND kind = 'expert_balance'
),

beyond AS (
    SELECT
        one.model, one.task, one.protocol, one.recipe, one.layer_set, one.bits_saved_percent,
        any_value(one.nats_lost) - min(svd.nats_lost) AS nats
    FROM losses AS one INNER JOIN losses AS svd USING (model, task, protocol, module_groups, layers)
    WHERE
        svd.control = 'whitened SVD' AND NOT svd.recovered
        AND one.control IS DISTINCT FROM 'whitened SVD'
        AND svd.bits_saved_percent > one.bits_saved_percent - 1
    GROUP BY ALL
),

measured AS (
    SELECT
        model, task, protocol, 'uncompressed' AS subject, NULL AS layer_set, 'nats' AS measure,
        NULL AS bits_saved_percent, ln(perplexity) AS value
    FROM losses
    WHERE recipe = 'baseline'
    UNION ALL
    SELECT model, task, protocol, 'router', NULL, metric, NULL, avg(value)
    FROM results
    WHERE kind = 'expert_balance' AND layer IS NOT NULL AND recipe = 'baseline'
    GROUP BY ALL
    UNION ALL
    SELECT coalesce(derived, model), task, protocol, 'experts', NULL, metric, NULL, avg(value)
    FROM results
    WHERE
        kind = 'heterogeneity' AND comparison = 'experts' AND state IS NULL
        AND metric IN (
            'overlap_stream', 'overlap_inner', 'sharing_penalty', 'shared_error', 'separate_error'
        )
    GROUP BY ALL
    UNION ALL
    SELECT model, task, protocol, recipe, layer_set, 'nats lost', bits_saved_percent, nats_lost
    FROM losses
    WHERE recipe <> 'baseline'
    UNION ALL
    SELECT
        model, task, protocol, recipe, layer_set, 'nats lost beyond SVD', bits_saved_percent, nats
    FROM beyond
),

seeded AS (
    SELECT
        trained_as, training_seed, hidden_size, training_progress,
        task, protocol, subject, layer_set, measure,
        avg(bits_saved_percent) AS bits_saved_percent, avg(value) AS value
    FROM measured INNER JOIN trained USING (model)
    GROUP BY ALL
),

paired AS (
    SELECT
        one.task, one.protocol, one.subject, one.layer_set, one.measure,
        one.hidden_size, one.training_progress,
        one.trained_as AS first_kind, other.trained_as AS second_kind,
        count(*) AS seeds,
        avg(one.bits_saved_percent) AS bits_saved_percent,
        avg(one.value) AS first_value, avg(other.value) AS second_value,
        difference(
            list(one.value ORDER BY one.training_seed),
            list(other.value ORDER BY one.training_seed)
        ) AS found
    FROM seeded AS one INNER JOIN seeded AS other
        ON
            one.task = other.task AND one.protocol = other.protocol
            AND one.subject = other.subject AND one.measure = other.measure
            AND one.layer_set IS NOT DISTINCT FROM other.layer_set
            AND one.training_seed = other.training_seed
            AND one.hidden_size = other.hidden_size
            AND one.training_progress IS NOT DISTINCT FROM other.training_progress
            AND one.trained_as < other.trained_as
    GROUP BY ALL
)

SELECT
    task, protocol, hidden_size, training_progress, first_kind, second_kind,
    subject, layer_set, measure, bits_saved_percent, seeds,
    first_value, second_value, second_value - first_value AS change,
    found.half_width AS change_half_width,
    CASE
        WHEN found IS NULL THEN 'one seed'
        WHEN change > change_half_width THEN 'more'
        WHEN change < -change_half_width THEN 'less'
        ELSE 'within noise'
    END AS standing
FROM paired
ORDER BY
    first_kind, second_kind, hidden_size, training_progress, task, protocol, subject, layer_set, measure
