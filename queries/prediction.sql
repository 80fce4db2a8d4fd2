-- Damage predicted from weights, moments and gradients beside the loss measured, both in nats per
-- token, mean over seeds, runs without recovery; and their rank correlation (Spearman) over all runs
-- of a model that were measured alike. A run that several recipes share counts once, and one of a
-- derived model, of whose making nothing is predicted, does not.
WITH predictions AS (
    SELECT
        model, recipe, layer_set, array_to_string(layers, ',') AS layers,
        protocol AS prediction_protocol,
        avg(value) AS predicted_nats
    FROM results
    WHERE
        kind = 'prediction' AND metric = 'predicted_damage' AND layer IS NULL AND derived IS NULL
    GROUP BY ALL
),

pairs AS (
    SELECT *
    FROM losses INNER JOIN predictions USING (model, recipe, layer_set, layers)
    WHERE NOT recovered AND nats_lost IS NOT NULL
    QUALIFY row_number() OVER (
        PARTITION BY model, task, protocol, prediction_protocol, run ORDER BY recipe, layer_set
    ) = 1
),

ranked AS (
    -- runs that tie share the mean of their ranks; a range's current row is all rows that tie
    SELECT
        *,
        rank() OVER (comparison ORDER BY predicted_nats) + (
            count(*) OVER (
                comparison ORDER BY predicted_nats RANGE BETWEEN CURRENT ROW AND CURRENT ROW
            ) - 1
        ) / 2 AS predicted_rank,
        rank() OVER (comparison ORDER BY nats_lost) + (
            count(*) OVER (
                comparison ORDER BY nats_lost RANGE BETWEEN CURRENT ROW AND CURRENT ROW
            ) - 1
        ) / 2 AS measured_rank
    FROM pairs
    WINDOW comparison AS (PARTITION BY model, task, protocol, prediction_protocol)
)

SELECT
    model, task, protocol, prediction_protocol, recipe, kind, layer_set, layers, run,
    bits_saved_percent, predicted_nats, nats_lost, nats_lost_half_width,
    corr(predicted_rank, measured_rank) OVER comparison AS spearman,
    count(*) OVER comparison AS runs_compared
FROM ranked
WINDOW comparison AS (PARTITION BY model, task, protocol, prediction_protocol)
ORDER BY model, task, protocol, prediction_protocol, nats_lost, recipe
