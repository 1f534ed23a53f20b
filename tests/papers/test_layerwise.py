"""The layer-wise connector: its equations, which items a position sees, and tasks that are swapped by few tensors."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mmllm.connectors.deep_fusion.layerwise import LayerwiseConnector
from mmllm.errors import MmllmError
from mmllm.model import trainable
from mmllm.model.model import MultimodalLM
from tests.support.assemblies import Row, assembly_of, batch_of
from tests.support.equations import rotated
from tests.support.forward import logits
from tests.support.parts import FAMILIES, tiny_llm

ROWS = (Row(1, (3, "image", 2, "image", 4)), Row(2, (6,)), Row(3, ("image", 5)))
LAYERS = (1, 3)


def layerwise(family: str = "llama", open_gates: bool = True, grid: tuple[int, int] | None = None) -> MultimodalLM:
    """A tiny LLM whose blocks 1 and 3 read items of three latents; gates away from zero unless asked otherwise."""
    words = {"rank": 4, "layers": LAYERS, "width": 8, "depth": 1, "heads": 2, "head_dim": 4}
    model = assembly_of(LayerwiseConnector, family, tokens=None if grid else 3, grid=grid, **words)
    if open_gates:
        torch.manual_seed(4)
        for name, parameter in model.connectors["image"].named_parameters():
            if name.startswith(("tasks.", "norm.")):
                torch.nn.init.normal_(parameter, std=0.8)
    return model


def paper(x: Tensor, weights: dict[str, Tensor], latents: list[Tensor], prompts: dict[str, Tensor]) -> Tensor:
    """Attention of one conversation alone, float[S, D] -> float[S, D]; ``latents`` are the items every row sees."""
    size, positions = 8, torch.arange(len(x))
    q = rotated((x @ weights["q"].T).unflatten(-1, (4, size)), positions)
    k = rotated((x @ weights["k"].T).unflatten(-1, (2, size)), positions)
    v = (x @ weights["v"].T).unflatten(-1, (2, size))
    heads = []
    for head in range(4):
        scores = q[:, head] @ k[:, head // 2].T / size**0.5
        scores = scores.masked_fill(torch.ones_like(scores).triu(1).bool(), float("-inf"))
        out = scores.softmax(-1) @ v[:, head // 2]
        if latents:
            shown = torch.cat([prompts["p"] + item @ prompts["a"].T @ prompts["b"].T for item in latents])
            keys = (shown @ weights["k"].T).unflatten(-1, (2, size))[:, head // 2]
            values = (shown @ weights["v"].T).unflatten(-1, (2, size))[:, head // 2]
            extra = (q[:, head] @ keys.T / size**0.5).softmax(-1) @ values
            out = out + torch.tanh(prompts["g"][head]) * extra
        heads.append(out)
    return torch.cat(heads, -1) @ weights["o"].T


@torch.no_grad()
def test_the_equations() -> None:
    """o = Attn + tanh(g) softmax(q K(V)ᵀ / √d) Val(V), V = P + B A LN(F), position by position, in plain torch."""
    model = layerwise()
    connector = model.connectors["image"]
    batch = batch_of(model, ROWS)
    given: dict[int, Tensor] = {}
    outputs: dict[int, Tensor] = {}
    for index in LAYERS:
        block = model.llm.blocks[index].self_attn
        block.register_forward_hook(
            lambda _, args, kwargs, out, i=index: (
                given.__setitem__(i, kwargs["hidden_states"][0]), outputs.__setitem__(i, out[0][0]), None,
            )[-1],
            with_kwargs=True,
        )  # fmt: skip
    logits(model, batch)
    features = model.encoders["image"](**batch.media["image"]["image"])
    resampled = connector.resampler(features)
    mean, spread = resampled.mean(-1, keepdim=True), resampled.var(-1, unbiased=False, keepdim=True)
    latents = (resampled - mean) / (spread + 1e-5).sqrt() * connector.norm.weight + connector.norm.bias
    # (conversation's positions, first position that sees what follows, items then seen)
    spans = [((0, 9), (0, 3, []), (3, 5, [0]), (5, 9, [0, 1])), ((9, 15), (0, 6, [])), ((15, 20), (0, 5, [2]))]
    for index in LAYERS:
        attention = model.llm.blocks[index].self_attn
        weights = {name: getattr(attention, f"{name}_proj").weight for name in "qkvo"}
        task, low = connector.tasks[str(index)], connector.maps[str(index)]
        prompts = {"p": task.prompts, "g": task.gate.weight, "a": low.a.weight, "b": low.b.weight}
        for (start, end), *seen in spans:
            for first, last, items in seen:
                expected = paper(given[index][start:end], weights, [latents[item] for item in items], prompts)
                found = outputs[index][start:end][first:last]
                torch.testing.assert_close(found, expected[first:last], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma3"])
def test_only_positions_that_see_an_item_change(family: str) -> None:
    """Static prompts included: before its first item, and in text, a conversation has the bare LLM's logits."""
    model = layerwise(family)
    batch = batch_of(model, ROWS)
    changed = logits(model, batch)
    handle = model.handles["image"]
    assert handle is not None
    handle.remove()
    bare = logits(model, batch)
    same = [bool(torch.equal(one, other)) for one, other in zip(changed, bare, strict=True)]
    assert same == [True] * 3 + [False] * 6 + [True] * 6 + [False] * 5


@pytest.mark.parametrize("family", FAMILIES)
def test_untrained_it_is_an_exact_identity(family: str) -> None:
    """With pictures in the row, closed gates leave the bare LLM's logits bit for bit."""
    model = layerwise(family, open_gates=False)
    batch = batch_of(model, ROWS)
    start = logits(model, batch)
    handle = model.handles["image"]
    assert handle is not None
    handle.remove()
    assert torch.equal(start, logits(model, batch))


@torch.no_grad()
def test_a_pooled_grid_in_the_resamplers_place() -> None:
    """K is then the grid's cells: LN, mean over blocks, a linear layer; the rest is as before."""
    model = layerwise(grid=(2, 2))
    connector = model.connectors["image"]
    assert connector.n_latents == 4 and connector.tasks["1"].prompts.shape[0] == 4
    batch = batch_of(model, ROWS)
    ctx, _ = model.hidden(batch)
    features = model.encoders["image"](**batch.media["image"]["image"]).concatenated()
    x = torch.nn.functional.layer_norm(features, features.shape[-1:]).reshape(3, 2, 2, 2, 2, -1).mean((2, 4))
    (linear,) = connector.resampler.mlp
    expected = connector.norm(linear(x).flatten(1, 2))
    torch.testing.assert_close(ctx.media["image"], expected, atol=1e-5, rtol=1e-5)


def test_items_take_no_places() -> None:
    model = layerwise()
    batch = batch_of(model, ROWS)
    assert batch.n_tokens == 9 + 6 + 5 and model.inputs["image"].n_tokens() == 0


def test_a_second_task_learns_by_prompts_and_gates_and_the_first_comes_back_bit_for_bit() -> None:
    """``connectors.image.tasks`` learns alone; with task 1's tensors back, the logits are task 1's."""
    model = layerwise()
    batch = batch_of(model, ROWS)
    first = logits(model, batch)
    before = {name: tensor.clone() for name, tensor in model.connectors["image"].state_dict().items()}
    trainable.set_trainable(model, {"connectors.image.tasks": 0.1})
    learning = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert learning == [
        f"connectors.image.tasks.{layer}.{name}" for layer in LAYERS for name in ("prompts", "gate.weight")
    ]
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    losses = []
    for _ in range(4):
        nll, _, _ = model(batch)
        nll.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(nll.detach()))
    assert losses[-1] < losses[0]
    assert not torch.allclose(logits(model, batch), first, atol=1e-3)
    with torch.no_grad():
        for name, tensor in model.connectors["image"].state_dict().items():
            assert torch.equal(tensor, before[name]) == (not name.startswith("tasks."))
            if name.startswith("tasks."):
                tensor.copy_(before[name])
    assert torch.equal(logits(model, batch), first)


def test_closed_gates_move_first() -> None:
    """At g = 0 prompts and maps get no gradient; the gates do (so it learns from step 2 on)."""
    model = layerwise(open_gates=False)
    trainable.set_trainable(model, {"connectors.image": 0.1})
    model(batch_of(model, ROWS))[0].backward()
    for name, parameter in model.connectors["image"].named_parameters():
        assert parameter.grad is not None
        assert bool(parameter.grad.any()) == name.endswith("gate.weight")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ({"tokens": 0}, "tokens: 0 must be at least 1"),
        ({"rank": -1}, "rank: -1 must be at least 1"),
        ({"layers": [0, 4]}, r"layers: \[0, 4\] must name blocks of the LLM, none twice; it has 4"),
        ({"layers": [-1]}, r"so 0\.\.3"),
        ({"layers": [1, 1]}, "none twice"),
        ({"layers": []}, "must name blocks"),
        ({"tokens": 4, "grid": [2, 2]}, r"tokens: 4 beside grid: \[2, 2\]"),
        ({"grid": [2, 0]}, r"grid: \[2, 0\] must be"),
    ],
)
def test_bad_values_are_one_sentence(words: dict[str, object], sentence: str) -> None:
    llm = tiny_llm()
    with pytest.raises(MmllmError, match=sentence):
        LayerwiseConnector(dim=16, llm_dim=llm.dim, **words).attach(llm)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("grid", "sentence"),
    [((4, 5), "cannot average 4 x 5 patches"), ((3, 4, 4), r"keeps 4 latents of an item; \(3, 4, 4\) gives 12")],
)
def test_a_grid_that_does_not_fit_is_known_before_any_forward(grid: tuple[int, ...], sentence: str) -> None:
    connector = LayerwiseConnector(dim=16, llm_dim=16, grid=(2, 2))
    assert connector.n_tokens((4, 4)) == 0
    with pytest.raises(MmllmError, match=sentence):
        connector.out_grid(grid)
