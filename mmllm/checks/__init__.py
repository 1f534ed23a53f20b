"""What `mmllm check` opens beyond the recipe's own words: folders of models, data, own classes; without torch."""
