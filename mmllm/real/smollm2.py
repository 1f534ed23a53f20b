"""SmolLM2 out of its GGUF file: transformers reads it, a folder in safetensors comes out, both must say the same."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmllm.errors import MmllmError

if TYPE_CHECKING:
    from torch import Tensor

QUESTIONS = (
    "What is the capital of France?",
    "Name three colours of a rainbow.",
    "Write one short sentence about the sea.",
)
NEW_TOKENS = 24


def convert(files: Sequence[Path], tools: Path | None, out: Path) -> list[str]:
    """Write the folder and compare it with the GGUF file; what was compared. Raises MmllmError where they differ."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    (file,) = files
    tokenizer, original = _from_gguf(file)
    config = type(original.config).from_dict(
        # save_pretrained refuses a model that is marked as quantised; these are plain float32 numbers by now
        {key: value for key, value in original.config.to_dict().items() if key != "quantization_config"}
    )
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.load_state_dict(original.state_dict())
    model.generation_config = original.generation_config
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    converted = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32).eval()
    again = AutoTokenizer.from_pretrained(out)
    for question in QUESTIONS:
        ids, same = (_prompt(one, question) for one in (tokenizer, again))
        if not torch.equal(ids, same):
            raise MmllmError(f"{out.name}: its tokenizer reads {question!r} otherwise than the GGUF file's.")
        before, after = (_greedy(one, ids) for one in (original, converted))
        if not torch.equal(before, after):
            said = [tokenizer.decode(one) for one in (before, after)]
            raise MmllmError(f"{out.name}: answers {said[1]!r} to {question!r} not {said[0]!r}.")
    with torch.inference_mode():
        exact = torch.equal(original(input_ids=ids).logits, converted(input_ids=ids).logits)
    answer = tokenizer.decode(_greedy(converted, _prompt(tokenizer, QUESTIONS[0])), skip_special_tokens=True)
    return [
        f"{len(QUESTIONS)} questions: same ids, same greedy answer as transformers' own load of the GGUF file",
        f"logits of the last: {'bit for bit the same' if exact else 'not bit for bit the same'}",
        f"{QUESTIONS[0]} -> {answer}",
    ]


def _from_gguf(file: Path) -> tuple[Any, Any]:
    """Tokenizer and float32 model as transformers loads them. Raises MmllmError without the package it needs."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import is_gguf_available

    if not is_gguf_available():
        raise MmllmError(f"{file.name}: transformers reads GGUF files through the package gguf; pip install gguf")
    where: dict[str, Any] = {"pretrained_model_name_or_path": file.parent, "gguf_file": file.name}
    model = AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32)
    return AutoTokenizer.from_pretrained(**where), model.eval()


def _prompt(tokenizer: Any, question: str) -> Tensor:
    """int64[1, S]: the question in the tokenizer's own chat template."""
    messages = [{"role": "user", "content": question}]
    ids: Tensor = tokenizer.apply_chat_template(
        messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )["input_ids"]
    return ids


def _greedy(model: Any, ids: Tensor) -> Tensor:
    """int64[S]: the ids after the prompt, at most NEW_TOKENS."""
    import torch

    said: Tensor = model.generate(
        input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=NEW_TOKENS, do_sample=False
    )
    return said[0, ids.shape[1] :]
