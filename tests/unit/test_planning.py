"""`mmllm plan`: a model without numbers says of a real step what it holds and computes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from mmllm.cli import main
from mmllm.model.build import build
from mmllm.model.trainable import set_trainable
from mmllm.planning.layout import laid_out
from mmllm.planning.memory import Sizes, held
from mmllm.planning.meter import Meter, nbytes
from mmllm.planning.plan import Machine, plans
from mmllm.planning.step import step_cost
from mmllm.planning.terminal import sentences
from mmllm.planning.workload import fullest, workload
from mmllm.recipe.load import load_recipe
from tests.support.training import tiny_recipe


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_recipe(tmp_path_factory.mktemp("planned"))


@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_step_without_numbers_costs_what_the_real_one_costs(recipe: Path, checkpointing: bool) -> None:
    """Every operation, tensor and gradient is the same; what lives a little longer depends on the garbage collector."""
    found = []
    for make in (laid_out, lambda recipe: build(recipe, "cpu")):
        read = load_recipe(recipe)
        model = make(read)
        # a frozen LoRA that is still zero is skipped by a model that can see it
        set_trainable(model, read.stages["instruct"].train)
        model.llm.gradient_checkpointing(checkpointing)
        batch = fullest(workload(read, "instruct", model), read.stages["instruct"], 1, 1, model)
        cost = step_cost(model, batch)
        assert cost.n_tokens == batch.n_tokens and sum(cost.flops.values()) > 0
        found.append(cost)
    planned, real = found
    assert (planned.flops, planned.features, planned.n_labels) == (real.flops, real.features, real.n_labels)
    assert sum(planned.peak.values()) == pytest.approx(sum(real.peak.values()), rel=0.02)


def test_recomputed_blocks_keep_less_and_compute_more(recipe: Path) -> None:
    plain, again = (
        next(iter(plans(load_recipe(recipe, [f"stages.align.gradient_checkpointing={word}"]), "align", Machine())))
        for word in ("false", "true")
    )
    assert again.cost.peak["llm"] < 0.7 * plain.cost.peak["llm"]
    assert sum(again.cost.flops.values()) > 1.2 * sum(plain.cost.flops.values())


def test_the_meter_counts_what_is_held_and_where() -> None:
    known = torch.ones(10)
    with Meter([known]) as meter, meter.part("a"):
        first = known + 1
        with meter.part("b"):
            second = first @ first.view(10, 1)
        known.mul_(2)
        del first
    assert meter.bytes == {"a": 0, "b": 4} and meter.peak == {"a": 40, "b": 4}
    assert meter.flops["b"] == 20 and second.shape == (1,)
    assert nbytes([known, known.view(5, 2)]) == 40


def test_zero_splits_what_it_splits(recipe: Path) -> None:
    read = load_recipe(recipe)
    plan = next(iter(plans(read, "instruct", Machine(ranks=2))))
    n, weights = plan.sizes.n_learning, plan.sizes.weights
    stage = read.stages["instruct"]
    whole, *split = (held(plan.sizes, stage, zero, 2, gpu=False) for zero in range(4))
    assert (whole.weights, whole.gradients, whole.optimizer, whole.buffers) == (weights, 4 * n, 8 * n, 0)
    assert [one.optimizer for one in split] == [12 * n // 2] * 3
    assert [one.gradients for one in split] == [4 * n, 4 * n // 2, 4 * n // 2]
    assert [one.weights for one in split] == [weights, weights, weights // 2]


def test_features_that_are_kept_are_computed_once(recipe: Path) -> None:
    live, kept, other = (
        next(iter(plans(load_recipe(recipe, [f"stages.align.cache={word}"]), "align", Machine(rate=1e9))))
        for word in ("false", "{dtype: float32}", "{encoders: [image]}")
    )
    encoder = live.cost.flops["encoders.image"]
    each = encoder / live.cost.items["image"]
    assert live.flops_once == 0 < encoder and live.cost.peak == kept.cost.peak, "the first epoch computes them"
    assert kept.flops_a_step == pytest.approx(
        live.flops_a_step - encoder / live.cost.n_tokens * live.tokens_a_step, rel=1e-6
    )
    assert kept.flops_once == other.flops_once == pytest.approx(8 * each), "pictures of the stage"
    assert kept.cache["image"] == (8, 2 * live.cache["image"][1]) and live.cache == other.cache
    assert live.seconds is not None and kept.seconds is not None and kept.seconds < live.seconds
    said = " ".join(sentences(kept))
    assert "FLOP once for features that are kept, " in said and "2.0 KiB = 16.0 KiB kept" in said


def test_a_quantised_llm_is_planned_smaller(recipe: Path) -> None:
    sizes = {}
    for word in ("null", "int8", "int8_weight_only", "nf4"):
        read = load_recipe(recipe, [f"llm.quantize={word}"])
        model = laid_out(read)
        sizes[word] = Sizes.of(model, read.llm.quantize).weights
    assert sizes["nf4"] < sizes["int8"] == sizes["int8_weight_only"] < sizes["null"]


def test_the_command(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["plan", str(recipe), "--gpus", "2", "--gpu-memory", "8", "--flops", "1e12", "--stage", "align"]
    assert main([*arguments, "stages.align.batch=8"]) == 0
    said = capsys.readouterr().out
    assert "4 steps of 8 conversations on 2 ranks, 1 micro-batches of 4 each, ZeRO 0" in said
    assert "peak of one rank: " in said and "at 1 TFLOP/s a rank" in said
    assert "features of encoders.image: 8 items x 1.0 KiB = 8.0 KiB in 16 bits" in said
    assert "fits: stages.align.zero=0 stages.align.micro_batch=4" in said
    assert main([*arguments, "--gpu-memory", "0.0001", "stages.align.batch=8"]) == 0
    assert "nothing fits: set gradient_checkpointing or offload" in capsys.readouterr().out


def test_check_lays_the_model_out(recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What check cannot tell without torch: each of these passes it and stops training."""
    small = tmp_path / "small.safetensors"
    save_file({"projector.mlp.0.bias": torch.ones(7)}, small)
    grid = ["connectors.image={type: pool, from: image, grid: [3, 3]}"]
    cases = {
        f"connectors.image.start={{path: {small}, prefix: projector.}}": "connectors.image.start: ",
        "llm.context=12": "stages.align: none of the first 12 rows can be used; ",
        "stages.instruct.tokens=12": "stages.instruct: none of the first 8 rows can be used; ",
        "stages.align.train={connectors.image.gates: 1.0}": "has nothing called 'gates'; it has mlp",
        "stages.align.data={texts: 1.0}": "connectors.image learns, and none of the 4 rows shows <image>",
        "llm.context=50": "rows cannot be used, more than max_bad: 0.01; ",
        "connectors.lora={type: peft, method: poly, tasks: [pictures, texts]}|stages.align.share_prefix=true": (
            "stages.align: share_prefix: connectors.lora (PeftConnector) looks at more of a conversation"
        ),
        grid[0]: "stages.align, stages.instruct: connector pool cannot average 4 x 4 patches to a grid of [3, 3]",
    }
    for override, sentence in cases.items():
        words = override.split("|")
        assert main(["check", str(recipe), *words]) == 0, override
        capsys.readouterr()
        assert main(["check", str(recipe), *words, "--build"]) == 2, override
        assert sentence in capsys.readouterr().err
    picture = recipe.parent / "0.png"
    whole = picture.read_bytes()
    picture.write_bytes(whole[:60])
    some = [f"stages.{name}.max_bad=0.5" for name in ("align", "instruct")]
    assert main(["check", str(recipe), "--build", *some]) == 0
    picture.write_bytes(whole)
    said = capsys.readouterr()
    assert "mmllm: warning: stages.align: training skips 1 of the first 12 rows; " in said.err
    assert "0.png is damaged" in said.err and "recipe.yaml: ok (2 stages: align, instruct, 2 warnings)" in said.out


def test_what_cannot_be_planned_is_said(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", str(recipe), "--stage", "aline"]) == 2
    assert "--stage aline: tiny has no such stage; its stages are align, instruct" in capsys.readouterr().err
    assert main(["plan", str(recipe), "--gpus", "0"]) == 2
    assert "--gpus is 0; give more than 0" in capsys.readouterr().err
    assert main(["plan", str(recipe), "--gpus", "3"]) == 2
    assert "stages.align.batch is 4, which 3 GPUs cannot share evenly" in capsys.readouterr().err
