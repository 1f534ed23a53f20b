"""A loaded run as one object in Python: ask it, stream from it, look at its parts, save and share what it learned."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import torch
from huggingface_hub import ModelHubMixin

from mmllm.checkpoints.load import Trust, find_run, load_run
from mmllm.checkpoints.store import LEARNED, Manifest, commit, replace_text
from mmllm.errors import MmllmError
from mmllm.generation.generator import Completion, Delta, Encoded, Generator
from mmllm.generation.memory import Sizes
from mmllm.generation.sampling import Sampling
from mmllm.messages.chat import to_sample
from mmllm.model.input_digests import input_digests
from mmllm.model.trainable import frozen_digests, learned_parts, part_rows, trainable_state
from mmllm.recipe.load import digest, dump
from mmllm.recipe.models import Recipe
from mmllm.recipe.shaping import IMPORTED, shaping
from mmllm.types import Message

if TYPE_CHECKING:
    from mmllm.encoders.base import Encoder
    from mmllm.model.model import MultimodalLM

Messages = str | Sequence[Mapping[str, Any] | Message]
"""A question, or messages: dicts in OpenAI's form and ``Message`` objects, the user's last."""


CARD = """---
{{ card_data }}
---

Learned with mmllm: connectors between frozen encoders and a frozen LLM.
The recipe (`recipe.yaml`) names the frozen parts; their weights are not in here, and must be the same as in training.

```python
import mmllm

model = mmllm.load("{{ repo_id | default('user/name', true) }}")
model.chat("What is on it?", image="picture.png")
```
"""
"""Model card that goes with what is saved or pushed."""


class Model(ModelHubMixin, library_name="mmllm", tags=["mmllm"], model_card_template=CARD):
    """A multimodal LLM to ask. Media are given as paths, PIL images, arrays, bytes or data URLs, alike everywhere.

    ``model.chat("What is on it?", image="sign.png")``; ``model.stream(messages)``; ``model.generate([one, another])``.
    """

    def __init__(self, model: MultimodalLM, recipe: Recipe, folder: Path | None = None) -> None:
        """``folder``: the run it was loaded from."""
        self.model = model
        self.recipe = recipe
        self.folder = folder
        # the mixin (read in 2.4) would write __init__'s arguments as config.json: the recipe is all there is
        self._hub_mixin_config = None
        self.generator = Generator(model, Sizes.of(recipe.serve), recipe.serve.system)
        self._placeholders = {key: entry.modality for key, entry in model.inputs.items()}
        self._keys: dict[str, str] = {}
        for key, entry in model.inputs.items():
            # of several placeholders of one modality, `image=` means the recipe's first
            self._keys.setdefault(entry.modality, key)

    @classmethod
    def open(
        cls,
        run: str | Path,
        device: torch.device | str | None = None,
        stage: str | None = None,
        overrides: Sequence[str] = (),
        trust: Trust | None = None,
    ) -> Self:
        """Load a run, see ``mmllm.load``."""
        folder = find_run(run)
        recipe, model = load_run(folder, device, stage, overrides, trust)
        return cls(model, recipe, folder)

    def __repr__(self) -> str:
        """Its parts, one a line: key, class, parameters, and how many tokens an item takes."""
        lines = [f"mmllm.Model {self.recipe.name!r} on {self.model.device}"]
        rows, learned = part_rows(self.model), learned_parts(self.model)
        width = max(len(row.name) for row in rows)
        for row in rows:
            state = "learned" if row.name in learned else "frozen"
            connector = row.name.startswith("connectors.")
            entry = self.model.inputs.get(row.name.removeprefix("connectors.")) if connector else None
            n = None if entry is None else entry.n_tokens()
            tokens = (
                "" if entry is None else f", <{entry.key}> takes {'a varying number of' if n is None else n} tokens"
            )
            lines.append(f"  {row.name:{width}}  {row.modules}, {row.n_params:,} parameters, {state}{tokens}")
        return "\n".join(lines)

    @property
    def encoders(self) -> dict[str, Encoder]:
        """Key -> frozen encoder; call one with what :meth:`process` gives."""
        return dict(self.model.encoders.items())  # type: ignore[arg-type]

    # ---- asking

    def chat(
        self,
        messages: Messages,
        *,
        max_new_tokens: int | None = None,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int | None = None,
        stop: str | Sequence[str] = (),
        **media: Any,
    ) -> str:
        """Answer a question or a conversation.

        Args:
            messages: a question, or messages whose last is the user's.
            max_new_tokens: of the answer; default: the recipe's for evaluation.
            temperature: 0: the most probable token each time.
            top_p: share of the probability that tokens are drawn from.
            seed: of the draw; the same seed gives the same answer.
            stop: a text that ends the answer, or several; they are left out of it.
            media: ``image=``, ``images=``, ``video=``, ``audio=``, ``graph=``, ``points=``, ``document=`` or a
                placeholder's name: an item or a list of them.

        Raises:
            SampleError: what is wrong with the messages or the media.
        """
        pieces = self.stream(
            messages,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            top_p=top_p,
            seed=seed,
            stop=stop,
            **media,
        )
        return "".join(piece.text for piece in pieces)

    def stream(
        self,
        messages: Messages,
        *,
        max_new_tokens: int | None = None,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int | None = None,
        stop: str | Sequence[str] = (),
        **media: Any,
    ) -> Iterator[Delta]:
        """Answer as :meth:`chat`, piece by piece; the last one has ``finish`` set. Media are read before it returns."""
        limit = self.recipe.eval.max_new_tokens if max_new_tokens is None else max_new_tokens
        sampling = Sampling(limit, temperature, top_p, seed, _listed(stop))
        return self.generator.stream_encoded(self.encode(messages, **media), sampling)

    def encode(self, messages: Messages, **media: Any) -> Encoded:
        """A conversation as the generator takes it, its media read; ``media`` and errors as :meth:`chat` has them."""
        return self.generator.encode(self._sample(messages, media))

    def generate(
        self, conversations: Sequence[Messages], *, max_new_tokens: int | None = None, stop: str | Sequence[str] = ()
    ) -> list[Completion]:
        """Answer several conversations at once, greedily, in their order: the same answers as :meth:`chat` gives.

        A conversation's media stand in its messages' parts.
        """
        if isinstance(conversations, str):
            raise MmllmError(f"generate takes a list of conversations; write generate([{conversations!r}]).")
        limit = self.recipe.eval.max_new_tokens if max_new_tokens is None else max_new_tokens
        samples = [self._sample(one, {}, f"conversation {n}") for n, one in enumerate(conversations, 1)]
        return self.generator.generate(samples, limit, _listed(stop))

    def process(self, **media: Any) -> dict[str, torch.Tensor]:
        """Read one item for the encoder that takes it: ``model.encoders["image"](**model.process(image="a.png"))``.

        With an encoder's key instead of a modality that encoder's inputs are given.
        """
        if len(media) != 1:
            raise MmllmError(f"process takes one item by its modality, found {', '.join(media) or 'none'}.")
        name = next(iter(media))
        named = name in self.model.encoders
        key = next((k for k, one in self.model.inputs.items() if name in one.encoders), None) if named else name
        # as a chat without text: an item may then have every form that chat takes
        sample = self._sample("", {key or name: media[name]})
        if sum(map(len, sample.media.values())) != 1:
            found = sum(map(len, sample.media.values()))
            raise MmllmError(f"process takes one item; {name} has {found}, call it for each.")
        placeholder, items = next(iter(sample.media.items()))
        entry = self.model.inputs[placeholder]
        inputs = entry.read_alone(items[0])
        chosen = inputs[name if named else next(iter(inputs))]
        return {word: value.to(self.model.device) for word, value in chosen.items()}

    def _sample(self, messages: Messages, media: Mapping[str, Any], name: str = "chat") -> Any:
        return to_sample(messages, keys=self._keys, media=media, name=name, placeholders=self._placeholders)

    # ---- keeping

    def save_pretrained(self, save_directory: str | Path, **others: Any) -> Any:
        """Write a run folder of the learned weights; ``others``: ``huggingface_hub``'s, as ``push_to_hub`` and
        ``repo_id``.

        Raises:
            MmllmError: the place cannot be written, or holds a run.
        """
        try:
            return super().save_pretrained(save_directory, **others)
        except OSError as error:
            raise MmllmError(f"{save_directory} cannot be written ({error.strerror or error}).") from error

    # huggingface_hub's mixin (read in 2.4) calls this and the next one from save_pretrained and push_to_hub
    def _save_pretrained(self, save_directory: Path) -> None:
        """Write the learned tensors, the resolved recipe and the digests of the frozen parts, as a run folder.

        ``mmllm.load``, ``mmllm eval``, ``chat`` and ``serve`` take it; it holds no frozen weights: their paths in the
        recipe must lead to the same ones.
        """
        if (save_directory / "stages").exists():
            raise MmllmError(
                f"{save_directory} holds a run already, and saving would replace its checkpoints; choose another "
                "folder."
            )
        # as a finished last stage: then all that opens a run finds it, and training has nothing left to do
        last = [IMPORTED, *self.recipe.stages][-1]
        replace_text(save_directory / "recipe.yaml", dump(self.recipe))
        head = Manifest(
            stage=last,
            step=0,
            final=True,
            world=1,
            recipe=digest(self.recipe),
            frozen=frozen_digests(self.model),
            shaping=shaping(self.recipe),
            inputs=input_digests(self.model),
        )
        learned = {name: tensor.detach().cpu().clone() for name, tensor in trainable_state(self.model).items()}
        commit(save_directory / "stages" / last, head, {LEARNED: learned}, keep=1)

    @classmethod
    def _from_pretrained(
        cls,
        *,
        model_id: str,
        revision: str | None = None,
        cache_dir: str | Path | None = None,
        force_download: bool = False,
        local_files_only: bool = False,
        token: str | bool | None = None,
        device: torch.device | str | None = None,
        stage: str | None = None,
        **others: Any,
    ) -> Self:
        """Open what ``save_pretrained`` or ``push_to_hub`` wrote; ``device`` and ``stage`` as in ``mmllm.load``."""
        if others:
            raise MmllmError(
                f"from_pretrained does not know {', '.join(sorted(others))}; besides the hub's own arguments it takes "
                "device and stage."
            )
        folder = find_run(
            model_id,
            revision=revision,
            cache_dir=cache_dir,
            force_download=force_download,
            local_files_only=local_files_only,
            token=token,
        )
        return cls.open(folder, device, stage)


def _listed(stop: str | Sequence[str]) -> tuple[str, ...]:
    # one text alone, as in OpenAI's API: a text is a sequence too, of its letters
    return (stop,) if isinstance(stop, str) else tuple(stop)
