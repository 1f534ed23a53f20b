"""IAA inside the LLM: whole decoder layers after chosen frozen ones, used in multimodal conversations only.

Wang et al. 2024, arXiv:2408.12902, after the authors' code (360CVGroup/Inner-Adaptor-Architecture).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from mmllm.connectors.base import LLMAdapter
from mmllm.errors import MmllmError
from mmllm.hooks import ChangeOutput, ForwardContext, Handle
from mmllm.hooks.points import LLMHookPoints

PRIVATE = ("embeddings", "norm", "head")
"""Parts that a branch may have of its own beside its layers."""


class InnerAdaptorConnector(LLMAdapter):
    """Inner-Adaptor Architecture (Wang et al. 2024, arXiv 2408.12902): copies of decoder layers behind frozen ones.

    Learned copies I_j, each behind the frozen layer F_l it was copied from.

    With S the layers of ``after`` and j the index of l in S, where the connector is active (``when:``)::

        h = E(ids), media merged in
        for l in 0 .. L - 1:   u = F_l(h);   h = I_j(u) if l in S else u
        logits = Head(Norm(h))

    E, Norm and Head are the LLM's, or with ``private`` learned copies of them. I_j keeps keys and values of its own in
    the cache. Elsewhere nothing changes, bit for bit. It is not parameter-efficient: in Llama-3-8B a layer has 218 M
    weights, private embeddings and head V x D = 525 M each (also where the LLM ties them).

    A second branch for other conversations (the paper's is for grounding) is a second entry: ``with_text`` in one and
    the same ``without_text`` in the other share the multimodal conversations out by what their text says. It needs no
    flag that a request could forget, so it is the same in training, evaluation and serving. (Two placeholders with one
    entry each and ``when:`` do it too, by the placeholder, and give each branch a projector of its own.)
    """

    attaches_to_parts = True

    def __init__(
        self,
        *,
        llm_dim: int,
        after: Sequence[int],
        init: Literal["copy", "zero"] = "copy",
        private: Sequence[str] = (),
        position: Literal["inside", "input"] = "inside",
        with_text: str | None = None,
        without_text: str | None = None,
    ) -> None:
        """Set up, without weights until ``attach``.

        Args:
            llm_dim: width of the LLM.
            after: numbers of the frozen layers that are followed by a copy of themselves, from 0.
            init: ``copy``, or ``zero``: a copy whose output projections (attention and MLP) are zero, so that the start
                is the LLM itself, exactly.
            private: any of embeddings, norm (the last one) and head, as learned copies.
            position: ``inside``, or ``input``: all copies before layer 0, one after the other (for comparison); they
                then attend as layer 0 does where layers differ in window or positions.
            with_text: be active only in conversations whose text holds this; needs ``when``. Looked for in all of a
                training conversation but only in what precedes the answer when generating, so choose a request's words.
            without_text: be active only in conversations whose text does not hold this; needs ``when``.
        """
        super().__init__(llm_dim=llm_dim)
        if not after or len(set(after)) < len(after):
            raise MmllmError(f"inner_adaptor: after {list(after)} must name at least one layer, and each only once.")
        for value, known, what in ((init, ("copy", "zero"), "init"), (position, ("inside", "input"), "position")):
            if value not in known:
                raise MmllmError(f"inner_adaptor: {what} {value!r} must be {known[0]} or {known[1]}.")
        unknown = [part for part in private if part not in PRIVATE]
        if unknown:
            raise MmllmError(f"inner_adaptor: private {unknown[0]!r} is not known; it may be {', '.join(PRIVATE)}.")
        if with_text == "" or without_text == "":
            raise MmllmError("inner_adaptor: with_text and without_text must hold some text, or be left out.")
        self.after, self.init, self.position = sorted(after), init, position
        self.private_parts = [part for part in PRIVATE if part in private]
        self.with_text, self.without_text = with_text, without_text
        self.zero_init = init == "zero"
        self.goes_on = not self._reads_text  # which is looked for in the whole prompt
        self.shares_prefix = not self._reads_text
        self.layers = nn.ModuleDict()
        self.private = nn.ModuleDict()
        self._tokenizer: Any = None  # of the LLM, once attached

    # ---- where it works

    def active(self, ctx: ForwardContext) -> Tensor | None:
        """Return where it works, as every connector; with a text to look for only in conversations that it chooses."""
        active = super().active(ctx)
        if active is None or not self._reads_text:
            return active
        return ctx.once((self, "active"), lambda: active & self._suiting(ctx)[ctx.sequence_ids][..., None])

    @property
    def _reads_text(self) -> bool:
        return self.with_text is not None or self.without_text is not None

    def _suiting(self, ctx: ForwardContext) -> Tensor:
        """bool[B], conversations whose text suits, among those with media."""
        assert self.when is not None
        # kept by item: decoding drops finished rows and goes on with ids of single tokens, so what the first pass over
        # these conversations found must be told of those that are left
        if self.key not in ctx.media:
            ctx.media[self.key] = self._read(ctx)
        suits = torch.zeros_like(ctx.has_media[self.when[0]])
        for key, found in zip(self.when, ctx.media[self.key], strict=True):
            owners = ctx.item_sequence[key]
            suits[owners[found & (owners >= 0)]] = True
        return suits

    def _read(self, ctx: ForwardContext) -> tuple[Tensor, ...]:
        """For each placeholder of ``when`` bool[N]: whether the text of the conversation of an item suits."""
        assert self.when is not None
        text = ctx.attention_mask & ~ctx.media_mask()  # ids at pads and at media positions mean nothing
        said: list[list[int]] = [[] for _ in ctx.dataset_names]
        for number, token in zip(ctx.sequence_ids[text].tolist(), ctx.input_ids[text].tolist(), strict=True):
            said[number].append(token)
        found = [self._suits(self._tokenizer.decode(tokens, clean_up_tokenization_spaces=False)) for tokens in said]
        suits = torch.tensor(found, dtype=torch.bool, device=text.device)
        return tuple(suits[ctx.item_sequence[key]] for key in self.when)

    def _suits(self, text: str) -> bool:
        wanted = self.with_text is None or self.with_text in text
        return wanted and (self.without_text is None or self.without_text not in text)

    # ---- inside the LLM

    def attach(self, llm: LLMHookPoints) -> Handle:
        """Make the weights, once, and insert them.

        Raises:
            MmllmError: a layer the LLM does not have, or a text to look for without ``when``.
        """
        if self.after[0] < 0 or self.after[-1] >= llm.n_blocks:
            raise MmllmError(f"inner_adaptor: after {self.after}: this LLM has layers 0 to {llm.n_blocks - 1}.")
        if self._reads_text and self.when is None:
            raise MmllmError("inner_adaptor: with_text and without_text choose multimodal conversations; add when.")
        if not self.layers:
            self._make(llm)
        self._tokenizer = llm.tokenizer
        handles: list[Handle] = []
        if "embeddings" in self.private:
            handles.append(llm.after_embed(self._after_embed()))
        if "norm" in self.private:
            handles.append(llm.after_final_norm(self._after_norm()))
        if "head" in self.private:
            handles.append(llm.after_head(self._after_head()))
        # in ascending order: with ``input`` all stand at one place, where hooks run in the order they were made in
        for index in self.after:
            place = index if self.position == "inside" else -1
            handles.append(llm.insert_block(place, self.layers[str(index)], self.select))
        return Handle.of(handles)

    def _make(self, llm: LLMHookPoints) -> None:
        """Copy what will learn; the LLM is whole at this moment."""
        for index in self.after:
            frozen = llm.blocks[index]
            # before block 0 a copy must have its kind of attention (window, positions), whatever block it came from
            block = llm.copy_block(index if self.position == "inside" else 0)
            if self.position == "input" and index > 0:
                block.load_state_dict(frozen.state_dict())
            if self.init == "zero":
                for name in _output_projections(llm, index):
                    for parameter in block.get_submodule(name).parameters():
                        nn.init.zeros_(parameter)
            self.layers[str(index)] = block
        model = llm.model
        sources = {"embeddings": model.get_input_embeddings, "norm": lambda: llm.final_norm}
        sources["head"] = model.get_output_embeddings
        for part in self.private_parts:
            self.private[part] = _learning(sources[part](), llm)

    def _after_embed(self) -> ChangeOutput:
        def change(ctx: ForwardContext, ids: Tensor, embeds: Tensor) -> Tensor:
            return self.select(ctx, self.private["embeddings"](ids).to(embeds.dtype), embeds)

        return change

    def _after_norm(self) -> ChangeOutput:
        def change(ctx: ForwardContext, x: Tensor, output: Tensor) -> Tensor:
            return self.select(ctx, self.private["norm"](x.float()).to(output.dtype), output)

        return change

    def _after_head(self) -> ChangeOutput:
        def change(ctx: ForwardContext, x: Tensor, output: Tensor) -> Tensor:
            own = self.private["head"](x.float()).to(output.dtype)
            active = self.active(ctx)
            if active is None:
                return own
            # float[1, M, V]: chosen positions of the packed row, or in decoding the last position of each of M rows
            places = ctx.head_positions
            active = active[:, -1] if places is None else active.flatten()[places]
            return torch.where(active.view(1, output.shape[1], 1), own, output)

        return change


def _output_projections(llm: LLMHookPoints, index: int) -> list[str]:
    """Names in block ``index`` of the linear layers whose outputs are added to the residual stream.

    The last layer of the MLP; of the attention the last that is not the values' (Phi-3 lists its fused one last).
    """
    linears = llm.block_linears(index)
    values, _ = llm.value_projection(index)
    chosen = [[module for name, module in linears["attention"].items() if name != values][-1]]
    chosen.append(list(linears["mlp"].values())[-1])
    return [name for name, module in llm.blocks[index].named_modules() if any(module is one for one in chosen)]


def _learning(module: nn.Module, llm: LLMHookPoints) -> nn.Module:
    """A float32 copy without hooks that may learn."""
    copied = llm.copied(module)
    # through the LLM's dtype: a scale of the embeddings (Gemma) is rounded to it in the LLM's own forward
    return copied.to(llm.dtype).float()
