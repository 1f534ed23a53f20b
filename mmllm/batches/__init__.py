"""From a sample to what the model sees: prompt, encode, pack and collate; the mixture and the loader of a stage."""
