"""IAA inside the LLM: whole decoder layers after chosen frozen ones, used in multimodal conversations only.

Wang et al. 2024, arXiv:2408.12902, after the authors' code (360CVGroup/Inner-Adaptor-Architecture).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from mmllm.connectors.base import Attached, Connector, Handle
from mmllm.errors import MmllmError
from mmllm.types import Pass

PRIVATE = ("embeddings", "norm", "head")
"""What a branch may have of its own beside its layers."""


class InnerAdaptorConnector(Connector):
    """Learned copies I_j of decoder layers, each behind the frozen layer F_l it was copied from.

    With S the layers of ``after`` and j the index of l in S, where the connector is active (``when:``)::

        h = E(ids), media spliced in
        for l in 0 .. L - 1:   u = F_l(h);   h = I_j(u) if l in S else u
        logits = Head(Norm(h))

    E, Norm and Head are the LLM's, or with ``private`` learned copies of them. I_j keeps keys and values of its own in
    the cache. Elsewhere nothing changes, bit for bit. It is not parameter-efficient: in Llama-3-8B a layer has 218 M
    weights, private embeddings and head V x D = 525 M each (also where the LLM ties them).

    A second branch for other conversations (the paper's is for grounding) is a second entry: ``with_text`` in one and
    the same ``without_text`` in the other share the multimodal conversations out by what their text says. It needs no
    flag that a request could forget, so it is the same in training, evaluation and serving. (Two encoder keys with one
    entry each and ``when:`` do it too, by the placeholder, and give each branch a projector of its own.)
    """

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
        self.identity_at_start = init == "zero"
        self.layers = nn.ModuleDict()
        self.private = nn.ModuleDict()

    # ---- where it works

    def route(self, flow: Pass, memory: tuple[Tensor, ...] | None = None) -> None:
        """With a text to look for: ``memory`` holds what was found, for each item of the keys of ``when``."""
        super().route(flow, memory)
        if self._reads_text and memory is not None:
            self._narrow(memory)

    @property
    def _reads_text(self) -> bool:
        return self.with_text is not None or self.without_text is not None

    def _read(self, ids: Tensor, tokenizer: Any) -> None:
        """Look into each conversation of a packed row, before the pass of the LLM; ``ids`` int64[S]."""
        if self.flow is None or self.memory is not None:
            return  # decoding goes on: it was read with the first pass
        assert self.when is not None
        text = ~self.flow.shows()[0]  # ids at media positions mean nothing
        said: list[list[int]] = [[] for _ in self.flow.present[self.when[0]]]
        for number, token in zip(self.flow.sequence_ids[0][text].tolist(), ids[text].tolist(), strict=True):
            said[number].append(token)
        found = [self._suits(tokenizer.decode(tokens, clean_up_tokenization_spaces=False)) for tokens in said]
        suits = torch.tensor(found, dtype=torch.bool, device=ids.device)
        self.memory = tuple(suits[self.flow.owners[key]] for key in self.when)
        self._narrow(self.memory)

    def _suits(self, text: str) -> bool:
        wanted = self.with_text is None or self.with_text in text
        return wanted and (self.without_text is None or self.without_text not in text)

    def _narrow(self, memory: tuple[Tensor, ...]) -> None:
        """Be active only in conversations of the items that suit; by items, because decoding drops finished rows."""
        assert self.flow is not None and self.when is not None and self.active is not None
        suits = torch.zeros_like(self.flow.present[self.when[0]])
        for key, found in zip(self.when, memory, strict=True):
            owners = self.flow.owners[key]
            suits[owners[found & (owners >= 0)]] = True
        self.active = self.active & suits[self.flow.sequence_ids][..., None]

    # ---- inside the LLM

    def attach(self, llm: Any) -> Handle:
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
        handles: list[Handle] = []
        if self._reads_text or "embeddings" in self.private:
            handles.append(llm.after_embed(self._after_embed(llm.tokenizer)))
        if "norm" in self.private:
            handles.append(llm.after_final_norm(self._after_norm()))
        if "head" in self.private:
            handles.append(llm.after_head(self._after_head(llm)))
        for index in self.after:
            place = index if self.position == "inside" else -1
            handles.append(llm.insert_block(place, self.layers[str(index)], self.choose))
        return Attached(handles[::-1])

    def _make(self, llm: Any) -> None:
        """Copy what will learn; the LLM is whole at this moment."""
        for index in self.after:
            frozen = llm.blocks[index]
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

    def _after_embed(self, tokenizer: Any) -> Callable[[Tensor, Tensor], Tensor]:
        def change(ids: Tensor, embeds: Tensor) -> Tensor:
            if self._reads_text:
                self._read(ids, tokenizer)
            if "embeddings" not in self.private:
                return embeds
            return self.choose(self.private["embeddings"](ids).to(embeds.dtype), embeds)

        return change

    def _after_norm(self) -> Callable[[Tensor, Tensor], Tensor]:
        def change(x: Tensor, output: Tensor) -> Tensor:
            return self.choose(self.private["norm"](x.float()).to(output.dtype), output)

        return change

    def _after_head(self, llm: Any) -> Callable[[Tensor, Tensor], Tensor]:
        def change(x: Tensor, output: Tensor) -> Tensor:
            own = self.private["head"](x.float()).to(output.dtype)
            if self.active is None:
                return own
            # float[1, M, V]: chosen positions of the packed row, or in decoding the last position of each of M rows
            places = llm.head_places
            active = self.active[:, -1] if places is None else self.active.flatten()[places]
            return torch.where(active.view(1, output.shape[1], 1), own, output)

        return change

    @classmethod
    def tiny(cls, dim: int, llm: Any) -> InnerAdaptorConnector:
        """Copies after layers 0 and 2, zeroed, with everything private."""
        return cls(llm_dim=llm.dim, after=[0, 2], init="zero", private=PRIVATE)


def _output_projections(llm: Any, index: int) -> list[str]:
    """Names in block ``index`` of the linear layers whose outputs are added to the residual stream.

    The last layer of the MLP; of the attention the last that is not the values' (Phi-3 lists its fused one last).
    """
    linears = llm.block_linears(index)
    values, _ = llm.value_projection(index)
    chosen = [[module for name, module in linears["attention"].items() if name != values][-1]]
    chosen.append(list(linears["mlp"].values())[-1])
    return [name for name, module in llm.blocks[index].named_modules() if any(module is one for one in chosen)]


def _learning(module: nn.Module, llm: Any) -> nn.Module:
    """A float32 copy without hooks that may learn."""
    copied: nn.Module = llm.copied(module)
    # through the LLM's dtype: a scale of the embeddings (Gemma) is rounded to it in the LLM's own forward
    return copied.to(llm.dtype).float()
