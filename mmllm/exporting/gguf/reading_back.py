"""What llama.cpp makes of the written files beside what the run makes of the same: ids, tokens, logits, answers."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy
import torch
from PIL import Image
from torch import Tensor
from transformers import AutoModelForCausalLM

from mmllm.batches.collate import collate
from mmllm.batches.sample import Encoded, encode
from mmllm.errors import MmllmError
from mmllm.exporting.gguf.declarations import MARK, PACKAGE, VERSIONS
from mmllm.exporting.gguf.llama_cpp import Picture, Task
from mmllm.exporting.gguf.mmproj import Pictures
from mmllm.llms.gguf_cache import dequantised
from mmllm.messages.tokenize import Prompter
from mmllm.model.model import MultimodalLM
from mmllm.published.comparison import LIMIT as EXACT
from mmllm.published.comparison import NEW, Stage
from mmllm.published.media.base import TALK
from mmllm.published.media.pictures import SIZES, picture
from mmllm.types import IGNORE_INDEX, Message, Sample
from mmllm.vlms.quiet import quiet

LIMIT = 1e-3
"""Largest difference of a picture's tokens, as a share of their spread: llama.cpp's GELU is a table in float16."""
ROUGH = 5e-3
"""Largest difference of logits where the LLM has GELU itself, for the same reason."""
LEVEL = 1.0
"""Largest difference of a pixel, in 1/255: torchvision, by which transformers resizes, rounds otherwise than Pillow."""
PILLOW = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
TEXTS = (
    "What is on the sign?",
    " Two  blanks, a tab\tand\n\na line break. ",
    "It's 1234567 + 89.50 EUR; we'll, THEY'RE",
    "na\u00efve \u00dcbung, \u4f60\u597d\u4e16\u754c, \u041f\u0440\u0438\u0432\u0435\u0442 \U0001f680!",
    "def f(x):\n    return x ** 2  # <b>&amp;</b>",
)
"""Texts that are tokenised on both sides."""
SECONDS = 3600
"""How long llama.cpp may take for all of it."""
Found = Mapping[str, numpy.ndarray]
"""What llama.cpp made of a task, see :class:`~mmllm.exporting.gguf.llama_cpp.Task`."""


@dataclass(frozen=True)
class Seen:
    """A conversation as the run and as llama.cpp are given it."""

    name: str
    encoded: Encoded
    """About the picture as Pillow resizes it, which llama.cpp does as well."""
    image: Image.Image | None
    prompt: str


def lacking() -> str | None:
    """Why llama.cpp cannot be asked here; None: it can."""
    if importlib.util.find_spec(PACKAGE) is None or importlib.util.find_spec("cffi") is None:
        return 'it is not installed: pip install "mmllm[gguf]"'
    found = importlib.metadata.version(PACKAGE)
    if found not in VERSIONS:
        return f"{PACKAGE} {found} is not a release that is known here: {', '.join(VERSIONS)}"
    return None


def run_llama_cpp(task: Task, folder: Path) -> Found:
    """Carry out a task in a process of its own.

    Raises:
        MmllmError: llama.cpp refuses the files, or dies of them.
    """
    given, made = folder / "task.json", folder / "found.npz"
    given.write_text(json.dumps(asdict(task)), encoding="utf-8")
    command = [sys.executable, "-m", "mmllm.exporting.gguf.llama_cpp", str(given), str(made)]
    try:
        # of a fault it would print a long trace of the process behind the line that names it
        quiet = {**os.environ, "GGML_NO_BACKTRACE": "1"}
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, errors="replace", env=quiet)
    except subprocess.TimeoutExpired as error:
        raise MmllmError(f"--to gguf: llama.cpp did not read the files back within {SECONDS} s") from error
    if done.returncode:
        lines = [line for line in done.stderr.strip().splitlines() if line.strip()]
        said = lines[-1][:300] if lines else "it says nothing"
        how = f" ({signal.Signals(-done.returncode).name})" if done.returncode < 0 else ""
        raise MmllmError(f"--to gguf: llama.cpp does not take the files{how}: {said}")
    with numpy.load(made) as found:
        return dict(found)


class ReadingBack:
    """The comparison of a run with its files."""

    def __init__(
        self, model: MultimodalLM, pictures: Pictures | None, folder: Path, *, starts: bool, gelu: bool
    ) -> None:
        """Set up.

        Args:
            model: the run in float32.
            pictures: what was written of its tower and projector.
            folder: where the files are.
            starts: whether llama.cpp puts the beginning token in front by itself.
            gelu: whether the LLM computes GELU.
        """
        self.model, self.pictures, self.folder, self.starts = model, pictures, folder, starts
        self.exact = ROUGH if gelu else EXACT
        self.prompter = Prompter(model.llm.tokenizer, model.places, model.reads_user_turn, prefix=model.llm.prefix)

    @property
    def _shown(self) -> str:
        """Placeholder of pictures; a run may see clips by the same weights, which are not written."""
        return next(key for key, entry in self.model.inputs.items() if entry.modality == "image")

    def put_into_weights(self, merge: Callable[[], None]) -> Iterator[Stage]:
        """Let ``merge`` put the LoRA into the weights, which must give the same; the rest is compared after it."""
        text = self._seen(None)
        before, _ = self._logits(text)
        merge()
        after, _ = self._logits(text)
        yield self._share("logits (text), LoRA in the weights", after.numpy(), before, EXACT)

    def stages(self, mmproj: str = "mmproj.gguf") -> Iterator[Stage]:
        """Compare on texts, on a conversation without pictures and on one about a picture of each of some sizes.

        ``mmproj``: name of the file of tower and projector.
        """
        text, *asked = [self._seen(None), *(self._seen(picture(*size)) for size in self._sizes())]
        found = self._carried_out(text, asked, mmproj)
        yield from self._texts(found)
        yield from self._text(text, found)
        for seen in asked:
            yield from self._picture(seen, found)

    def rounded(self, dtype: str, limit: float) -> Iterator[Stage]:
        """How far files in another dtype are from the run, on a conversation without pictures."""
        text = self._seen(None)
        found = self._carried_out(text, [], "mmproj.gguf")
        yield from self._texts(found)
        stage = self._share("", found["prompt/logits"], self._logits(text)[0], limit)
        yield Stage(f"logits (text), rounded to {dtype}", stage.difference, limit)

    def by_transformers(self) -> Iterator[Stage]:
        """Logits of what transformers reads of the LLM's file, where it reads it."""
        text = self._seen(None)
        try:
            with tempfile.TemporaryDirectory(prefix="mmllm-gguf-") as place:
                with dequantised(self.folder / "model.gguf", torch.float32, Path(place)) as folder, quiet():
                    theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        except MmllmError as error:
            yield Stage(f"transformers does not read the LLM's file ({error}), so its logits are unverified", 0, 0)
            return
        with torch.inference_mode():
            logits = theirs(input_ids=torch.tensor([text.encoded.ids])).logits[0]
        yield self._share("logits (text), by transformers", logits.numpy(), self._logits(text)[0], EXACT)

    def _sizes(self) -> Sequence[tuple[int, int]]:
        if self.pictures is None:
            return ()
        own = (self.pictures.tower.size, self.pictures.tower.size)
        return (own, *SIZES) if self.pictures.same_pixels else (own,)

    def _carried_out(self, text: Seen, asked: Sequence[Seen], mmproj: str) -> Found:
        with tempfile.TemporaryDirectory(prefix="mmllm-gguf-") as place:
            shown = []
            for seen in asked:
                file = Path(place) / f"{seen.name}.npy"
                numpy.save(file, numpy.asarray(seen.image))
                shown.append(Picture(seen.name, str(file), seen.prompt))
            longest = max(len(seen.encoded.ids) for seen in (*asked, text))
            task = Task(
                model=str(self.folder / "model.gguf"),
                texts=list(TEXTS),
                prompt=text.prompt,
                new=NEW,
                context=longest + NEW + 8,
                threads=torch.get_num_threads(),
                mmproj="" if self.pictures is None else str(self.folder / mmproj),
                pictures=shown,
            )
            return run_llama_cpp(task, Path(place))

    def _texts(self, found: Found) -> Iterator[Stage]:
        for n, text in enumerate(TEXTS):
            ours = self.model.llm.tokenizer(text, add_special_tokens=False).input_ids
            theirs = found[f"ids/{n}"].tolist()
            detail = "" if ours == theirs else f"{text!r} is {ours} in the run, {theirs} there"
            yield Stage(f"ids of text {n + 1}", float(ours != theirs), 0, detail)

    def _text(self, seen: Seen, found: Found) -> Iterator[Stage]:
        yield self._ids(seen, found["prompt/ids"].tolist())
        logits, _ = self._logits(seen)
        yield self._share("logits (text)", found["prompt/logits"], logits, self.exact)
        yield self._answer(seen, found["prompt/answer"].tolist(), None)

    def _picture(self, seen: Seen, found: Found) -> Iterator[Stage]:
        """A picture's pixels, its tokens, and what the LLM makes of them."""
        assert self.pictures is not None and seen.image is not None
        yield self._pixels(seen)
        theirs = found[f"{seen.name}/tokens"] * self.pictures.scale
        logits, tokens = self._logits(seen)
        if self.pictures.class_token:
            # as builds since May 2025 have it: the class token behind the patches, and the first patch not read
            name = f"tokens ({seen.name}), in their order"
            yield self._share(name, theirs[:-1], tokens[1:], LIMIT)
            return
        yield self._share(f"tokens ({seen.name})", theirs, tokens, LIMIT)
        if not self.pictures.same_text:
            return
        yield self._ids(seen, found[f"{seen.name}/ids"].tolist())
        # of their tokens, whose difference was judged above: a small one may grow in an LLM
        given = torch.from_numpy(theirs)
        logits, _ = self._logits(seen, given)
        yield self._share(f"logits ({seen.name})", found[f"{seen.name}/logits"], logits[-1], self.exact)
        yield self._answer(seen, found[f"{seen.name}/answer"].tolist(), given)

    def _pixels(self, seen: Seen) -> Stage:
        """Largest difference between what the run makes of a picture and of one that Pillow has resized."""
        assert self.pictures is not None
        entry = self.model.inputs[self._shown]
        (processor,) = entry.processors.values()
        made, resized = processor.read(seen.image)["pixels"], processor.read(self._resized(seen.image))["pixels"]
        deviations = torch.tensor(self.pictures.tower.std).view(3, 1, 1)
        levels = float(((made - resized) * deviations * 255).abs().max())
        return Stage(f"pixels ({seen.name}), in 1/255", round(levels, 3), LEVEL)

    def _resized(self, image: Any) -> Image.Image:
        assert self.pictures is not None
        size = self.pictures.tower.size
        found: Image.Image = image.resize((size, size), PILLOW[self.pictures.projection.resample])
        return found

    @torch.inference_mode()
    def _logits(self, seen: Seen, tokens: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Logits float[S, V] of the run, and its tokens float[T, D] of the picture; ``tokens``: taken instead."""
        model = self.model
        batch = collate([seen.encoded], model.inputs, model.llm.positions)
        ctx, embeds = model.embed(batch)
        rows = next(iter(batch.media_positions.values()), torch.zeros(0, dtype=torch.long))
        own = embeds[rows]
        if tokens is not None:
            embeds = embeds.clone()
            embeds[rows] = tokens
        hidden = model.llm(embeds, ctx)
        return model.llm.logits(hidden, ctx, torch.arange(len(hidden))), own

    def _ids(self, seen: Seen, theirs: list[int]) -> Stage:
        ours = list(seen.encoded.ids)
        for span in seen.encoded.spans:
            ours[span.start : span.start + span.length] = [-1] * span.length
        return Stage(f"ids ({seen.name})", float(ours != theirs), 0, "" if ours == theirs else _parting(ours, theirs))

    def _answer(self, seen: Seen, theirs: list[int], tokens: Tensor | None) -> Stage:
        """How far each token of their greedy answer is from being the run's likeliest, as a share of the spread.

        ``tokens``: of the picture, as they have them.
        """
        start = len(seen.encoded.ids)
        said = [*seen.encoded.ids, *theirs]
        answered = replace(seen, encoded=replace(seen.encoded, ids=said, labels=[IGNORE_INDEX] * len(said)))
        logits = self._logits(answered, tokens)[0][start - 1 :]
        likeliest = logits.max(dim=-1).values
        chosen = logits[torch.arange(len(theirs)), torch.tensor(theirs, dtype=torch.long)]
        missed = (likeliest[: len(theirs)] - chosen).tolist()
        if len(theirs) < NEW:  # it ended: on one of the tokens on which the run ends
            missed.append(float(likeliest[-1] - logits[-1, list(self.prompter.end_ids)].max()))
        spread = float(logits.max() - logits.min()) or 1.0
        text = self.model.llm.tokenizer.decode(theirs)
        worst = max(missed) / spread
        detail = "" if worst <= self.exact else f"{text!r} there is not the run's likeliest"
        return Stage(f"answer ({seen.name})", worst, self.exact, detail)

    def _share(self, name: str, theirs: numpy.ndarray, ours: Tensor, limit: float) -> Stage:
        """Largest difference as a share of the spread."""
        if theirs.shape != tuple(ours.shape):
            return Stage(name, 1, limit, f"{list(theirs.shape)} there, {list(ours.shape)} in the run")
        spread = float(ours.max() - ours.min()) or 1.0
        return Stage(name, float((torch.from_numpy(theirs) - ours).abs().max()) / spread, limit)

    def _seen(self, image: Image.Image | None) -> Seen:
        turns, plain = [Message(role, text) for role, text in TALK], list(TALK)
        media: dict[str, tuple[Any, ...]] = {}
        if image is not None:
            key = self._shown
            turns[0] = Message(turns[0].role, f"<{key}>\n{turns[0].text}")
            # a run that hands its template messages in parts has no line break behind a picture's
            plain[0] = (plain[0][0], f"{MARK}{'' if self._in_parts else chr(10)}{plain[0][1]}")
            media = {key: (self._resized(image),)}
        name = "text" if image is None else f"{image.width} x {image.height}"
        sample = Sample("comparison", tuple(turns), media)
        encoded = encode(sample, self.prompter, self.model.inputs, self.model.llm.context, train=False)
        return Seen(name, encoded, image, self._rendered(plain))

    @property
    def _in_parts(self) -> bool:
        return any(place.token is not None for place in self.model.places)

    def _rendered(self, talk: Sequence[tuple[str, str]]) -> str:
        """A conversation by the template, without the beginning that llama.cpp puts there itself."""
        tokenizer: Any = self.model.llm.tokenizer
        messages = [
            {"role": role, "content": [{"type": "text", "text": text}] if self._in_parts else text}
            for role, text in talk
        ]
        text: str = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        return text.removeprefix(tokenizer.bos_token) if self.starts else text


def _parting(ours: Sequence[int], theirs: Sequence[int]) -> str:
    """Where two lists of ids part, in words."""
    same = (n for n, (one, other) in enumerate(zip(ours, theirs, strict=False)) if one != other)
    at = next(same, min(len(ours), len(theirs)))
    shown = f"{theirs[at : at + 4]} there, {ours[at : at + 4]} in the run"
    return f"{len(theirs)} there, {len(ours)} in the run; from position {at} on: {shown}"
