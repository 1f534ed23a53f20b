"""Every way of computing gives what the plain one gives, whatever a published model does to tiles, positions or masks.

Packed, recomputed, with kept features, with a shared beginning, cached and continuously batched; each model's own
comparison with transformers is in ``unit/published``, ZeRO in ``distributed``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from mmllm.batches.collate import collate
from mmllm.batches.sample import Encoded, plan
from mmllm.batches.trees import load_tree, trees
from mmllm.errors import RecipeError
from mmllm.generation import packed as continuous
from mmllm.generation.generator import Generator
from mmllm.messages.tokenize import Prompter
from mmllm.model.feature_cache import cache_features
from mmllm.model.model import MultimodalLM
from mmllm.model.sharing import check_sharing
from mmllm.model.trainable import set_trainable
from mmllm.types import IGNORE_INDEX, Batch
from tests.support.published import KINDS, encoded, key_of, packed, said, taken

NOT_SHARED = {
    "PaliGemma 2": "with llm.attention prefix what conversations share sees what each goes on with",
    "InstructBLIP, Llama": "looks at more of a conversation than its media",
}
"""What cannot share a beginning, and what is said of it."""
NEW = 4
"""Tokens of an answer."""


@pytest.fixture(scope="module", params=KINDS)
def case(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def model(case: str, tmp_path_factory: pytest.TempPathFactory) -> MultimodalLM:
    return taken(case, tmp_path_factory.mktemp("published") / "model")


def learned(model: MultimodalLM, batches: Sequence[Batch]) -> tuple[Tensor, dict[str, Tensor]]:
    """Loss over these batches, and gradients of what learns."""
    model.zero_grad()
    total = torch.stack([model(batch)[0] for batch in batches]).sum()
    total.backward()
    return total.detach(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def same(found: tuple[Tensor, dict[str, Tensor]], expected: tuple[Tensor, dict[str, Tensor]]) -> None:
    torch.testing.assert_close(found[0], expected[0], atol=1e-5, rtol=1e-5)
    assert found[1].keys() == expected[1].keys()
    for name, gradient in expected[1].items():
        most = float(gradient.abs().max())
        torch.testing.assert_close(found[1][name], gradient, atol=1e-3 * most + 1e-6, rtol=1e-3, msg=name)


def test_packed_and_recomputed_learn_as_alone(model: MultimodalLM) -> None:
    key = key_of(model)
    samples = [said(key, "What?", "A sign.", 0), said(key, "Only text.", "Yes."), said(key, "Both?", "No.", 1, 2)]
    set_trainable(model, {f"connectors.{key}": 1.0})
    alone = learned(model, [packed(model, [one]) for one in samples])
    assert alone[1]
    row = packed(model, samples)
    same(learned(model, [row]), alone)
    model.llm.gradient_checkpointing(True)
    same(learned(model.train(), [row]), alone)
    model.llm.gradient_checkpointing(False)
    model.requires_grad_(False).eval()


def test_a_shared_beginning_learns_as_each_alone(case: str, model: MultimodalLM) -> None:
    """Or is refused by name."""
    if case in NOT_SHARED:
        with pytest.raises(RecipeError, match=NOT_SHARED[case]):
            check_sharing(model, "stages.one")
        return
    check_sharing(model, "stages.one")
    key = key_of(model)
    asked = [said(key, f"Is it {word}?", word, 0) for word in ("red", "a sign", "two")]
    prompter = Prompter(model.llm.tokenizer, model.places)
    plans = [plan(one, prompter, model.inputs, model.llm.context, train=True) for one in asked]
    (tree,) = trees(plans, ["x"] * len(plans), most=8)
    assert tree.length < sum(one.length for one in plans)
    set_trainable(model, {f"connectors.{key}": 1.0})
    together = collate(
        [load_tree(tree, dict(enumerate(plans)), model.inputs, "x", model.llm.positions)],
        model.inputs,
        model.llm.positions,
    )
    same(learned(model, [together]), learned(model, [packed(model, [one]) for one in asked]))
    model.requires_grad_(False)


@torch.no_grad()
def test_answers_are_those_of_whole_passes(model: MultimodalLM, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside others, alone, again with what was read before, and in pieces."""
    key = key_of(model)
    asked = [said(key, "What is it?", None, 0), said(key, "Say more.", None), said(key, "Both?", None, 1, 2)]
    expected = [uncached(model, one) for one in encoded(model, asked, train=False)]
    generator = unending(model)
    assert [one.text for one in generator.generate(asked, NEW)] == expected
    assert [generator.generate([one], NEW)[0].text for one in asked] == expected, "again, one by one"
    monkeypatch.setattr(continuous, "PIECE", 7)
    monkeypatch.setattr(continuous, "LONG_PIECE", 9)
    assert [one.text for one in unending(model).generate(asked, NEW)] == expected, "in pieces"


def unending(model: MultimodalLM) -> Generator:
    """Its answers end with their limit."""
    made = Generator(model)
    made.end_ids = frozenset()
    return made


def uncached(model: MultimodalLM, row: Encoded) -> str:
    """Greedy answer of whole passes."""
    chosen: list[int] = []
    for _ in range(NEW):
        grown = replace(row, ids=row.ids + chosen, labels=[IGNORE_INDEX] * (len(row.ids) + len(chosen)))
        if row.user_turn:
            grown = replace(grown, user_turn=[*row.user_turn, *[-1] * len(chosen)])
        chosen.append(int(model.logits(collate([grown], model.inputs, model.llm.positions))[-1].argmax()))
    return str(model.llm.tokenizer.decode(chosen, skip_special_tokens=True).rstrip("\ufffd"))


@torch.no_grad()
def test_kept_features_give_what_live_encoders_give(case: str, tmp_path: Path) -> None:
    model = taken(case, tmp_path / "model")
    key = key_of(model)
    samples = [said(key, "What?", "A sign.", 0), said(key, "Both?", "No.", 1, 2)]
    expected = model(packed(model, samples))[0]
    cache = cache_features(model, tmp_path / "kept", "float32")
    for _ in range(2):
        torch.testing.assert_close(model(packed(model, samples))[0], expected, atol=1e-5, rtol=1e-5)
    assert cache.n_computed == 3 * len(model.inputs[key].processors)
