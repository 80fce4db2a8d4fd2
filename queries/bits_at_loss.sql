-- What may be saved at equal loss: for each loss per token over the uncompressed model that is
-- allowed, the run without recovery that saves most of what combines or was advised, and of
-- quantisation alone; beside them the most that each other class saves. `points_more`: percent of
-- the model's bits that the first saves and the second does not; leaving the model as it is saves
-- nothing and loses nothing.
WITH limits AS (
    SELECT unnest([0.02, 0.05, 0.1]::DOUBLE[]) AS most_nats
),

studies AS (
    SELECT
        model, task, protocol,
        bool_or(class IN ('advised', 'combination')) AS has_combined,
        bool_or(class = 'quantisation') AS has_quantised
    FROM frontier
    WHERE NOT recovered
    GROUP BY ALL
),

found AS (
    SELECT
        model, task, protocol, most_nats,
        arg_max(frontier, bits_saved_percent)
        FILTER (class IN ('advised', 'combination')) AS combined,
        arg_max(frontier, bits_saved_percent) FILTER (class = 'quantisation') AS quantised,
        max(bits_saved_percent) FILTER (class = 'tensor format') AS tensor_saved_percent,
        max(bits_saved_percent) FILTER (class = 'low rank') AS low_rank_saved_percent,
        max(bits_saved_percent) FILTER (class = 'pruning') AS pruning_saved_percent
    FROM frontier INNER JOIN limits ON frontier.nats_lost <= limits.most_nats
    WHERE NOT recovered
    GROUP BY ALL
)

SELECT
    model, task, protocol, most_nats, has_combined, has_quantised,
    coalesce(combined.bits_saved_percent, 0) - coalesce(quantised.bits_saved_percent, 0)
        AS points_more,
    combined.recipe AS combined_recipe, combined.bits_saved_percent AS combined_saved_percent,
    combined.nats_lost AS combined_nats, combined.nats_lost_half_width AS combined_half_width,
    quantised.recipe AS quantised_recipe, quantised.bits_saved_percent AS quantised_saved_percent,
    quantised.nats_lost AS quantised_nats, quantised.nats_lost_half_width AS quantised_half_width,
    tensor_saved_percent, low_rank_saved_percent, pruning_saved_percent
FROM studies CROSS JOIN limits
LEFT JOIN found USING (model, task, protocol, most_nats)
ORDER BY model, task, protocol, most_nats
