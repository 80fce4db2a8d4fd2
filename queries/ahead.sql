-- Which class is ahead where: of the runs without recovery that nothing beats, those of one class
-- that follow each other. `from_percent` is what the last run of the class before saves, so that
-- whoever wants to save more than that and at most `to_percent` is served best by this class; `recipe`
-- is the run that saves most, with its loss.
WITH envelope AS (
    SELECT *
    FROM frontier
    WHERE NOT recovered
    QUALIFY
        nats_lost < coalesce(min(nats_lost) OVER (
            PARTITION BY model, task, protocol
            ORDER BY bits_saved_percent DESC, nats_lost, recipe, layers
            ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
        ), 'inf')
),

steps AS (
    SELECT
        *,
        coalesce(lag(bits_saved_percent) OVER study, 0) AS saved_before,
        lag(class) OVER study IS DISTINCT FROM class AS begins
    FROM envelope
    WINDOW study AS (PARTITION BY model, task, protocol ORDER BY bits_saved_percent)
),

numbered AS (
    SELECT
        *,
        count(*) FILTER (begins) OVER (
            PARTITION BY model, task, protocol ORDER BY bits_saved_percent
        ) AS stretch
    FROM steps
)

SELECT
    model, task, protocol, stretch, class,
    min(saved_before) AS from_percent,
    max(bits_saved_percent) AS to_percent,
    count(*) AS runs,
    arg_max(recipe, bits_saved_percent) AS recipe,
    arg_max(nats_lost, bits_saved_percent) AS nats_lost,
    arg_max(nats_lost_half_width, bits_saved_percent) AS nats_lost_half_width
FROM numbered
GROUP BY model, task, protocol, stretch, class
ORDER BY model, task, protocol, stretch
