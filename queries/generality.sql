-- Is it a general property? Every model with its width and training, and at 10, 20 and 40 % of bits
-- saved what the best tensor format loses more than the best alternative at
-- equal bits (`behind_nats`, paired, as in `verdict`) and than the best low-rank run (`behind_svd_nats`,
-- of the two best alone); beside them what its weights say, means over stacks and budgets of these
-- tasks, where the study has them: sharing penalty and that of noise, overlap of leading subspaces over
-- that of random ones, error of the best tensor format over SVD's, and over its own on scrambled
-- matrices. `parameters` are the fetched model's values, `training_tokens` those of embedded models.
WITH models AS (
    SELECT DISTINCT
        model, task, protocol, objective, trained_as, hidden_size,
        dense_bits // value_bits AS parameters,
        training_tokens, training_progress,
        ln(value) AS uncompressed_nats
    FROM results
    WHERE
        recipe = 'baseline' AND kind = 'perplexity'
        AND metric IN (SELECT quality_metrics.metric FROM quality_metrics)
),

low_rank AS (
    SELECT
        model, task, protocol, budget_percent,
        arg_min(recipe, perplexity) AS svd_recipe,
        min(perplexity) AS svd_perplexity
    FROM perplexities
    INNER JOIN (SELECT DISTINCT budget_percent FROM verdict) AS budgets
        ON perplexities.bits_saved_percent >= budgets.budget_percent
    WHERE approach = 'low rank' AND NOT recovered
    GROUP BY ALL
),

penalties AS (
    SELECT
        model,
        avg(sharing_penalty) FILTER (of_all) AS sharing_penalty,
        avg(noise_penalty) FILTER (of_all) AS noise_penalty,
        avg(stream_ratio) AS overlap_over_random
    FROM mismatch
    GROUP BY model
),

families AS (
    SELECT
        model,
        avg(mean_ratio) AS family_over_svd,
        avg(mean_scrambled_ratio) AS family_over_scrambled
    FROM family_stacks
    WHERE of_all
    GROUP BY model
)

SELECT
    models.*,
    verdict.budget_percent,
    tensor_format, -lead_nats AS behind_nats, lead_half_width AS behind_half_width, holm_p, paired,
    tensor_recipe, ln(tensor_perplexity) - uncompressed_nats AS tensor_nats_lost,
    alternative_recipe,
    ln(alternative_perplexity) - uncompressed_nats AS alternative_nats_lost,
    svd_recipe, ln(tensor_perplexity / svd_perplexity) AS behind_svd_nats,
    sharing_penalty, noise_penalty, overlap_over_random, family_over_svd, family_over_scrambled
FROM models
INNER JOIN verdict USING (model, task, protocol)
LEFT JOIN low_rank USING (model, task, protocol, budget_percent)
LEFT JOIN penalties USING (model)
LEFT JOIN families USING (model)
WHERE NOT with_recovery AND verdict.budget_percent IN (10, 20, 40)
ORDER BY
    trained_as NULLS LAST, hidden_size, training_progress, model, task, protocol, verdict.budget_percent
