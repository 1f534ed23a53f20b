"""Text of a run beside its bare LLM: perplexity, logits and answers, compared to the last bit."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmllm.types import Message, Sample

if TYPE_CHECKING:
    from mmllm.checkpoints.load import Trust

NEW_TOKENS = 24
TEXT = (
    "The harbour lay quiet under a thin layer of fog when the first ferry came in. Two men on the quay caught the "
    "ropes without looking up; they had done it every morning for eleven years. A girl with a red bicycle waited "
    "behind the barrier, counting the cars that rolled over the steel plates: four white ones, a blue van, and a "
    "lorry loaded with timber. Her grandfather had told her that a ship floats because the water it pushes aside "
    "weighs as much as the ship itself, and she had tried it at home with a bowl and a tin. The tin had floated "
    "until she put the seventh stone into it. Now she looked at the lorry and wondered how many stones it was "
    "worth. When the barrier rose, she pushed her bicycle on board, paid with two coins, and climbed the stairs "
    "to the upper deck, where the wind smelled of salt and diesel. The journey across the sound takes thirty-five "
    "minutes. On clear days one can see the lighthouse on the far island, the long line of the bridge, and behind "
    "it the chimneys of the old sugar factory. Today there was only grey, and the slow sound of the engine, and "
    "somewhere a bell."
)
"""A fixed text, written for this purpose, whose perplexity is compared."""
PROMPTS = (
    "What is the capital of Italy?",
    "Write a sentence about the sea.",
    "What is 7 plus 5?",
    "Name three fruits.",
    "Who wrote Hamlet?",
    "Translate 'good morning' into French.",
    "What colour is the sky on a clear day?",
    "Explain what a microscope is.",
    "List the days of the week.",
    "What is the opposite of hot?",
    "Is a triangle a shape?",
    "How many legs does a spider have?",
    "Write a short poem about rain.",
    "What do bees make?",
    "Give me a synonym for 'happy'.",
    "What is the largest planet of the solar system?",
    "Describe a red circle.",
    "What digit comes after 4?",
    "Is there a cat in this sentence?",
    "Say hello in Spanish.",
)


def compare_text(run: Path, trust: Trust | None = None) -> dict[str, Any]:
    """Perplexity of :data:`TEXT` and greedy answers to :data:`PROMPTS`, of the run and of its LLM alone.

    The bare LLM is loaded anew, in a recipe without encoders and connectors; transformers' own model of the same folder
    stands beside both. Raises MmllmError as ``load_run`` does.
    """
    import torch
    from transformers import AutoModelForCausalLM

    from mmllm.batches.collate import collate
    from mmllm.batches.sample import encode
    from mmllm.checkpoints.load import load_run
    from mmllm.generation.generator import Generator
    from mmllm.model.build import build

    recipe, model = load_run(run, trust=trust)
    alone = build(recipe.model_copy(update={"encoders": {}, "connectors": {}, "stages": {}, "data": {}}))
    whole = AutoModelForCausalLM.from_pretrained(recipe.llm.path, dtype=model.llm.dtype).eval()
    generators = [Generator(one, system=recipe.serve.system) for one in (model, alone)]
    rows, equal, furthest = [], True, 0.0
    texts = [(f"prompt {number}", (Message("user", prompt),)) for number, prompt in enumerate(PROMPTS, 1)]
    for name, messages in texts:
        sample = Sample(name, messages)
        given = [one.encode(sample) for one in generators]
        with torch.inference_mode():
            pairs = zip(generators, given, strict=True)
            ours, theirs = (one.model.logits(collate([encoded], one.model.inputs)) for one, encoded in pairs)
            own = whole(input_ids=torch.tensor([given[0].ids]), use_cache=False).logits[0]
        answers = [one.generate([sample], NEW_TOKENS)[0].text.strip() for one in generators]
        bits = given[0].ids == given[1].ids and torch.equal(ours, theirs)
        equal = equal and bits and answers[0] == answers[1]
        furthest = max(furthest, float((ours - own).abs().max()))
        rows.append({"prompt": messages[0].text, "answer": answers[0], "bare": answers[1], "logits_equal": bits})
    said = Sample("text", (Message("system", ""), Message("user", "Tell a story."), Message("assistant", TEXT)))
    perplexities = []
    for one in generators:
        encoded = encode(said, one.prompter, one.model.inputs, one.llm.context, train=True)
        with torch.inference_mode():
            nll, _, _ = one.model(collate([encoded], one.model.inputs))
        perplexities.append(math.exp(float(nll) / encoded.n_labels))
    return {
        "perplexity": perplexities[0],
        "perplexity_bare": perplexities[1],
        "tokens": encoded.n_labels,
        "prompts": rows,
        "equal": equal and perplexities[0] == perplexities[1],
        "furthest_from_transformers": furthest,
    }
