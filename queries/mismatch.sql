-- Where parts of an uncompressed model share subspaces and what sharing factors costs, mean over
-- layers: a row for each subject and budget, and one for all stacks of a budget. Beside the overlaps
-- stand those of random subspaces, beside the penalties (error of shared factors over that of
-- separate ones) those of noise, which has nothing to share.
WITH named AS (
    SELECT
        model, task, protocol, metric, value, version, subject AS part, layer,
        CASE
            WHEN subject LIKE '% heads' THEN 'heads of a projection'
            WHEN subject LIKE '% experts' THEN 'experts of a projection'
            WHEN subject LIKE '% layers %' THEN 'neighbouring layers'
            ELSE 'modules of a layer'
        END AS comparison,
        regexp_replace(subject, ' layers \d+~\d+$', ' layers') AS subject
    FROM results
    WHERE kind = 'heterogeneity'
),

subspaces AS (
    SELECT
        model, task, protocol, comparison, subject,
        avg(value) FILTER (WHERE metric = 'overlap_stream') AS stream_overlap,
        avg(value) FILTER (WHERE metric = 'overlap_stream_random') AS stream_random,
        avg(value) FILTER (WHERE metric = 'overlap_inner') AS inner_overlap,
        avg(value) FILTER (WHERE metric = 'overlap_inner_random') AS inner_random
    FROM named
    WHERE metric LIKE 'overlap%'
    GROUP BY ALL
),

stacks AS (
    SELECT
        model, task, protocol, comparison, subject, part, layer, version AS budget,
        max(value) FILTER (WHERE metric = 'sharing_penalty') AS penalty,
        max(value) FILTER (WHERE metric = 'sharing_penalty_random') AS noise,
        max(value) FILTER (WHERE metric = 'shared_error') AS shared,
        max(value) FILTER (WHERE metric = 'separate_error') AS separate,
        max(value) FILTER (WHERE metric = 'hosvd_lower') AS lower_bound,
        max(value) FILTER (WHERE metric = 'hosvd_upper') AS upper_bound
    FROM named
    WHERE version LIKE '% of values saved'
    GROUP BY ALL
),

penalties AS (
    SELECT
        model, task, protocol, budget,
        coalesce(comparison, 'all stacks') AS comparison,
        coalesce(subject, 'all stacks') AS subject,
        avg(penalty) AS sharing_penalty,
        avg(noise) AS noise_penalty,
        avg(shared) AS shared_error,
        avg(separate) AS separate_error,
        avg(lower_bound) AS hosvd_lower,
        avg(upper_bound) AS hosvd_upper,
        count(*) AS stacks,
        count(*) FILTER (WHERE penalty < 1) AS stacks_where_sharing_pays,
        count(*) FILTER (WHERE penalty < least(1, noise)) AS more_than_in_noise
    FROM stacks
    GROUP BY GROUPING SETS (
        (model, task, protocol, budget, comparison, subject), (model, task, protocol, budget)
    )
)

SELECT
    model, task, protocol, comparison, subject, budget,
    stream_overlap, stream_random, stream_overlap / stream_random AS stream_ratio,
    inner_overlap, inner_random, inner_overlap / inner_random AS inner_ratio,
    sharing_penalty, noise_penalty, shared_error, separate_error, hosvd_lower, hosvd_upper,
    stacks, stacks_where_sharing_pays, more_than_in_noise
FROM subspaces FULL JOIN penalties USING (model, task, protocol, comparison, subject)
ORDER BY model, task, protocol, comparison, subject, budget
