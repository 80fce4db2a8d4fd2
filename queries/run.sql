-- What a study cost, over all models (`model` is empty) and for each. A run is what one driver
-- started: jobs were made in this run, found made by an earlier one, or come from elsewhere, with no
-- record of their cost. `wall_seconds` are from this run's first job to the end of its last,
-- `job_seconds` the sum over its jobs, `recorded_...` those of all jobs with a record.
SELECT
    model,
    count(*) AS jobs,
    count(*) FILTER (made = 'this run') AS this_run,
    count(*) FILTER (made = 'earlier run') AS earlier_run,
    count(*) FILTER (made = 'elsewhere') AS elsewhere,
    coalesce(sum(attempts - 1), 0)::BIGINT AS failed_attempts,
    coalesce(
        max(started_seconds + wall_seconds) FILTER (made = 'this run')
        - min(started_seconds) FILTER (made = 'this run'),
        0
    ) AS wall_seconds,
    coalesce(sum(wall_seconds) FILTER (made = 'this run'), 0) AS job_seconds,
    coalesce(sum(gpus * wall_seconds) FILTER (made = 'this run'), 0) / 3600 AS gpu_hours,
    coalesce(sum(wall_seconds), 0) AS recorded_job_seconds,
    coalesce(sum(gpus * wall_seconds), 0) / 3600 AS recorded_gpu_hours,
    max(peak_rss_mb) AS peak_rss_mb,
    arg_max(rule, peak_rss_mb) AS peak_rule,
    max(wall_seconds) AS slowest_seconds,
    arg_max(rule || ' ' || name, wall_seconds) AS slowest
FROM jobs
GROUP BY GROUPING SETS ((), (model))
ORDER BY model NULLS FIRST
