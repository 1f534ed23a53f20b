"""Training: one stage after another through DeepSpeed, from a recipe to the checkpoints of a run folder."""
