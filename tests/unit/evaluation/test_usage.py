"""Expert usage reaches the metrics and the log of a training, and files, table and picture of an evaluation."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
import yaml
from PIL import Image
from rich.console import Console

from mmllm.evaluation.usage import Usage
from mmllm.generation.generator import Generator
from mmllm.model.metrics import added
from mmllm.training.metrics import line, shortened
from mmllm.types import Message, Sample
from tests.support.experts import LLAVA_MOLE, METEORA, MOLA, with_moe
from tests.support.training import metrics, tiny_recipe, train_here


@pytest.mark.slow
def test_training_writes_and_shows_usage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Only in the stage that trains the experts: before, they are idle. Shares add up, text apart from pictures."""
    path = tiny_recipe(tmp_path, log_every=2)
    recipe = yaml.safe_load(path.read_text())
    recipe["connectors"]["lora"] = {"type": "moe_lora", **LLAVA_MOLE}
    path.write_text(yaml.safe_dump(recipe, sort_keys=False))
    train_here(path, tmp_path / "run")
    rows = metrics(tmp_path / "run")
    assert ["usage" in row for row in rows] == [row["stage"] == "instruct" for row in rows]
    usage = rows[-1]["usage"]["lora"]
    assert 0 <= usage["least"] < 1 / 3 < usage["most"] <= 1
    assert usage["shares"].keys() == {"pictures"} and usage["shares"]["pictures"].keys() == {"text", "image"}
    assert sum(usage["shares"]["pictures"]["image"]) == pytest.approx(1, abs=1e-3)
    assert rows[-1]["extra_loss"] > 0
    assert capsys.readouterr().out.count("lora: an expert's share of its block") == 2


def test_reports_of_ranks_add_up() -> None:
    one = {"moe": {"experts": {"a": {"text": [[1.0, 3.0], [2.0, 2.0]]}}, "gates": {"right": 3, "labelled": 4}}}
    two = {"moe": {"experts": {"b": {"text": [[4.0, 0.0], [4.0, 0.0]]}}, "gates": {"right": 1, "labelled": 4}}}
    assert added(one, two)["moe"]["gates"] == {"right": 4, "labelled": 8}
    connectors = {"moe": with_moe(LLAVA_MOLE)[1]}
    short = shortened(connectors, [one, two])
    assert short["moe"]["least"] == 0.25 and short["moe"]["most"] == 0.75
    assert short["moe"]["shares"]["a"]["text"] == [0.375, 0.625]
    assert line(connectors, short) == "moe: an expert's share of its block 0.25-0.75, gates right 0.50"
    assert shortened(connectors, [{}, {}]) == {}
    nothing = {"moe": {"experts": {"a": {"text": [[0.0, 0.0], [0.0, 0.0]]}}}}
    assert shortened(connectors, [nothing, {}]) == {}  # such as where `when` leaves every conversation out
    assert "image" not in shortened(connectors, [nothing, one])["moe"]["shares"]


@pytest.mark.parametrize("words", [LLAVA_MOLE, MOLA, METEORA])
def test_evaluation_writes_table_and_picture(words: dict[str, object], tmp_path: Path) -> None:
    model, _ = with_moe(words)
    generator = Generator(model)
    question = (Message("user", "<image>\nWhat is on the sign?"),)
    encoded = generator.encode(Sample("one", question, {"image": (Image.new("RGB", (28, 28)),)}))
    generator.generate_encoded([encoded], 1)  # answered before the evaluation
    usage = Usage(generator, tmp_path, "digest")
    generator.end_ids = frozenset()
    # the prompts, and the first token of each answer; one that both know is counted twice all the same
    generator.generate_encoded([encoded, encoded], 2)
    usage.take("mini_scenes")
    generator.generate_encoded([encoded], 2)
    usage.take(None)
    text = io.StringIO()
    usage.show(Console(file=text, width=100))
    assert "mini_scenes" in text.getvalue()
    tokens = json.loads((tmp_path / "experts.json").read_text())["tokens"]["moe"]["mini_scenes"]
    per_block = 1 if words is LLAVA_MOLE else 7
    chosen = 1 if words is LLAVA_MOLE else 2
    assert [sum(block) for block in tokens["image"]] == [8 * per_block * chosen] * 4
    assert [sum(block) for block in tokens["text"]] == [2 * (len(encoded.ids) - 3) * per_block * chosen] * 4
    with Image.open(tmp_path / "experts.png") as picture:
        assert picture.width > 200
    assert Usage(generator, tmp_path, "digest").entries and not Usage(generator, tmp_path, "other").entries
