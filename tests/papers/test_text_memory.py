"""``text_memory``: memory tokens against transformers' own pass over document and memory, and its contract."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

from mmllm.connectors.encoder_adapters.text_memory import TextMemoryConnector
from mmllm.encoders.document import DocumentEncoder
from mmllm.errors import MmllmError
from mmllm.model.model import MultimodalLM
from mmllm.model.trainable import load_trainable, set_trainable, trainable_state
from mmllm.testing.tiny import encoders as tiny_encoders
from mmllm.testing.tiny.encoder_adapters import text_memory
from tests.support.parts import FAMILIES, tiny_llm, tiny_llm_folder, tiny_tokenizer
from tests.support.talks import document_talks, packed
from tests.support.two_steps import fitted

LLM = SimpleNamespace(dim=24)


def placed(encoder: DocumentEncoder, **words: Any) -> TextMemoryConnector:
    """The connector inside ``encoder``, all weights random."""
    torch.manual_seed(1)
    connector = TextMemoryConnector(dim=encoder.dim, llm_dim=24, **{"slots": 3, **words})
    connector.attach(encoder, "document")
    encoder.adapters.append(connector)
    for parameter in connector.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return connector


def texts(encoder: DocumentEncoder) -> dict[str, Tensor]:
    return encoder.processor.collate([encoder.processor.read(media) for media in tiny_encoders.documents()])


@pytest.mark.parametrize("family", sorted({*FAMILIES} - {"olmo2"}))
@torch.no_grad()
def test_memory_is_what_the_model_makes_of_tokens_behind_the_document(family: str, tmp_path: Path) -> None:
    """m = pi_s([context; memory])[last N]: each document alone in transformers' own forward, here in a batch."""
    path = tiny_llm_folder(tmp_path, family)
    encoder = DocumentEncoder(model=str(path), max_tokens=64)
    connector = placed(encoder)
    texts = ("the cat", "What is on the sign? A red square.", "7")
    inputs = encoder.processor.collate([encoder.processor.read(text) for text in texts])
    features = encoder(**inputs)
    found = connector(features)
    own = transformers.AutoModel.from_pretrained(path).eval()
    blocks = next(m for m in own.modules() if isinstance(m, torch.nn.ModuleList) and len(m) == 4)
    last: list[Tensor] = []
    blocks[-1].register_forward_hook(lambda _, __, out: last.append(out[0] if isinstance(out, tuple) else out))
    for n, length in enumerate(inputs["lengths"].tolist()):
        embeds = own.get_input_embeddings()(inputs["ids"][n, :length])
        own(inputs_embeds=torch.cat([embeds, connector.tail.weight])[None])
        state = last.pop()[0]
        torch.testing.assert_close(features.extras["memory"][n], state[length:], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(features.layers[-1][n, :length], state[:length], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(found[n], connector.mlp(connector.norm(state[length:])), rtol=1e-4, atol=1e-5)


def test_blocks_of_another_structure_are_named(tmp_path: Path) -> None:
    """OLMo 2 has its norms behind attention and MLP, inside of the residual."""
    with pytest.raises(MmllmError, match="Olmo2DecoderLayer holds"):
        DocumentEncoder(model=str(tiny_llm_folder(tmp_path, "olmo2")), max_tokens=64)


@torch.no_grad()
def test_an_encoder_that_sees_both_ways(tmp_path: Path) -> None:
    """BERT: the padding of longer neighbours is masked, so each document's memory is what it is alone."""
    config = transformers.BertConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, vocab_size=400,
        max_position_embeddings=64,
    )  # fmt: skip
    transformers.BertModel(config).save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    encoder = DocumentEncoder(model=str(tmp_path), max_tokens=48)
    connector = placed(encoder, adapter=4)
    items = [encoder.processor.read(text) for text in ("the cat", "What is on the sign? A red square.")]
    together = connector(encoder(**encoder.processor.collate(items)))
    for n, item in enumerate(items):
        torch.testing.assert_close(
            together[n : n + 1], connector(encoder(**encoder.processor.collate([item]))), rtol=1e-4, atol=1e-5
        )


@torch.no_grad()
def test_adapters_stand_beside_the_mlps() -> None:
    """Block by block in plain torch for one document: MLP(n) + up(gelu(down(n))) is added."""
    encoder = tiny_encoders.document()
    connector = placed(encoder, adapter=4)
    ids = encoder.processor.read("tea 3 w4")["ids"]
    x = torch.cat([encoder.model.embed_tokens(ids), connector.tail.weight])[None]
    positions = encoder.model.rotary_emb(x, torch.arange(6)[None])
    mask = torch.full((6, 6), float("-inf")).triu(1)[None, None]
    plain = tiny_encoders.document().model.layers
    for block, adapter in zip(plain, connector.adapters, strict=True):
        x = x + block.self_attn(block.input_layernorm(x), position_embeddings=positions, attention_mask=mask)[0]
        normed = block.post_attention_layernorm(x)
        beside = adapter.up(torch.nn.functional.gelu(adapter.down(normed)))
        x = x + block.mlp(normed) + beside
    features = encoder(**encoder.processor.collate([{"ids": ids}]))
    torch.testing.assert_close(features.extras["memory"], x[:, 3:], rtol=1e-5, atol=1e-5)


def test_means_are_over_equal_parts() -> None:
    """The control: 6 tokens to 3 means of two; 2 tokens to 3 slots repeat; nothing of the padding enters."""
    encoder = tiny_encoders.document()
    connector = placed(encoder, compress="mean")
    features = encoder(
        **encoder.processor.collate([encoder.processor.read("tea 3 w1 w2 w3 w4"), encoder.processor.read("tea 3")])
    )
    assert "memory" not in features.extras and connector.tail is None
    long, short = features.layers[-1]
    means = [long.reshape(3, 2, -1).mean(1), torch.stack([short[0], short[:2].mean(0), short[1]])]
    torch.testing.assert_close(connector(features), connector.mlp(connector.norm(torch.stack(means))))


@pytest.mark.parametrize("compress", ["memory", "mean"])
def test_as_many_tokens_whatever_the_length(compress: str) -> None:
    encoder = tiny_encoders.document()
    connector = placed(encoder, compress=compress)
    assert {connector.n_tokens((length,)) for length in (1, 7, 48)} == {3}
    assert connector(encoder(**texts(encoder))).shape == (3, 3, 24)


def test_removal_restores_the_encoder_bit_for_bit() -> None:
    encoder = tiny_encoders.document()
    before = encoder(**texts(encoder)).concatenated()
    connector = text_memory(16, LLM)
    handle = connector.attach(encoder, "document")
    with torch.no_grad():
        for parameter in connector.parameters():
            parameter.normal_()
    assert not torch.equal(encoder(**texts(encoder)).concatenated(), before)
    handle.remove()
    after = encoder(**texts(encoder))
    assert torch.equal(after.concatenated(), before) and after.extras == {}


def test_untrained_adapters_change_nothing() -> None:
    """Only the appended tokens are new: a decoder's states of the document stay what they were, bit for bit."""
    with_adapters, without = tiny_encoders.document(), tiny_encoders.document()
    TextMemoryConnector(dim=16, llm_dim=24, slots=3, compress="mean", adapter=4).attach(with_adapters, "document")
    inputs = texts(without)
    assert torch.equal(with_adapters(**inputs).concatenated(), without(**inputs).concatenated())


def test_half_precision_encoders_keep_the_connector_in_float32() -> None:
    encoder = tiny_encoders.document()
    connector = placed(encoder, adapter=4)
    full = connector(encoder(**texts(encoder)))
    half = connector(encoder.to(torch.bfloat16)(**texts(encoder)))
    assert half.dtype == torch.float32 and connector.tail.weight.dtype == torch.float32
    assert torch.nn.functional.cosine_similarity(half.flatten(), full.flatten(), dim=0) > 0.98


def assembly_with_documents(**words: Any) -> MultimodalLM:
    """A tiny Llama that is asked about documents the tiny encoder reads."""
    llm, encoder = tiny_llm(), tiny_encoders.document()
    connector = TextMemoryConnector(dim=encoder.dim, llm_dim=llm.dim, **{"slots": 3, "adapter": 4, **words})
    keys = {"document": "document"}
    model = MultimodalLM(llm, {"document": encoder}, {"document": connector}, keys, adapts={"document": ["document"]})
    return model.requires_grad_(False).eval()


@pytest.mark.parametrize("compress", ["memory", "mean"])
def test_learns_through_an_assembly(compress: str, tmp_path: Path) -> None:
    """Every weight has a gradient by the second step; the loss falls; a checkpoint gives the same loss again."""
    model = assembly_with_documents(compress=compress)
    batch = packed(model, document_talks(tmp_path))
    assert len(batch.media_positions["document"]) == 9
    set_trainable(model, {"connectors.document": 1e-2})
    losses, silent = fitted(model, batch)
    assert silent == [] and losses[-1] < losses[0] - 2
    state = {name: tensor.clone() for name, tensor in trainable_state(model).items()}
    again = assembly_with_documents(compress=compress)
    load_trainable(again, state)
    assert torch.equal(again(batch)[0], model(batch)[0])


def test_the_small_model_may_learn_too(tmp_path: Path) -> None:
    """As in the paper: ``train: {encoders.document: ...}`` gives its blocks gradients through the memory."""
    model = assembly_with_documents()
    set_trainable(model, {"connectors.document": 1e-2, "encoders.document": 1e-2})
    model(packed(model, document_talks(tmp_path)))[0].backward()
    encoder = model.encoders["document"]
    without = [name for name, p in encoder.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert without == ["model.norm.weight"]  # stands behind the last layer that is asked for


def test_a_batch_without_documents_touches_every_weight(tmp_path: Path) -> None:
    model = assembly_with_documents()
    set_trainable(model, {"connectors.document": 1e-2})
    model.train()
    model(packed(model, document_talks(tmp_path, 0)))[0].backward()
    assert [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None] == []


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ({"slots": 0}, "slots 0 must be at least 1"),
        ({"adapter": -1}, "adapter -1 at least 0"),
        ({"compress": "zip"}, "compress 'zip' memory or mean"),
    ],
)
def test_bad_words_are_named(words: dict[str, Any], sentence: str) -> None:
    with pytest.raises(MmllmError, match=sentence):
        TextMemoryConnector(dim=16, llm_dim=24, **words)


def test_wrong_encoders_and_too_few_positions_are_named() -> None:
    with pytest.raises(MmllmError, match="one encoder of documents, not in image"):
        text_memory(16, LLM).attach(tiny_encoders.hf_vision(), "image")
    encoder = tiny_encoders.document()
    with pytest.raises(MmllmError, match="max_tokens 48 and 17 tokens behind them are more than the 64 positions"):
        TextMemoryConnector(dim=16, llm_dim=24, slots=17).attach(encoder, "document")
    connector = text_memory(16, LLM)
    connector.attach(encoder, "document")
    with pytest.raises(MmllmError, match="two connectors would append tokens"):
        text_memory(16, LLM).attach(encoder, "document")
    with pytest.raises(MmllmError, match="one encoder of documents, not in document, letters"):
        connector.attach(tiny_encoders.document(), "letters")
