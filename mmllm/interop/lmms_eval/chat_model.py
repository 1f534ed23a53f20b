"""The class that lmms-eval makes for ``--model mmllm``: a run, asked through the same ``Generator`` as everywhere.

Only lmms-eval imports this module: it derives from its base class.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from itertools import groupby
from typing import Any

import torch
from accelerate import Accelerator
from lmms_eval.api.instance import GenerationResult, Instance, TokenCounts
from lmms_eval.api.model import lmms

from mmllm.api import load
from mmllm.errors import MmllmError, SampleError
from mmllm.generation.generator import Encoded
from mmllm.generation.sampling import Sampling
from mmllm.interop.lmms_eval.requests import asked, messages_of, sampling_of

LOG = logging.getLogger(__name__)


class Mmllm(lmms):
    """A run of mmllm. ``--model_args pretrained=RUN``, with ``accept=changed`` or ``trust_code=True`` where wanted."""

    is_simple = False

    def __init__(
        self,
        pretrained: str,
        device: str | None = None,
        batch_size: int | str | None = 1,
        max_batch_size: int | str | None = None,
        accept: str | None = None,
        trust_code: bool | str = False,
    ) -> None:
        """Load a run.

        Args:
            pretrained: run folder, or name on the hub.
            device: where to; by default a GPU if there is one, and each rank's own under ``accelerate launch``.
            batch_size: questions answered at once.
            max_batch_size: lmms-eval's, for searching a batch size; not used.
            accept: ``changed``: go on where preprocessing or template are others than in training.
            trust_code: import the user's own classes that the run names.

        Raises:
            MmllmError: no such run, or ``batch_size`` is no number.
        """
        super().__init__()
        if not str(batch_size or 1).isdigit():
            raise MmllmError(f"lmms-eval: batch_size is {batch_size!r}; give a number of questions.")
        self.batch_size = int(batch_size or 1)
        accelerator = Accelerator()
        if accelerator.num_processes > 1:
            self.accelerator = accelerator
            self._rank, self._world_size = accelerator.process_index, accelerator.num_processes
            device = str(accelerator.device)
        self.model = load(pretrained, device, accept=accept == "changed", trust_code=str(trust_code) == "True")
        self.keys = tuple(self.model.model.inputs)

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.model.model.device

    def generate_until(self, requests: Sequence[Instance]) -> list[GenerationResult]:
        """Answers in the order of the requests.

        A question that cannot be asked (an unreadable picture, too long) has an empty answer, as in ``mmllm eval``,
        and is named in the log.
        """
        found: dict[int, GenerationResult] = {}
        in_order = sorted(enumerate(requests), key=lambda pair: repr(pair[1].args[2]))
        for _, group in groupby(in_order, key=lambda pair: repr(pair[1].args[2])):
            members = list(group)
            sampling = sampling_of(members[0][1].args[2], self.model.recipe.eval.max_new_tokens)
            for start in range(0, len(members), self.batch_size):
                found |= self._answered(members[start : start + self.batch_size], sampling)
        return [found[number] for number in range(len(requests))]

    def _answered(self, members: Sequence[tuple[int, Instance]], sampling: Sampling) -> dict[int, GenerationResult]:
        """Number of a request -> its answer."""
        encoded: dict[int, Encoded] = {}
        found = {}
        for number, request in members:
            _, to_messages, _, doc, task, split = request.args
            try:
                messages = asked(to_messages, self.task_dict[task][split][doc])
                encoded[number] = self.model.encode(messages_of(messages, self.keys))
            except SampleError as error:
                LOG.warning("%s, question %s of %s cannot be asked, its answer is empty: %s", task, doc, split, error)
                found[number] = GenerationResult(text="", token_counts=TokenCounts(output_tokens=0))
        answers = self.model.generator.complete(list(encoded.values()), sampling)
        for number, answer in zip(encoded, answers, strict=True):
            counts = TokenCounts(input_tokens=answer.prompt_tokens, output_tokens=answer.n_tokens)
            found[number] = GenerationResult(text=answer.text.strip(), token_counts=counts)
        for number, request in members:
            self.cache_hook.add_partial("generate_until", (request.args[0], request.args[2]), found[number].text)
        return found

    def generate_until_multi_round(self, requests: Sequence[Instance]) -> list[Any]:
        """Refused: tasks whose next question depends on the answer before."""
        raise MmllmError("lmms-eval: tasks of several rounds are not run through mmllm; choose others")

    def loglikelihood(self, requests: Sequence[Instance]) -> list[Any]:
        """Refused: tasks that score given continuations."""
        raise MmllmError("lmms-eval: tasks that score continuations (loglikelihood) are not run through mmllm")
