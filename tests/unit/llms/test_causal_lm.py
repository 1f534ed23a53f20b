"""The LLM wrapper gives transformers' own hidden states and logits for every family: packed, padded, cached."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    GptOssConfig,
    GptOssForCausalLM,
    HeliumConfig,
    HeliumForCausalLM,
    LlavaConfig,
    LlavaForConditionalGeneration,
    PreTrainedModel,
)

from mmllm.errors import MmllmError
from mmllm.llms.attention import ATTENTION, Packing, attention
from mmllm.llms.causal_lm import CausalLM
from mmllm.llms.load import resolve_dtype
from tests.support.forward import decoded, text_context, text_hidden, text_logits
from tests.support.parts import FAMILIES, tiny_llm, tiny_llm_folder, tiny_model, tiny_tokenizer

LENGTHS = (9, 17, 1, 9, 30)


def conversations(seed: int = 0) -> list[torch.Tensor]:
    """Five conversations of ids; two are equally long, one is a single token, most are longer than the windows."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(3, 380, (n,), generator=generator) for n in LENGTHS]


def packed(rows: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Ids, position ids and boundaries of one row."""
    bounds = torch.tensor([0, *[len(row) for row in rows]]).cumsum(0).to(torch.int32)
    return torch.cat(rows), torch.cat([torch.arange(len(row)) for row in rows]), bounds


def own(model: PreTrainedModel, ids: torch.Tensor) -> torch.Tensor:
    """float[S, V]: transformers' own logits of one conversation."""
    return model(input_ids=ids[None], attention_mask=torch.ones_like(ids)[None]).logits[0]


def own_hidden(model: PreTrainedModel, ids: torch.Tensor) -> torch.Tensor:
    """float[S, D]: transformers' own final hidden states of one conversation."""
    return model.get_decoder()(input_ids=ids[None], attention_mask=torch.ones_like(ids)[None]).last_hidden_state[0]


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_packed_row_equals_each_conversation_alone(family: str) -> None:
    """Hidden states and logits of a packed row are those transformers gives each conversation by itself."""
    model, llm, rows = tiny_model(family), tiny_llm(family), conversations()
    ids, positions, bounds = packed(rows)
    hidden = text_hidden(llm, ids, positions, bounds)
    torch.testing.assert_close(hidden, torch.cat([own_hidden(model, row) for row in rows]), atol=1e-5, rtol=1e-5)
    expected = torch.cat([own(model, row) for row in rows])
    torch.testing.assert_close(llm.plain_logits(hidden), expected, atol=1e-5, rtol=1e-5)
    chosen = torch.tensor([3, 8, 40])
    torch.testing.assert_close(llm.plain_logits(hidden[chosen]), expected[chosen], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_cached_left_padded_decoding_equals_the_full_forward(family: str) -> None:
    """A left-padded batch, fed in one prompt and then token by token, gives the logits of the full forward."""
    model, llm = tiny_model(family), tiny_llm(family)
    rows = [row for row in conversations() if len(row) > 1]
    longest, steps = max(map(len, rows)), 6
    expected = [own(model, row) for row in rows]
    ids = torch.stack([F.pad(row, (longest - len(row), 0)) for row in rows])
    mask = torch.stack([torch.arange(longest) >= longest - len(row) for row in rows])
    positions = mask.cumsum(-1) - 1
    cache, first = llm.new_cache(), longest - steps
    for start, end in [(0, first), *((step, step + 1) for step in range(first, longest))]:
        logits = decoded(llm, ids[:, start:end], mask[:, :end], positions[:, start:end], cache)
        for row, theirs in enumerate(expected):
            position = int(positions[row, end - 1])
            if position >= 0:
                torch.testing.assert_close(logits[row], theirs[position], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_packed_gradients_equal_those_alone_and_checkpointing_changes_none(family: str) -> None:
    """Gradients of the embeddings are those of the conversations alone, with and without recomputation."""
    model, llm, rows = tiny_model(family), tiny_llm(family), conversations()
    ids, positions, bounds = packed(rows)
    weights = torch.randn(len(ids), llm.vocab_size, generator=torch.Generator().manual_seed(1))
    alone = []
    for row, weight in zip(rows, weights.split(LENGTHS), strict=True):
        embeds = model.get_input_embeddings()(row).detach().requires_grad_()
        out = model(inputs_embeds=embeds[None], attention_mask=torch.ones_like(row)[None]).logits[0]
        alone.append(torch.autograd.grad((out * weight).sum(), embeds)[0])
    gradients = []
    for recompute in (False, True, False):
        llm.gradient_checkpointing(recompute)
        ctx = text_context(ids, positions, bounds)
        embeds = llm.embed(ids, ctx).detach().requires_grad_()
        out = llm.logits(llm(embeds, ctx), ctx)
        gradients.append(torch.autograd.grad((out * weights).sum(), embeds)[0])
    scale = gradients[0].abs().max()
    torch.testing.assert_close(gradients[0] / scale, torch.cat(alone) / scale, atol=1e-5, rtol=0)
    assert torch.equal(gradients[0], gradients[1])
    assert torch.equal(gradients[0], gradients[2])


def test_gradient_checkpointing_recomputes_the_blocks() -> None:
    """Each block runs twice in a training step with recomputation, once without."""
    llm, rows = tiny_llm("opt"), conversations()
    ids, positions, bounds = packed(rows)
    calls: list[int] = []
    handle = llm.blocks[1].fc1.register_forward_hook(lambda *_: calls.append(1))  # type: ignore[union-attr]
    for recompute, expected in ((True, 2), (False, 1)):
        llm.gradient_checkpointing(recompute)
        calls.clear()
        ctx = text_context(ids, positions, bounds)
        llm(llm.embed(ids, ctx).requires_grad_(), ctx).sum().backward()
        assert len(calls) == expected
    handle.remove()


def test_dropout_stays_off_in_train_mode() -> None:
    """OPT's tiny config has 30 % dropout; ``train()`` must not switch it on."""
    llm, rows = tiny_llm("opt").train(), conversations()
    ids, positions, bounds = packed(rows)
    assert not any(module.training for module in llm.modules())
    assert torch.equal(text_hidden(llm, ids, positions, bounds), text_hidden(llm, ids, positions, bounds))


@pytest.mark.parametrize("window", [None, 1, 3, 8, 64])
@pytest.mark.parametrize("softcap", [None, 0.7])
def test_attention_against_its_definition(window: int | None, softcap: float | None) -> None:
    """Per-conversation attention with window, soft-cap and grouped heads equals softmax over a dense mask."""
    torch.manual_seed(0)
    lengths = (7, 20, 1, 7)
    total, scale = sum(lengths), 0.3
    query, key, value = torch.randn(1, 4, total, 8), torch.randn(1, 2, total, 8), torch.randn(1, 2, total, 8)
    packing = Packing.of(torch.tensor([0, *lengths]).cumsum(0).to(torch.int32))
    ours, _ = attention(
        torch.nn.Identity(), query, key, value, None,
        scaling=scale, softcap=softcap, sliding_window=window, packing=packing,
    )  # fmt: skip
    owner = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    behind = torch.arange(total)[:, None] - torch.arange(total)
    seen = (owner[:, None] == owner) & (behind >= 0) & (behind < (window or total))
    scores = query @ key.repeat_interleave(2, 1).transpose(2, 3) * scale
    scores = scores if softcap is None else softcap * torch.tanh(scores / softcap)
    dense = scores.masked_fill(~seen, -math.inf).softmax(-1) @ value.repeat_interleave(2, 1)
    torch.testing.assert_close(ours, dense.transpose(1, 2), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", ["llama", "gemma2", "opt"])
@torch.no_grad()
def test_load_reads_what_save_pretrained_wrote(family: str, tmp_path) -> None:
    """Model and tokenizer come back from a folder; everything is frozen; the context is the model's."""
    llm, rows = CausalLM.load(str(tiny_llm_folder(tmp_path, family)), dtype="float32"), conversations()
    ids, positions, bounds = packed(rows)
    expected = torch.cat([own(tiny_model(family), row) for row in rows])
    torch.testing.assert_close(text_logits(llm, ids, positions, bounds), expected, atol=1e-5, rtol=1e-5)
    assert llm.context == 256 and llm.n_blocks == 4
    assert llm.tokenizer.decode(llm.tokenizer("a cat").input_ids) == "a cat"
    assert not any(parameter.requires_grad for parameter in llm.parameters())


@torch.no_grad()
def test_bfloat16_loads_and_stays_close(tmp_path) -> None:
    """The self-check has room for bfloat16's rounding, and the loaded weights have that dtype."""
    folder = str(tiny_llm_folder(tmp_path, "gemma2"))
    llm = CausalLM.load(folder, dtype="bfloat16")
    assert llm.dtype == torch.bfloat16
    ids, positions, bounds = packed(conversations())
    logits = text_logits(llm, ids, positions, bounds).float()
    exact = CausalLM.load(folder, dtype="float32")
    expected = text_logits(exact, ids, positions, bounds)
    assert F.cosine_similarity(logits.flatten(), expected.flatten(), dim=0) > 0.99


def test_auto_is_float32_without_a_gpu(monkeypatch) -> None:
    """bfloat16 is several times slower on CPUs, so it is never their default."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert resolve_dtype("auto") == torch.float32


def test_linears_and_their_errors() -> None:
    """All linear layers of the blocks without the LM head, or those asked for by the end of their name."""
    llm = tiny_llm("llama")
    assert len(llm.linears()) == 28
    assert len(llm.linears(["q_proj", "mlp.up_proj"])) == 8
    assert len(tiny_llm("gpt2").linears(["c_attn"])) == 4
    with pytest.raises(MmllmError, match=r"no linear layer of this LLM is called 'query'; it has .*q_proj"):
        llm.linears(["query"])


@torch.no_grad()
def test_hooks_and_replacements_are_undone_bit_for_bit() -> None:
    """``after_block``, ``after_linear`` and ``replace_linear`` change the output, and their handles restore it."""
    llm = tiny_llm("qwen3")
    ids, positions, bounds = packed(conversations())
    before = text_hidden(llm, ids, positions, bounds)
    name = next(iter(llm.linears(["up_proj"])))
    handles = [
        llm.after_block(1, lambda ctx, x, out: out + x),
        llm.after_linear(name, lambda ctx, x, out: out * 2),
        llm.replace_linear(name, torch.nn.Linear(32, 48)),
    ]
    for handle in handles:
        handle.remove()
        handle.remove()
    assert torch.equal(text_hidden(llm, ids, positions, bounds), before)
    for change in (
        lambda: llm.after_block(1, lambda ctx, x, out: out + x),
        lambda: llm.after_linear(name, lambda ctx, x, out: out * 2),
        lambda: llm.replace_linear(name, torch.nn.Linear(32, 48)),
    ):
        handle = change()
        assert not torch.equal(text_hidden(llm, ids, positions, bounds), before)
        handle.remove()
        assert torch.equal(text_hidden(llm, ids, positions, bounds), before)


def test_a_forward_that_fails_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4, "num_key_value_heads": 2}
    # its output projection is as wide as the residual stream, whatever the heads are
    config = HeliumConfig(**sizes, vocab_size=384, num_hidden_layers=2, head_dim=16, pad_token_id=0)
    with pytest.raises(MmllmError, match=r"^HeliumForCausalLM cannot be used: the model's own forward fails: .*5x64"):
        CausalLM(HeliumForCausalLM(config), tiny_tokenizer())

    def broken(*_: object, **__: object) -> None:
        raise IndexError

    monkeypatch.setattr(CausalLM, "forward", broken)
    with pytest.raises(MmllmError, match="LlamaForCausalLM cannot be used: a packed or cached pass fails: IndexError"):
        CausalLM(tiny_model("llama"), tiny_tokenizer())


def test_families_that_cannot_be_packed_are_refused() -> None:
    """Own attention code (Bloom) or terms that ours does not know (GPT-OSS's sinks) are errors, not wrong numbers."""
    torch.manual_seed(0)
    bloom = BloomForCausalLM(BloomConfig(vocab_size=384, hidden_size=32, n_layer=2, n_head=4)).eval()
    with pytest.raises(MmllmError, match="BloomForCausalLM cannot be used: its attention cannot be replaced"):
        CausalLM(bloom, tiny_tokenizer())
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4, "num_key_value_heads": 2}
    config = GptOssConfig(
        **sizes, vocab_size=384, num_hidden_layers=2, head_dim=8, num_local_experts=2, num_experts_per_tok=1
    )
    sinks = GptOssForCausalLM(config).eval()
    for layer in sinks.model.layers:
        torch.nn.init.normal_(layer.self_attn.sinks, std=3.0)
    with pytest.raises(MmllmError, match="GptOssForCausalLM cannot be used: its packed logits differ"):
        CausalLM(sinks, tiny_tokenizer())


def test_errors_of_load(tmp_path) -> None:
    """Nothing there, weights missing, tokenizer too large, context too long: one sentence each."""
    with pytest.raises(
        MmllmError, match=r"cannot be loaded \(there is no such folder; a path is meant from the current folder"
    ):
        CausalLM.load(str(tmp_path / "nothing"))
    with pytest.raises(MmllmError, match="300 tokens, but llama here has 256 positions"):
        CausalLM.load(str(tiny_llm_folder(tmp_path)), dtype="float32", context=300)
    with pytest.raises(MmllmError, match="tokenizer has 367 tokens, the model 100 embeddings"):
        CausalLM(tiny_model("llama", vocab_size=100), tiny_tokenizer())


def test_missing_weights_are_an_error(tmp_path) -> None:
    """transformers would draw missing weights at random and only warn."""
    from safetensors.torch import load_file, save_file

    file = tiny_llm_folder(tmp_path) / "model.safetensors"
    tensors = load_file(file)
    tensors.pop("model.layers.2.mlp.up_proj.weight")
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(MmllmError, match=r"lacks 1 weights of its model, the first is model\.layers\.2\.mlp\.up_proj"):
        CausalLM.load(str(tmp_path / "tiny-llama-0"), dtype="float32")


def test_a_config_of_another_model_is_an_error(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """transformers points to a report in its log, and draws a bar over every load."""
    file = tiny_llm_folder(tmp_path) / "config.json"
    capfd.readouterr()
    CausalLM.load(str(file.parent), dtype="float32")
    assert capfd.readouterr() == ("", "")
    config = json.loads(file.read_text())
    file.write_text(json.dumps({**config, "intermediate_size": config["intermediate_size"] + 8}))
    with pytest.raises(
        MmllmError, match=r"the first is model\.layers\.0\.mlp\.down_proj\.weight \(\[.*\] by config.json\)"
    ):
        CausalLM.load(str(file.parent), dtype="float32")
    assert capfd.readouterr() == ("", "")


def test_a_config_that_lost_our_attention_is_noticed() -> None:
    """Another model built over the same config resets its attention; packed conversations would see each other."""
    llm, rows = tiny_llm("llama"), conversations()
    ids, positions, bounds = packed(rows)
    before = text_hidden(llm, ids, positions, bounds)
    vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    shared = LlavaConfig(
        text_config=llm.model.config, vision_config={"model_type": "clip_vision_model", **vision, "image_size": 28}
    )
    LlavaForConditionalGeneration(shared)
    with pytest.raises(MmllmError, match=r"the LLM's config was changed after loading: its attention is '\w+'"):
        text_hidden(llm, ids, positions, bounds)
    llm.model.set_attn_implementation(ATTENTION)
    assert torch.equal(text_hidden(llm, ids, positions, bounds), before)
