-- How each layer's router uses the experts of an uncompressed mixture: the effective number of experts,
-- the variation of their loads (deviation over mean), the share of assignments that the busiest gets,
-- how many get less than a tenth of an even share, and what the expert says of the token's id. Where
-- experts are in groups: the variation of the groups' probabilities, what share of its group's the
-- likeliest expert has, and the share of tokens whose experts are spread evenly over the groups.
SELECT
    model, task, protocol, layer,
    any_value(value) FILTER (metric = 'effective_experts') AS effective_experts,
    any_value(value) FILTER (metric = 'load_variation') AS load_variation,
    any_value(value) FILTER (metric = 'busiest_share') AS busiest_share,
    any_value(value) FILTER (metric = 'starved_experts') AS starved_experts,
    any_value(value) FILTER (metric = 'token_information_nats') AS token_information_nats,
    any_value(value) FILTER (metric = 'group_variation') AS group_variation,
    any_value(value) FILTER (metric = 'leading_in_group') AS leading_in_group,
    any_value(value) FILTER (metric = 'spread_over_groups') AS spread_over_groups
FROM results
WHERE kind = 'expert_balance' AND layer IS NOT NULL AND recipe = 'baseline'
GROUP BY ALL
ORDER BY model, task, protocol, layer
