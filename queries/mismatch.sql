-- Where parts of an uncompressed model share subspaces and what sharing factors costs, mean over
-- layers: a row for each subject and budget, and one (`of_all`) for all stacks of a budget. Beside
-- the overlaps stand those of random subspaces, beside the penalties (error of shared factors over
-- that of separate ones) those of noise, which has nothing to share.
WITH subspaces AS (
    SELECT
        model, task, protocol, comparison, subject,
        avg(value) FILTER (WHERE metric = 'overlap_stream' AND state IS NULL) AS stream_overlap,
        avg(value) FILTER (WHERE metric = 'overlap_stream' AND state = 'random') AS stream_random,
        avg(value) FILTER (WHERE metric = 'overlap_inner' AND state IS NULL) AS inner_overlap,
        avg(value) FILTER (WHERE metric = 'overlap_inner' AND state = 'random') AS inner_random
    FROM compared_parts
    WHERE metric IN ('overlap_stream', 'overlap_inner')
    GROUP BY ALL
),

penalties AS (
    SELECT
        model, task, protocol, budget,
        coalesce(comparison, 'all stacks') AS comparison,
        coalesce(stack, 'all stacks') AS subject,
        avg(sharing_penalty) AS sharing_penalty,
        avg(noise_penalty) AS noise_penalty,
        avg(shared_error) AS shared_error,
        avg(separate_error) AS separate_error,
        avg(hosvd_lower) AS hosvd_lower,
        avg(hosvd_upper) AS hosvd_upper,
        count(*) AS stacks,
        count(*) FILTER (WHERE sharing_penalty < 1) AS stacks_where_sharing_pays,
        count(*) FILTER (WHERE sharing_penalty < least(1, noise_penalty)) AS more_than_in_noise,
        grouping(stack) = 1 AS of_all
    FROM sharing
    GROUP BY GROUPING SETS (
        (model, task, protocol, budget, comparison, stack), (model, task, protocol, budget)
    )
)

SELECT
    model, task, protocol, comparison, subject, budget,
    stream_overlap, stream_random, stream_overlap / stream_random AS stream_ratio,
    inner_overlap, inner_random, inner_overlap / inner_random AS inner_ratio,
    sharing_penalty, noise_penalty, shared_error, separate_error, hosvd_lower, hosvd_upper,
    stacks, stacks_where_sharing_pays, more_than_in_noise,
    coalesce(of_all, false) AS of_all
FROM subspaces FULL JOIN penalties USING (model, task, protocol, comparison, subject)
ORDER BY model, task, protocol, comparison, subject, budget
