"""Published multimodal models as recipes: what each is made of, as a run that is compared with transformers' own."""
