"""Methods of the peft library on the LLM's linear layers: LoRA, DoRA, (IA)^3, Poly, MHR, Arrow, X-LoRA; inside it.

The library's own layers compute; this file chooses them, hooks them in, and keeps their weights in the connector.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from peft.utils.constants import (
    TRANSFORMERS_MODELS_TO_IA3_FEEDFORWARD_MODULES_MAPPING as IA3_FEEDFORWARD,
)
from peft.utils.constants import (
    TRANSFORMERS_MODELS_TO_IA3_TARGET_MODULES_MAPPING as IA3_TARGETS,
)
from torch import Tensor, nn

from mmllm.connectors.base import LLMAdapter
from mmllm.connectors.layers.basics import module_key
from mmllm.connectors.llm_adapters.peft.experts import Experts, TunerArrow, read_adapters
from mmllm.connectors.llm_adapters.peft.layers import RowGroups, Tuner, TunerDora, TunerIA3, TunerLora, TunerPoly
from mmllm.connectors.llm_adapters.peft.options import ARGUMENTS, family_layers, options
from mmllm.connectors.llm_adapters.peft.xlora import Router, TunerXLora
from mmllm.errors import MmllmError
from mmllm.hooks import ChangeOutput, ForwardContext, Handle
from mmllm.hooks.points import LLMHookPoints

EXPERTS = ("arrow", "xlora")
"""Methods that weigh LoRAs which were trained before."""


class PeftConnector(LLMAdapter):
    """Methods of the peft library, by its own layers: LoRA, DoRA, (IA)^3, Poly, MHR, Arrow, X-LoRA.

    ``y <- tuner(x, y)`` on each target layer.

    ``x`` float[R, S, in] and ``y`` float[R, S, out] are a frozen layer's input and output. Which equations: see the
    classes of ``peft.layers``, ``peft.experts`` and ``peft.xlora``. Untrained, all but the last two methods leave the
    LLM unchanged bit for bit.

    Poly and MHR choose by task: the recipe's data key of each conversation. Arrow and X-LoRA weigh, token by token,
    LoRAs that were trained before (see ``peft.export``); Arrow by their geometry, so it trains nothing, X-LoRA by a
    classifier, the only part of it that learns.
    """

    zero_init = True

    def __init__(
        self,
        *,
        llm_dim: int,
        method: Literal["lora", "dora", "ia3", "poly", "mhr", "arrow", "xlora"],
        rank: int | None = None,
        alpha: float | None = None,
        dropout: float | None = None,
        rslora: bool | None = None,
        targets: str | Sequence[str] | None = None,
        feedforward: str | Sequence[str] | None = None,
        tasks: Sequence[str] | None = None,
        default_task: str | None = None,
        skills: int | None = None,
        splits: int | None = None,
        adapters: Sequence[str] | None = None,
        top_k: int | None = None,
        temperature: float | None = None,
        depth: int | None = None,
        width: int | None = None,
        layerwise: bool | None = None,
    ) -> None:
        """Set up, without weights until ``attach``. An argument that the method does not take is an error.

        Args:
            llm_dim: width of the LLM.
            method: which of peft's tuners.
            rank: of lora, dora (16), poly, mhr (8).
            alpha: lora and dora scale by alpha / rank (32).
            dropout: of the input of the update, lora and dora (0; with it dora computes the frozen product twice); in
                xlora's classifier (0.2).
            rslora: scale by alpha / sqrt(rank), lora and dora (false).
            targets: ``all-linear`` or layer names; ia3 takes peft's choice for the LLM's family where it has one.
            feedforward: ia3: those of ``targets`` whose input is scaled instead of their output.
            tasks: poly and mhr: data keys of the recipe, one task each.
            default_task: poly and mhr: the task of conversations without data key (evaluation, requests); without it
                they are an error.
            skills: poly and mhr: number of low-rank skills that are mixed (4).
            splits: mhr: blocks of the inputs and outputs, each with a mixture of its own (4).
            adapters: arrow and xlora: folders of trained LoRAs in peft's format, of equal rank and targets.
            top_k: experts per token: arrow (3), xlora (all; peft does not renormalise the rest).
            temperature: of the softmax over them, arrow and xlora (1).
            depth: xlora: number of linear layers of the classifier (1).
            width: xlora: of the classifier between its layers (2048).
            layerwise: xlora: weights of their own for each layer of the LLM (false).
        """
        super().__init__(llm_dim=llm_dim)
        # None: not given, so that an argument of another method is an error and not passed over
        given = {key: value for key, value in locals().items() if key in ARGUMENTS and value is not None}
        self.method = method
        self.options = options(method, given)
        self.zero_init = method not in EXPERTS
        # poly and mhr weigh skills by a conversation, the experts by what others of the row were given
        # its passes without adapters have keys and values of their own
        self.goes_on = method != "xlora"
        self.shares_prefix = method in ("lora", "dora", "ia3")
        self.positionwise, self.has_dropout = self.shares_prefix, bool(dropout)
        self.layers = nn.ModuleDict()
        self.router: Router | None = None

    def attach(self, llm: LLMHookPoints) -> Handle:
        """Make peft's layer for each target layer and let it change that layer's output (or input)."""
        experts = read_adapters(self.options["adapters"], llm) if self.method in EXPERTS else None
        linears = self._linears(llm) if experts is None else experts.linears
        feedforward = set(self._feedforward(llm))
        made: list[Handle] = []
        if self.method == "xlora":
            self.router = self.router or Router(llm, len(linears), self.options)
            made.append(self.router.attach(llm))
        for number, (name, base) in enumerate(linears.items()):
            key = module_key(name)
            if key not in self.layers:
                layer = self._routed(name, base, number, experts) if experts else self._layer(name, base, feedforward)
                self.layers[key] = layer.to(llm.device)
            made.append(self._hook(llm, name, self.layers[key], name in feedforward))
        return Handle.of(made)

    def skip_if_zero(self) -> None:
        """Find out which layers may be skipped; to be called whenever weights were loaded or (un)frozen."""
        for layer in self.layers.values():
            assert isinstance(layer, Tuner)
            layer.skip_if_zero()

    def _linears(self, llm: LLMHookPoints) -> dict[str, nn.Module]:
        """Name in the LLM -> frozen layer of each target."""
        targets = self.options["targets"]
        return llm.linears(family_layers(llm, IA3_TARGETS) if targets is None else targets)

    def _feedforward(self, llm: LLMHookPoints) -> list[str]:
        """Names of the layers whose input ia3 scales; none for other methods."""
        if self.method != "ia3":
            return []
        chosen = self.options["feedforward"]
        if chosen is None:
            chosen = family_layers(llm, IA3_FEEDFORWARD) if self.options["targets"] is None else []
        names = list(llm.linears(chosen)) if chosen else []
        lost = [name for name in names if name not in self._linears(llm)]
        if lost:
            raise MmllmError(f"peft: feedforward {chosen} must be among targets, {lost[0]} is not.")
        return names

    def _words(self) -> dict[str, Any]:
        """Arguments of peft's LoraConfig."""
        found = self.options
        words = {"r": found["rank"], "lora_alpha": found["alpha"], "lora_dropout": found["dropout"]}
        return {**words, "use_rslora": found["rslora"]}

    def _layer(self, name: str, base: nn.Module, feedforward: set[str]) -> Tuner:
        if self.method == "lora":
            return TunerLora(base, self._words())
        if self.method == "dora":
            return TunerDora(base, self._words())
        if self.method == "ia3":
            return TunerIA3(base, name in feedforward)
        found = self.options
        splits = found["splits"] if self.method == "mhr" else 1
        return TunerPoly(base, name, found["rank"], len(found["tasks"]), found["skills"], splits)

    def _routed(self, name: str, base: nn.Module, number: int, experts: Experts) -> Tuner:
        if self.method == "arrow":
            return TunerArrow(base, experts.experts, name, self.options["top_k"], self.options["temperature"])
        assert self.router is not None
        return TunerXLora(base, experts.experts, name, number, self.router.config)

    def _hook(self, llm: LLMHookPoints, name: str, layer: Any, before: bool) -> Handle:
        def change_input(ctx: ForwardContext, x: Tensor) -> Tensor:
            return x if layer.idle else self.select(ctx, layer(x), x)

        return llm.before_linear(name, change_input) if before else llm.after_linear(name, self._change(layer))

    def _change(self, layer: Any) -> ChangeOutput:
        def change(ctx: ForwardContext, x: Tensor, output: Tensor) -> Tensor:
            # before anything is skipped: data without a task is refused in every stage, not first in a later one
            words = (self._rows(ctx),) if isinstance(layer, TunerPoly) else ()
            if layer.idle:
                return output
            if isinstance(layer, TunerXLora) and self.router is not None:
                return self.select(ctx, layer(x, output, self.router.scalings(ctx)), output)
            return self.select(ctx, layer(x, output, *words), output)

        return change

    def _rows(self, ctx: ForwardContext) -> RowGroups:
        """Conversations of the pass by their tasks, for poly and mhr.

        Raises:
            MmllmError: a conversation of no task, and no ``default_task``.
        """

        def make() -> RowGroups:
            # in training one token alone is what a rank without a sample runs on: it has no label, so any task will do
            empty = self.training and ctx.sequence_ids.numel() == 1
            return RowGroups(ctx, [0] if empty else [self._task(name) for name in ctx.dataset_names])

        return ctx.once((self, "rows"), make)

    def _task(self, dataset: str) -> int:
        """Number of the task of a conversation of the data key ``dataset`` (empty: of none)."""
        tasks, default = self.options["tasks"], self.options["default_task"]
        if dataset in tasks:
            return int(tasks.index(dataset))
        if dataset or default is None:
            what = f"a conversation of data.{dataset}" if dataset else "a conversation of no data key"
            hint = "add it to tasks" if dataset else "set default_task to one of them"
            raise MmllmError(f"peft: {what} has no task; tasks are {', '.join(tasks)}; {hint}.")
        return int(tasks.index(default))
