"""`mmllm inspect`: what a model will see of its data, before anything is trained."""
