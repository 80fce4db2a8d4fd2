-- Every job with a record, the slowest first.
SELECT
    model, rule, name, made, wall_seconds, started_seconds, peak_rss_mb, attempts, host, devices, gpu
FROM jobs
WHERE driver IS NOT NULL
ORDER BY wall_seconds DESC NULLS LAST, rule, name
