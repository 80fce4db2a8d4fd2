-- Jobs, time and memory by rule and model, the costliest first; seconds and GPU hours are of all jobs
-- with a record. What serves several models has none.
SELECT
    model, rule,
    count(*) AS jobs,
    count(*) FILTER (made = 'this run') AS this_run,
    count(*) FILTER (made <> 'this run') AS found,
    coalesce(sum(attempts - 1), 0)::BIGINT AS failed_attempts,
    sum(wall_seconds) AS job_seconds,
    avg(wall_seconds) AS mean_seconds,
    max(wall_seconds) AS slowest_seconds,
    sum(gpus * wall_seconds) / 3600 AS gpu_hours,
    max(peak_rss_mb) AS peak_rss_mb
FROM jobs
GROUP BY model, rule
ORDER BY job_seconds DESC NULLS LAST, model, rule
