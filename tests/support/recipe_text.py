"""The recipe that tests damage or override, one line per thing that can be wrong with it."""

RECIPE = """\
name: demo
seed: 0
llm: {path: some/llm, dtype: float32, context: 512}
encoders:
  image: {type: "tests.support.recipe_parts:Encoder", model: some/vit, layers: [-2]}
connectors:
  image: {type: "tests.support.recipe_parts:Projector", from: image, grid: [4, 4]}
  lora: {type: "tests.support.recipe_parts:Inner", rank: 4, when: [image]}
data:
  captions: {type: "tests.support.recipe_parts:Source", path: captions.jsonl}
stages:
  align:
    train: {connectors.image: 1.0e-3}
    data: {captions: 1.0}
    epochs: 2
    batch: 64
    micro_batch: 8
    warmup: 0.03
    zero: 2
eval: {benchmarks: [docvqa], max_new_tokens: 32}
"""
