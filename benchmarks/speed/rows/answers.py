"""Answers beside transformers: a chat's fifth turn, requests at once, requests that arrive, questions about pictures.

The answers of both sides are compared; the weights are random, so they run to their limit.
"""

from __future__ import annotations

import asyncio
import json
import random
import tempfile
from collections.abc import Callable, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from benchmarks.speed.llava import IMAGE, llava
from benchmarks.speed.measure import Comparison
from benchmarks.speed.parts import conversations, made
from mmllm import load_recipe
from mmllm.batches.collate import collate
from mmllm.evaluation.predictions import predict
from mmllm.generation.generator import Generator
from mmllm.generation.sampling import Sampling
from mmllm.model.build import build
from mmllm.serving.worker import Worker
from mmllm.types import Message, Sample

RECIPE = """
name: answers
seed: 0
llm: {{path: {parts}/llm_32000, dtype: float32, context: 2048}}
encoders: {{image: {{type: hf_vision, model: {parts}/vit, layers: [-2]}}}}
connectors: {{image: {{type: mlp, from: image}}}}
data: {{all: {{type: chat, path: {parts}/none.jsonl, media: {parts}}}}}
stages: {{one: {{train: {{connectors.image: 1.0e-3}}, data: {{all: 1.0}}, steps: 1, batch: 1}}}}
"""


class _World:
    """A model of ours, LLaVA on the same weights, and words to ask."""

    def __init__(self) -> None:
        from transformers import AutoImageProcessor, AutoTokenizer

        self.parts = made()
        self.folder = Path(tempfile.mkdtemp(prefix="mmllm-speed-"))
        (self.folder / "answers.yaml").write_text(RECIPE.format(parts=self.parts.absolute()))
        self.model = build(load_recipe(self.folder / "answers.yaml"), "cpu")
        self.generator = Generator(self.model)
        self.other = llava(self.model, self.parts, 32_000)
        self.pixels = AutoImageProcessor.from_pretrained(self.parts / "vit", do_center_crop=False)
        self.tokenizer = AutoTokenizer.from_pretrained(self.parts / "llm_32000")
        rows = conversations(self.parts, "answers", [300] * 32, 32).read_text().splitlines()
        self.words = " ".join(json.loads(row)["messages"][1]["content"] for row in rows).split()

    def ask(self, number: int, picture: int, words: int = 30) -> Sample:
        """A question of its own about a picture."""
        message = Message("user", f"<image>\n{self.text(number, words)}?")
        return Sample(f"question {number}", (message,), self.picture(picture))

    def text(self, number: int, n: int) -> str:
        """``n`` words, others for each number."""
        return " ".join(random.Random(number).choices(self.words, k=n))

    def picture(self, number: int) -> dict[str, tuple[Path, ...]]:
        """The media of a conversation about a picture."""
        return {"image": (self.parts / "img" / f"{number}.jpg",)}

    def generate(self, samples: Sequence[Sample], new: int) -> list[str]:
        """Answers as a user of transformers makes them: image processor, tokenizer, left padding, greedy generate."""
        pictures = [Image.open(path).convert("RGB") for one in samples for path in one.media["image"]]
        pixels = self.pixels(pictures, return_tensors="pt", size={"height": 224, "width": 224})["pixel_values"]
        rows = [self._ids(one) for one in samples]
        longest = max(map(len, rows))
        ids = torch.tensor([[0] * (longest - len(row)) + row for row in rows])
        mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows])
        words: dict[str, Any] = {"do_sample": False, "max_new_tokens": new, "pad_token_id": 0, "eos_token_id": 2}
        with torch.inference_mode():
            found = self.other.generate(input_ids=ids, attention_mask=mask, pixel_values=pixels, **words)
        return [self.tokenizer.decode(row, skip_special_tokens=True).strip() for row in found[:, longest:].tolist()]

    def _ids(self, sample: Sample) -> list[int]:
        turns = [{"role": m.role, "content": m.text.replace("<image>", "<|image_pad|>")} for m in sample.messages]
        text = self.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        ids = self.tokenizer(text, add_special_tokens=False).input_ids
        place = ids.index(self.tokenizer.convert_tokens_to_ids("<|image_pad|>"))
        return [*ids[:place], *[IMAGE] * 256, *ids[place + 1 :]]


def chat_turn5_first_token() -> Comparison:
    """Time to the first token of a chat's fifth turn, four turns about one picture answered before."""
    world = _World()
    generator = world.generator
    messages = [Message("user", f"<image>\n{world.text(0, 15)}")]
    for turn in range(1, 5):
        answer = "".join(piece.text for piece in generator.stream(_chat(world, messages), 52)).strip()
        messages += [Message("assistant", answer), Message("user", world.text(turn, 15))]
    facts: dict[str, Any] = {}

    def asked(numbers: Any) -> Sample:
        # another fifth question each time: its own answer must not be found again
        return _chat(world, [*messages[:-1], Message("user", world.text(next(numbers), 15))])

    def ours(numbers: Any) -> str:
        first = next(iter(generator.stream(asked(numbers), 1)))
        facts.update(prompt_tokens=first.prompt_tokens, read_again=first.prompt_tokens - first.cached_tokens)
        return first.text.strip()

    theirs, own = count(100), count(100)
    return Comparison(
        baseline=lambda: world.generate([asked(theirs)], 1)[0],
        ours=lambda: ours(own),
        check=_same,
        what="first token of a chat's fifth turn, 15 words asked and 52 tokens answered in each about one picture",
        against="LlavaForConditionalGeneration.generate with the full prompt, processors included",
        facts=facts,
    )


def _chat(world: _World, messages: Sequence[Message]) -> Sample:
    return Sample("chat", tuple(messages), world.picture(0))


def serve_8() -> Comparison:
    """Eight requests at once through the server's worker."""
    world = _World()
    samples = [world.ask(number, number) for number in range(8)]
    return Comparison(
        baseline=lambda: world.generate(samples, 16),
        ours=lambda: _served(world, samples, 16, [0.0] * 8),
        check=_same,
        what="8 requests at once about 8 pictures, 30 words asked, 16 tokens answered, nothing known before",
        against="LlavaForConditionalGeneration.generate, one batch of 8, processors included",
    )


def serve_32() -> Comparison:
    """32 requests that arrive at random, beside answering one by one."""
    world = _World()
    samples = [world.ask(number, number) for number in range(32)]
    draw = random.Random(0)
    pauses = [draw.expovariate(1 / 0.05) for _ in samples]
    return Comparison(
        baseline=lambda: _one_by_one(world, samples, 32),
        ours=lambda: _served(world, samples, 32, pauses),
        check=_same,
        what="32 requests about 32 pictures, 0.05 s apart at random, 30 words asked, 32 tokens answered",
        against="each by itself with a cache of its own, as this project's server did before",
    )


def _served(world: _World, samples: Sequence[Sample], new: int, pauses: Sequence[float]) -> list[str]:
    """Answers of the server's worker, the samples submitted with these pauses in seconds before each."""
    world.generator.forget()
    worker = Worker(world.generator, len(samples))
    worker.start()

    async def one(sample: Sample) -> str:
        job, text = worker.submit(worker.generator.encode(sample), Sampling(new)), ""
        while (delta := await job.next()) is not None:
            text += delta.text
            if delta.finish is not None:
                break
        return text.strip()

    async def every() -> list[str]:
        asked = []
        for sample, pause in zip(samples, pauses, strict=True):
            await asyncio.sleep(pause)
            asked.append(asyncio.create_task(one(sample)))
        return list(await asyncio.gather(*asked))

    try:
        return asyncio.run(every())
    finally:
        worker.close()


def _one_by_one(world: _World, samples: Sequence[Sample], new: int) -> list[str]:
    """Greedy answers, each with a prefill and a decoding of its own."""
    generator, model, found = world.generator, world.model, []
    generator.forget()
    for sample in samples:
        state = model.prefill(collate([generator.encode(sample)], model.inputs))
        tokens = [int(state.logits.argmax())]
        while len(tokens) < new and tokens[-1] not in generator.end_ids:
            state = model.decode(state, torch.tensor(tokens[-1:]))
            tokens.append(int(state.logits.argmax()))
        found.append(world.tokenizer.decode(tokens, skip_special_tokens=True).strip())
    return found


def eval_4_per_picture() -> Comparison:
    """An evaluation's sixteen questions about four pictures."""
    world = _World()
    questions = [_Question(world.ask(number, number // 4)) for number in range(16)]
    files = (world.folder / f"{number}.jsonl" for number in count())

    def ours() -> list[str]:
        words: tuple[Any, ...] = ("key", 16, 16, lambda _: None, lambda one: one)
        world.generator.forget()
        found = predict(world.generator, _Benchmark(), questions, next(files), *words)  # type: ignore[arg-type]
        return [one.prediction for one in found]

    return Comparison(
        baseline=lambda: world.generate([one.sample for one in questions], 16),
        ours=ours,
        check=_same,
        what="16 questions about 4 pictures, 30 words asked, 16 tokens answered, by the evaluation's own path",
        against="LlavaForConditionalGeneration.generate, one batch of 16, processors included",
    )


class _Question:
    text, reference, kind = "?", ("a",), ""

    def __init__(self, sample: Sample) -> None:
        self.sample = sample


class _Benchmark:
    parsed: Callable[[Any, str], bool] = lambda *_: True
    score: Callable[..., float] = lambda *_: 0.0


def _same(theirs: Any, ours: Any) -> None:
    assert theirs == ours, f"answers differ: {theirs!r}, ours {ours!r}"
