"""Leaks into conversations without media, planted one by one into the same model: each is found, its part named."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

import pytest
import torch
import transformers
from torch import nn
from torch.nn.modules.module import register_module_forward_hook
from torch.overrides import TorchFunctionMode
from transformers.models.qwen3 import modeling_qwen3

from mmllm.certificates.bare import load_bare
from mmllm.certificates.certificate import compare_logits
from mmllm.certificates.changes import Change
from mmllm.generation import content
from mmllm.llms.attention import ATTENTION
from mmllm.messages.tokenize import Prompter
from mmllm.types import Sample
from tests.unit.certificates.conftest import Pair

Leak = Callable[[Pair, pytest.MonkeyPatch], AbstractContextManager[Any] | None]


def block(pair: Pair) -> Any:
    """The block of the LLM into which most are planted."""
    return pair.llm.model.layers[1]


@contextmanager
def numbers(tensor: torch.Tensor, change: Callable[[torch.Tensor], torch.Tensor]) -> Iterator[None]:
    before = tensor.detach().clone()
    with torch.no_grad():
        tensor.copy_(change(tensor))
        yield
        tensor.copy_(before)


@contextmanager
def module(parent: nn.Module, name: str, other: nn.Module) -> Iterator[None]:
    before = parent._modules[name]
    parent._modules[name] = other
    yield
    parent._modules[name] = before


def one_ulp(tensor: torch.Tensor) -> torch.Tensor:
    changed = tensor.clone()
    changed.view(-1)[3] = torch.nextafter(changed.view(-1)[3], torch.tensor(torch.inf))
    return changed


class Wrapped(nn.Module):
    """A layer around another."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.weight = inner, inner.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(x)


class Doubling(TorchFunctionMode):
    """A mode of torch, under which every function of it runs."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


@contextmanager
def added_token(pair: Pair) -> Iterator[None]:
    before = pair.model.llm.tokenizer
    pair.model.llm.tokenizer = copy.deepcopy(before)
    pair.model.llm.tokenizer.add_tokens(["<extra>"])
    yield
    pair.model.llm.tokenizer = before


@contextmanager
def tokenizer_json(pair: Pair, change: Callable[[dict[str, Any]], None]) -> Iterator[None]:
    """The tokenizer with a change in what would be its tokenizer.json."""
    before = pair.model.llm.tokenizer
    words = json.loads(before.backend_tokenizer.to_str())
    change(words)
    made = copy.deepcopy(before)
    made._tokenizer = made._tokenizer.from_str(json.dumps(words))
    pair.model.llm.tokenizer = made
    yield
    pair.model.llm.tokenizer = before


def swapped_merges(words: dict[str, Any]) -> None:
    merges = words["model"]["merges"]
    merges[0], merges[1] = merges[1], merges[0]


def prefixed(words: dict[str, Any]) -> None:
    token = {"SpecialToken": {"id": "<|pad|>", "type_id": 0}}
    number = next(one["id"] for one in words["added_tokens"] if one["content"] == "<|pad|>")
    words["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [token, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"<|pad|>": {"id": "<|pad|>", "ids": [number], "tokens": ["<|pad|>"]}},
    }


@contextmanager
def attribute(owner: Any, name: str, value: Any) -> Iterator[None]:
    """An attribute in an object's own dictionary, also where its class would refuse it."""
    had, before = name in vars(owner), vars(owner).get(name)
    vars(owner)[name] = value
    yield
    vars(owner)[name] = before
    if not had:
        del vars(owner)[name]


@contextmanager
def bias(layer: Any) -> Iterator[None]:
    layer.bias = nn.Parameter(torch.zeros(layer.out_features), requires_grad=False)
    yield
    layer.bias = None


@contextmanager
def cast(layer: nn.Module) -> Iterator[None]:
    before = layer.weight
    layer.weight = nn.Parameter(before.detach().double(), requires_grad=False)
    yield
    layer.weight = before


@contextmanager
def untied(pair: Pair) -> Iterator[None]:
    head = pair.llm.lm_head
    before = head.weight
    head.weight = nn.Parameter(before.detach().clone(), requires_grad=False)
    yield
    head.weight = before


@contextmanager
def removing(handle: Any) -> Iterator[None]:
    yield
    handle.remove()


def on_some_texts(_: nn.Module, args: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
    """Acts where a number is found that no sample has."""
    return output * 2 if bool((args[0] > 1e30).any()) else output


def identity(_: nn.Module, __: tuple[Any, ...], ___: Any) -> None:
    """Changes nothing, but nobody has approved it."""


def eager(*args: Any, **kwargs: Any) -> Any:
    return modeling_qwen3.eager_attention_forward(*args, **kwargs)


def brief(prompter: Prompter, sample: Sample) -> list[dict[str, str]]:
    said = [{"role": one.role, "content": one.text} for one in sample.messages]
    return [{"role": "system", "content": "Be brief."}, *said]


PARTS: dict[str, tuple[str, Leak]] = {
    "a frozen weight, one ulp": (
        "llm: model.layers.1.mlp.up_proj.weight has other numbers",
        lambda p, m: numbers(block(p).mlp.up_proj.weight, one_ulp),
    ),
    "a norm's weight": (
        "llm: model.norm.weight has other numbers",
        lambda p, m: numbers(p.llm.model.norm.weight, lambda w: w * 1.01),
    ),
    "a norm's epsilon": (
        "llm: model.norm.variance_epsilon is 0.1, in the bare model 1e-06",
        lambda p, m: attribute(p.llm.model.norm, "variance_epsilon", 0.1),
    ),
    "a buffer": (
        "llm: model.rotary_emb.inv_freq has other numbers",
        lambda p, m: numbers(p.llm.model.rotary_emb.inv_freq, lambda b: b * 0.5),
    ),
    "the base of positions": (
        "llm: config.rope_parameters is another than in the folder",
        lambda p, m: attribute(p.llm.config, "rope_parameters", {"rope_type": "default", "rope_theta": 5e5}),
    ),
    "a bias": (
        "llm: model.layers.1.mlp.up_proj.bias is a tensor that the bare model does not have",
        lambda p, m: bias(block(p).mlp.up_proj),
    ),
    "a cast": (
        "llm: model.layers.1.mlp.up_proj.weight is float64[48, 32] instead of float32[48, 32]",
        lambda p, m: cast(block(p).mlp.up_proj),
    ),
    "an untied head": (
        "llm: lm_head.weight and model.embed_tokens.weight are no longer one tensor",
        lambda p, m: untied(p),
    ),
    "a wrapped head": (
        "llm: lm_head is a Wrapped, in the bare model a Linear",
        lambda p, m: module(p.llm, "lm_head", Wrapped(p.llm.lm_head)),
    ),
    "another head for logits": (
        "llm: head.lm_head is not the module of the LLM",
        lambda p, m: module(p.model.llm._head[0], "lm_head", Wrapped(p.llm.lm_head)),
    ),
    "another activation": (
        "llm: model.layers.1.mlp.act_fn is a ReLU, in the bare model a SiLUActivation",
        lambda p, m: module(block(p).mlp, "act_fn", nn.ReLU()),
    ),
    "a module more": (
        "llm: model.layers.1.mlp.extra is a module (Linear) that the bare model does not have",
        lambda p, m: extra(block(p).mlp),
    ),
    "dropout": (
        "llm: model.layers.1.training is True, in the bare model False",
        lambda p, m: attribute(block(p), "training", True),
    ),
    "a forward on an instance": (
        "llm: model.layers.1.self_attn.forward is replaced on the instance by",
        lambda p, m: attribute(block(p).self_attn, "forward", lambda *a, **k: (a[0] * 0, None)),
    ),
    "a forward under the one that keeps less": (
        "llm: model.layers.1.mlp.forward is replaced on the instance by mmllm.llms.gated_mlp.keep_less",
        lambda p, m: beneath(p),
    ),
    "a forward on a class": (
        "llm: transformers.models.qwen3.modeling_qwen3.Qwen3MLP.forward is replaced by",
        lambda p, m: m.setattr(modeling_qwen3.Qwen3MLP, "forward", lambda self, x: x),
    ),
    "a forward of another class": (
        "llm: transformers.models.qwen3.modeling_qwen3.Qwen3MLP.forward is replaced by",
        lambda p, m: m.setattr(modeling_qwen3.Qwen3MLP, "forward", modeling_qwen3.Qwen3RMSNorm.forward),
    ),
    "a function of a module": (
        "llm: transformers.models.qwen3.modeling_qwen3.apply_rotary_pos_emb is replaced by",
        lambda p, m: m.setattr(modeling_qwen3, "apply_rotary_pos_emb", lambda q, k, *a, **b: (q, k)),
    ),
    "a method of the wrapper": (
        "llm: llm.plain_logits is replaced on the instance by",
        lambda p, m: attribute(p.model.llm, "plain_logits", lambda hidden: hidden),
    ),
    "another attention": (
        "llm: transformers.AttentionInterface['mmllm_packed'] is tests.unit.certificates.test_leaks.eager",
        lambda p, m: attention(m),
    ),
    "a linear layer of torch": (
        "llm: torch.nn.functional.linear is replaced by",
        lambda p, m: m.setattr(torch.nn.functional, "linear", lambda x, w, b=None: x @ w.T),
    ),
    "a hook of every module": (
        "llm: torch.nn.modules.module._global_forward_hooks holds 1 hooks of every module: tests.unit.certificates",
        lambda p, m: removing(register_module_forward_hook(identity)),
    ),
    "a mode of torch": ("llm: torch.function_mode is on, and may change any operation", lambda p, m: Doubling()),
    "a hook around the backward pass": (
        "llm: model.layers.1.mlp.up_proj: backward hooks are tests.unit.certificates.test_leaks.identity",
        lambda p, m: removing(block(p).mlp.up_proj.register_full_backward_hook(identity)),
    ),
    "a token more": ("llm: tokenizer.added_tokens is 4 entries, in the folder 3 entries", lambda p, m: added_token(p)),
    "a merge": ("llm: tokenizer.model.merges[0]", lambda p, m: tokenizer_json(p, swapped_merges)),
    "a prefix of every text": ("llm: tokenizer.post_processor", lambda p, m: tokenizer_json(p, prefixed)),
    "a template": (
        "llm: template is another chat template than the folder's",
        lambda p, m: m.setattr(p.model.llm.tokenizer, "chat_template", p.tokenizer.chat_template + " "),
    ),
    "the end of answers": (
        "llm: generation_config.eos_token_id is another than in the folder",
        lambda p, m: m.setattr(p.llm, "generation_config", transformers.GenerationConfig(eos_token_id=7)),
    ),
    "a system text in front": (
        "llm: mmllm.messages.tokenize.Prompter._messages is replaced by",
        lambda p, m: m.setattr(Prompter, "_messages", brief),
    ),
    "a cache that mixes requests": (
        "llm: mmllm.generation.content.position_keys is replaced by",
        lambda p, m: m.setattr(content, "position_keys", lambda encoded, found, ahead: list(encoded.ids)),
    ),
}  # fmt: skip


@contextmanager
def extra(parent: nn.Module) -> Iterator[None]:
    parent.add_module("extra", nn.Linear(2, 2))
    yield
    del parent._modules["extra"]


@contextmanager
def beneath(pair: Pair) -> Iterator[None]:
    """The wrapper that keeps less is known; what it stands on is looked at too."""
    forward = block(pair).mlp.forward
    cell = next(c for c, n in zip(forward.__closure__, forward.__code__.co_freevars, strict=True) if n == "plain")
    before = cell.cell_contents
    cell.cell_contents = lambda x: x * 2
    yield
    cell.cell_contents = before


@contextmanager
def attention(patch: pytest.MonkeyPatch) -> Iterator[None]:
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    before = ALL_ATTENTION_FUNCTIONS[ATTENTION]
    transformers.AttentionInterface.register(ATTENTION, eager)
    yield
    transformers.AttentionInterface.register(ATTENTION, before)


def test_a_model_as_it_was_built_has_none(pair: Pair) -> None:
    assert pair.parts() == []


@pytest.mark.parametrize("leak", PARTS)
def test_a_part_that_differs_is_named(leak: str, pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    expected, plant = PARTS[leak]
    with ExitStack() as stack:
        planted = plant(pair, monkeypatch)
        if planted is not None:
            stack.enter_context(planted)
        found = pair.parts()
    assert any(f"{one.part} {one.what}".startswith(expected) for one in found), found
    assert all(one.why == "" and one.verdict == "changed" for one in found)


def asked(pair: Pair) -> tuple[dict[str, Any], list[Change]]:
    """Ways of asking by what came of each, and the changes that were found, beside a bare model of its own."""
    changes: list[Change] = []
    bare, tokenizer, _ = load_bare(pair.recipe.llm, pair.model.llm.dtype, pair.model.llm.device)
    told, numbers = compare_logits(pair.recipe, pair.model, bare, tokenizer, 2, 0, changes)
    assert [one["holds"] for one in told["ways"]] == [one["bits"] for one in numbers.values()]
    return {one["way"]: one for one in told["ways"]}, changes


def test_logits_are_the_bare_models_to_the_last_bit(pair: Pair) -> None:
    ways, changes = asked(pair)
    assert changes == [] and all(one["holds"] and one["texts"] == 8 for one in ways.values())
    assert len(ways) == 7 and min(one["positions"] for one in ways.values()) == 8 * 4


def test_keys_of_another_conversation_are_heard(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    # as if what shows media and what does not began alike
    monkeypatch.setattr(content, "position_keys", lambda encoded, found, ahead: list(encoded.ids))
    ways, changes = asked(pair)
    wrong = [name for name, one in ways.items() if not one["holds"]]
    assert wrong and all(name.startswith("answered") for name in wrong), "by the engine, which keeps what it read"
    assert [(one.part, one.why) for one in changes] == [("logits", "")]


def test_other_prompts_and_ends_are_named(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Prompter, "_messages", brief)
    monkeypatch.setattr(pair.llm, "generation_config", transformers.GenerationConfig(eos_token_id=7))
    _, changes = asked(pair)
    assert [one.part for one in changes] == ["llm: prompts", "llm: ends of answers"]
    assert changes[0].what.startswith("text 0 is read as ")
