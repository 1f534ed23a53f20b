"""Long text as a modality: a small frozen language model reads a document, apart from the LLM that is asked."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, AutoTokenizer, LlamaConfig, LlamaModel, PreTrainedTokenizerFast

from mmllm.encoders.base import Encoder
from mmllm.encoders.blocks import blocks_of
from mmllm.encoders.hook_points import BlockHooks
from mmllm.errors import MediaError, MmllmError
from mmllm.hooks import EncoderContext, Handle, TokenLayout
from mmllm.types import Features

MAX_BYTES = 16 * 2**20
Tail = Callable[[EncoderContext], Tensor]
"""context -> float[n, embed_dim]."""


class DocumentEncoder(Encoder):
    """Any decoder or encoder of transformers with its own tokenizer: a document of L tokens has the grid (L,).

    An item is a file (``Path``) or ``bytes`` in UTF-8, or a ``str``, which is the text itself. More than ``max_tokens``
    tokens are an error: nothing is cut. ``blocks`` keeps only the first so many blocks. Documents of a batch are padded
    behind their end and masked, so that a longer neighbour changes nothing.

    A connector that works inside (``text_memory``; ``receive``) may append tokens of its own behind each document; what
    the blocks make of them is ``Features.extras["memory"]``, float[N, appended, D * layers].
    """

    modality = "document"

    def __init__(
        self,
        *,
        model: str,
        layers: Sequence[int] = (-1,),
        max_tokens: int = 1024,
        blocks: int | None = None,
        max_bytes: int = MAX_BYTES,
    ) -> None:
        super().__init__(layers=layers)
        self.model, self.tokenizer = load_text_model(model)
        self.dim = int(self.model.config.hidden_size)
        found = blocks_of(self.model, self.model.config.num_hidden_layers)
        self._blocks = _first(self.model, found, blocks)
        self.max_tokens, self.max_bytes = max_tokens, max_bytes
        self._tail: Tail | None = None
        self._appended = 0
        self.resolve(self.n_blocks)
        self._fits(0)
        self.freeze()

    @property
    def n_blocks(self) -> int:
        """Transformer blocks that are used."""
        return len(self._blocks)

    @property
    def embed_dim(self) -> int:
        """Width of the tokens that enter the model; OPT's differs from ``dim``."""
        return int(self.model.get_input_embeddings().embedding_dim)

    def read(self, media: str | Path | bytes) -> dict[str, Tensor]:
        """One document -> ``{"ids": int64[L]}``; raises ``MediaError`` where it cannot be read or is too long."""
        text = self._text(media)
        ids = self.tokenizer(text, verbose=False)["input_ids"]
        if not ids or not text.strip():
            raise MediaError("the document is empty")
        if len(ids) > self.max_tokens:
            raise MediaError(
                f"the document has {len(ids)} tokens, over the limit of {self.max_tokens}; nothing is cut: shorten it, "
                "or raise max_tokens"
            )
        return {"ids": torch.tensor(ids, dtype=torch.int64)}

    def _text(self, media: str | Path | bytes) -> str:
        """The characters of a document."""
        if isinstance(media, str):
            return media
        if isinstance(media, Path):
            if not media.is_file():
                raise MediaError(f"there is no file {media}")
            if media.stat().st_size > self.max_bytes:
                raise MediaError(f"{media} has {media.stat().st_size} bytes, over the limit of {self.max_bytes}")
            media = media.read_bytes()
        if not isinstance(media, bytes):
            raise MediaError(f"a {type(media).__name__} is no document; give a Path, bytes or the text itself")
        if len(media) > self.max_bytes:
            raise MediaError(f"the document has {len(media)} bytes, over the limit of {self.max_bytes}")
        try:
            return media.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise MediaError(f"the document is not text in UTF-8 ({error.reason} at byte {error.start})") from error

    def grid(self, inputs: Mapping[str, Tensor]) -> tuple[int, ...]:
        """(tokens,) of one document."""
        return (len(inputs["ids"]),)

    def collate(self, items: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """``ids`` int64[N, most tokens], padded behind, and ``lengths`` int64[N]."""
        rows = [item["ids"] for item in items]
        lengths = torch.tensor([len(row) for row in rows])
        return {"ids": nn.utils.rnn.pad_sequence(rows, batch_first=True), "lengths": lengths}

    def dummy(self) -> dict[str, Tensor]:
        """A document of one token."""
        return {"ids": torch.zeros(1, dtype=torch.int64)}

    def receive(self, tail: Tail, n: int) -> Handle:
        """Append ``tail(ctx)`` float[n, embed_dim] behind each document in every pass from now on.

        Raises:
            MmllmError: another connector does so already, or the model has too few positions.
        """
        if self._tail is not None:
            raise MmllmError("two connectors would append tokens behind one encoder's documents; keep one of them.")
        self._fits(n)
        self._tail, self._appended = tail, n

        def undo() -> None:
            self._tail, self._appended = None, 0

        return Handle(undo)

    def hook_points(self) -> BlockHooks:
        """The blocks that are used."""
        return BlockHooks(self._blocks, self.dim, self.scope)

    def forward(self, **inputs: Tensor) -> Features:
        """``ids`` int64[N, L], ``lengths`` int64[N] -> layers of float[N, L, D], each document's own tokens first."""
        device = next(self.parameters()).device
        ids, lengths = inputs["ids"].to(device), inputs["lengths"].to(device)
        longest, n_more = ids.shape[1], self._appended
        indices = self.resolve(self.n_blocks)
        seen = torch.arange(longest + n_more, device=device) < (lengths + n_more)[:, None]
        layout = TokenLayout((1,) * len(ids), (longest + n_more,), 0, seen)
        places = lengths[:, None] + torch.arange(n_more, device=device)
        with torch.set_grad_enabled(self.learns()), self.laid_out(layout) as ctx:
            tokens = self.model.get_input_embeddings()(ids)
            if self._tail is not None:
                tokens = appended(tokens, self._tail(ctx).to(tokens.dtype), places)
            states = self._states(tokens, seen, indices)
        mask = torch.arange(longest, device=device) < lengths[:, None]
        layers = {layer: state[:, :longest] for layer, state in zip(self.layers, states, strict=True)}
        rows = torch.arange(len(ids), device=device)[:, None]
        extras = {"memory": torch.cat([state[rows, places] for state in states], dim=-1)} if n_more else {}
        sizes = tuple((int(length),) for length in lengths)
        return Features(layers, mask, (longest,), sizes if len(set(sizes)) > 1 else None, extras)

    def _states(self, tokens: Tensor, seen: Tensor, indices: Sequence[int]) -> list[Tensor]:
        """What enters the first block and leaves the others, by hooks during the model's own forward."""
        found: dict[int, Tensor] = {}

        def enters(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            found[0] = args[0] if args else kwargs["hidden_states"]

        def leaves(index: int) -> Callable[[nn.Module, tuple[Any, ...], Any], None]:
            def keep(_: nn.Module, __: tuple[Any, ...], output: Any) -> None:
                found[index] = output[0] if isinstance(output, tuple) else output

            return keep

        handles = [self._blocks[0].register_forward_pre_hook(enters, with_kwargs=True)]
        for index in set(indices) - {0}:
            handles.append(self._blocks[index - 1].register_forward_hook(leaves(index)))
        try:
            self.model(inputs_embeds=tokens, attention_mask=seen.long())
        finally:
            for handle in handles:
                handle.remove()
        return [found[index] for index in indices]

    def _fits(self, n_more: int) -> None:
        """MmllmError where documents of ``max_tokens`` and ``n_more`` tokens have no positions in the model."""
        config = self.model.config.to_dict()
        known = config.get("max_position_embeddings")
        if known is not None and self.max_tokens + n_more > known:
            raise MmllmError(
                f"document: max_tokens {self.max_tokens} and {n_more} tokens behind them are more than the {known} "
                f"positions of this {config['model_type']}; lower max_tokens."
            )

    @classmethod
    def tiny(cls) -> DocumentEncoder:
        """A random Llama: 3 blocks of width 16, a word-level tokenizer of 32 words."""
        words = ["[UNK]", *(f"w{n}" for n in range(27)), "tea", "milk", "3", "7"]
        tokenizer = Tokenizer(models.WordLevel({word: n for n, word in enumerate(words)}, unk_token="[UNK]"))
        tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
        config = LlamaConfig(
            hidden_size=16, intermediate_size=24, num_hidden_layers=3, num_attention_heads=2, vocab_size=32,
            max_position_embeddings=64,
        )  # fmt: skip
        with torch.random.fork_rng(devices=[]), tempfile.TemporaryDirectory() as folder:
            torch.manual_seed(0)
            model = LlamaModel(config)
            with torch.no_grad():  # larger than the usual init, so that features of different texts differ
                for parameter in model.parameters():
                    parameter.add_(torch.randn_like(parameter) * 0.1)
            model.save_pretrained(folder)
            PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]").save_pretrained(folder)
            return cls(model=folder, max_tokens=48)

    def tiny_media(self) -> list[Any]:
        """Three documents of different lengths."""
        return ["tea 3", "milk 7 tea 3 w1", b"w5 w6 w7 w8 w9 tea 7"]


def appended(tokens: Tensor, tail: Tensor, places: Tensor) -> Tensor:
    """``tail`` float[n, D] at ``places`` int64[N, n] of rows float[N, L, D] that grow by n."""
    grown = nn.functional.pad(tokens, (0, 0, 0, len(tail)))
    index = places[..., None].expand(-1, -1, tokens.shape[-1])
    return grown.scatter(1, index, tail.expand(len(tokens), -1, -1))


def load_text_model(model: str) -> tuple[Any, Any]:
    """(model without its head, tokenizer) in float32, safetensors only; MmllmError where that cannot be."""
    try:
        config = AutoConfig.from_pretrained(model)
        loaded, info = AutoModel.from_pretrained(
            model, dtype=torch.float32, use_safetensors=True, output_loading_info=True
        )
        tokenizer = AutoTokenizer.from_pretrained(model)
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise MmllmError(f'"{model}" cannot be loaded as a text model of transformers: {reason}') from error
    if config.is_encoder_decoder:
        raise MmllmError(f'"{model}" is an encoder and a decoder; the document encoder takes one of them alone.')
    lost = [name for name in sorted(map(str, info["missing_keys"])) if "pooler." not in name]
    if lost or info["mismatched_keys"]:
        raise MmllmError(f'the weights of "{model}" do not fill the model: {", ".join(lost[:5])}.')
    return loaded, tokenizer


def _first(model: nn.Module, found: list[nn.Module], keep: int | None) -> list[nn.Module]:
    """The first ``keep`` blocks; the others are taken out of the model."""
    if keep is None:
        return found
    if not 0 < keep <= len(found):
        raise MmllmError(f"document: blocks {keep} must be 1 to {len(found)}, the blocks of this model.")
    name = next(name for name, module in model.named_modules() if module is found[0]).rpartition(".")[0]
    holder = model.get_submodule(name)
    assert isinstance(holder, nn.ModuleList)
    del holder[keep:]
    return found[:keep]
