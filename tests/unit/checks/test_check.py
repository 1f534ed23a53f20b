"""`mmllm check` opens what a recipe names: every finding has its place, all are listed at once, and torch stays out."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy
import pytest

from mmllm.checks import data
from mmllm.recipe.files import folder, shipped
from tests.support.checked import Checked


def test_what_is_right_is_said_with_the_next_command(checked: Checked) -> None:
    assert checked("seed=3") == 0
    assert checked.err == ""
    assert checked.out == (
        "my.yaml: ok (1 stage: align)\n"
        "  llm: llama, 6 blocks, width 128, placed here by `mmllm train`\n"
        "  encoders.image: open_clip, 5 blocks, placed here by `mmllm train`\n"
        "  data.captions: 5 rows, messages (JSON lines)\n"
        "  eval.benchmarks.qa_json: 1 question\n"
        "next: mmllm train my.yaml seed=3\n"
    )


def test_all_that_is_missing_is_listed_at_once(checked: Checked) -> None:
    (checked.folder / "questions.json").unlink()
    checked.change("path: rows.jsonl", "path: row.jsonl, media: picture")
    (checked.folder / "pictures").mkdir()
    assert checked("llm.path=data/mini/lmm") == 2
    assert checked.out == ""
    lines = checked.err.splitlines()
    assert lines[0].startswith(
        'mmllm: override "llm.path=data/mini/lmm": llm.path: there is no file or folder "data/mini'
    )
    assert lines[1:4] == [
        'mmllm: my.yaml:8: data.captions.path: there is no file or folder "row.jsonl"; did you mean "rows.jsonl"?',
        'mmllm: my.yaml:8: data.captions.media: there is no file or folder "picture"; did you mean "pictures"?',
        'mmllm: my.yaml:15: eval.benchmarks.qa_json.path: there is no file or folder "questions.json"; a row is '
        '{"question": "...", "answer": "...", "image": "a.png"}, paths beside the file.',
    ]
    assert lines[4] == f"mmllm: my.yaml: 4 errors; relative paths start beside the recipe or in {checked.folder}."


def test_the_defaults_of_paths_count(checked: Checked) -> None:
    checked.change("{qa_json: {path: questions.json}}", "[easy_vqa]")
    said = checked.sentence()
    assert said.startswith('my.yaml:15: eval.benchmarks.easy_vqa: there is no file or folder "data/easy_vqa"; ')
    assert "github.com/vzhou842/easy-VQA" in said


def test_rows_of_no_form_and_fields_of_no_name(checked: Checked) -> None:
    (checked.folder / "rows.jsonl").write_text('{"a": 1}\n')
    assert checked.sentence().startswith(
        "my.yaml:8: data.captions: rows.jsonl: rows have the fields a, which is no form "
    )
    (checked.folder / "rows.jsonl").write_text("")
    assert checked.sentence() == "my.yaml:8: data.captions: rows.jsonl holds no row."


def test_media_of_the_first_rows_are_looked_for(checked: Checked) -> None:
    (checked.folder / "1.png").unlink()
    (checked.folder / "questions.json").write_text(json.dumps([{"question": "?", "answer": "a", "image": "2.png"}]))
    assert checked.sentence() == "my.yaml:8: data.captions: rows.jsonl:2: its image 1.png is not there."
    (checked.folder / "4.png").unlink()  # of a row that is not among the first
    assert checked.sentence() == "my.yaml:8: data.captions: rows.jsonl:2: its image 1.png is not there."


def test_media_without_a_connector(checked: Checked) -> None:
    rows = (checked.folder / "rows.jsonl").read_text().replace("image", "audio")
    (checked.folder / "rows.jsonl").write_text(rows.splitlines()[0] + "\n")
    said = checked.sentence()
    assert said == (
        "my.yaml:8: data.captions: rows.jsonl:1: holds audio media, and no connector fills <audio>; known: <image>."
    )


@pytest.mark.parametrize(
    ("messages", "sentence"),
    [
        ([("user", "a"), ("assistant", " ")], "a message of the assistant is empty"),
        ([("user", "a")], "no message of the assistant, so there is nothing to learn from it"),
        ([("user", "<image><image>a"), ("assistant", "b")], "2 <image> placeholders in the text, 1 items given"),
    ],
)
def test_first_rows_that_nothing_can_be_learned_from(
    messages: list[tuple[str, str]], sentence: str, checked: Checked
) -> None:
    turns = [{"role": role, "content": text} for role, text in messages]
    (checked.folder / "a.png").write_bytes(b"")
    (checked.folder / "rows.jsonl").write_text(json.dumps({"messages": turns, "image": "a.png"}) + "\n")
    assert checked.sentence().startswith(f"my.yaml:8: data.captions: rows.jsonl:1: {sentence}")


def test_a_benchmark_that_cannot_be_read(checked: Checked) -> None:
    (checked.folder / "questions.json").write_text("{")
    assert checked.sentence().startswith(
        "my.yaml:15: eval.benchmarks.qa_json: qa_json: questions.json:1: not a JSON object"
    )
    (checked.folder / "questions.json").write_text(json.dumps([{"question": "?", "answer": "a", "image": "9.png"}]))
    assert "9.png is missing" in checked.sentence()


def test_a_large_file_is_not_opened_and_this_is_said(checked: Checked, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "MOST_BYTES", 100)
    assert checked() == 0
    assert checked.out.startswith("my.yaml: ok (1 stage: align, 1 warning)\n")
    assert checked.err.startswith("mmllm: warning: my.yaml:8: data.captions: not opened: rows.jsonl has 0 MiB of rows")


def test_data_of_the_hub(checked: Checked) -> None:
    assert checked("data.captions.path=hf://datasets/some/rows") == 0
    assert 'not opened: "hf://datasets/some/rows" is not here; it will be downloaded.' in checked.err
    snapshot(checked.folder / "hub" / "datasets--some--rows").mkdir(parents=True)
    assert checked("data.captions.path=hf://datasets/some/rows") == 0
    assert 'not opened: "hf://datasets/some/rows" is in the hub cache.' in checked.err


def test_models_of_the_hub(checked: Checked) -> None:
    checked.change("type: open_clip, model: data/mini/clip", "type: hf_vision, model: some/vit")
    checked.change("path: data/mini/lm", "path: some/llm")
    assert checked() == 0
    end = "is no folder here, so it will be downloaded from the hub; not tested."
    assert checked.err.splitlines() == [
        f'mmllm: warning: my.yaml:1: llm.path: "some/llm" {end}',
        f'mmllm: warning: my.yaml:3: encoders.image.model: "some/vit" {end}',
    ]


def test_a_model_in_the_hubs_cache_is_opened(checked: Checked) -> None:
    home = snapshot(checked.folder / "hub" / "models--some--llm")
    shutil.copytree(folder().parent / "data" / "mini" / "lm", home)
    assert checked("llm.path=some/llm") == 0
    assert (checked.err, "llm: llama, 6 blocks, width 128, in the hub's cache" in checked.out) == ("", True)
    assert "has 2,048 positions" in checked.sentence("llm.path=some/llm", "llm.context=4096")
    (home / "model.safetensors").unlink()
    assert checked("llm.path=some/llm") == 0  # it will be downloaded
    assert "the hub's cache is incomplete, the rest will be downloaded" in checked.err


def snapshot(repository: Path) -> Path:
    """Folder where the hub's cache would keep the main revision of a repository."""
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("0123abc")
    return repository / "snapshots" / "0123abc"


def test_a_folder_that_is_here_is_no_owner_on_the_hub(checked: Checked) -> None:
    (checked.folder / "models" / "llama-tiny").mkdir(parents=True)
    assert checked.sentence("llm.path=models/lama-tiny").endswith('; did you mean "models/llama-tiny"?')


@pytest.mark.parametrize(
    ("monitor", "path", "said"),
    [
        ("{wandb: true}", "wandb", "the package wandb is not installed; install it with: pip install wandb."),
        (
            "{comet: {project: x}}",
            "comet",
            "the package comet_ml is not installed; install it with: pip install comet_ml.",
        ),
        (
            "{csv: {outputpath: x}}",
            "csv.outputpath",
            "unknown word of DeepSpeed's csv monitor; known: enabled, output_path, job_name; did you mean "
            '"output_path"?',
        ),
        ("{csv: 3}", "csv", "found 3; give true, or a mapping of enabled, output_path, job_name."),
    ],
)
def test_monitors(monitor: str, path: str, said: str, checked: Checked, monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("wandb", "comet_ml"):  # as if they were not installed, whatever is here
        monkeypatch.setitem(sys.modules, package, None)
    checked.change("    batch: 2", f"    batch: 2\n    monitor: {monitor}")
    assert checked.sentence() == f"my.yaml:15: stages.align.monitor.{path}: {said}"
    checked.change(monitor, "{wandb: false, csv: true}")
    assert checked() == 0


def test_syntax_alone_opens_nothing(checked: Checked) -> None:
    (checked.folder / "rows.jsonl").unlink()
    assert checked("--syntax", "llm.path=/no/where") == 0
    assert (checked.out, checked.err) == ("my.yaml: its words are right (1 stage: align)\n", "")


@pytest.mark.parametrize("name", ["image_pool", "mini/pool", "my.yaml"])
def test_torch_stays_out(name: str, checked: Checked) -> None:
    """With files to open (my.yaml) and without."""
    code = (
        "import sys; from mmllm.cli import main; main(sys.argv[1:]); "
        "print([one for one in ('torch', 'open_clip', 'deepspeed') if one in sys.modules])"
    )
    command = [sys.executable, "-c", code, "check", name]
    done = subprocess.run(command, cwd=checked.folder, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    assert done.stdout.startswith("my.yaml: ok") == (name == "my.yaml")


def test_a_shipped_recipe_away_from_its_data(checked: Checked) -> None:
    """Its words are right, its data are not there: both are said."""
    command = [sys.executable, "-m", "mmllm", "check", "mini/pool"]
    done = subprocess.run(command, cwd=checked.folder, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert 'data.captions.path: there is no file or folder "data/mini/world/captions.jsonl"' in done.stderr
    assert "`python -m mmllm.miniature data` draws it" in done.stderr
    assert "llm.path" not in done.stderr  # the miniature parts come with mmllm
    assert "mini/pool" in shipped()


def test_a_near_name_and_a_way_to_get_it(checked: Checked) -> None:
    (checked.folder / "data" / "easy_vqa2").mkdir(parents=True)
    checked.change("{qa_json: {path: questions.json}}", "[easy_vqa]")
    assert (
        'did you mean "data/easy_vqa2"? Or fetch the folder data/ of github.com/vzhou842/easy-VQA' in checked.sentence()
    )


def test_weights_that_a_connector_starts_from(checked: Checked) -> None:
    checked.change("grid: [4, 4]", "grid: [4, 4], start: start.safetensors")
    assert checked.sentence().endswith('connectors.image.start: there is no file or folder "start.safetensors".')
    (checked.folder / "start.safetensors").write_bytes(b"\x08")
    assert checked.sentence().endswith(
        "connectors.image.start: start.safetensors is no safetensors file (1 bytes); download it again."
    )


def test_a_run_that_a_recipe_starts_from(checked: Checked) -> None:
    from safetensors.numpy import save_file

    checked.change("llm:", "start: runs/old\nllm:")
    run = checked.folder / "runs" / "old"
    (run / "stages" / "align").mkdir(parents=True)
    (run / "recipe.yaml").write_text((checked.folder / "my.yaml").read_text())
    assert checked.sentence().endswith("start: runs/old has no checkpoint; train it first.")
    step = run / "stages" / "align" / "step-2"
    step.mkdir()
    save_file({"connectors.image.mlp.0.weight": numpy.zeros((2, 2), numpy.float32)}, step / "learned.safetensors")
    assert checked() == 0
    checked.change("start: runs/old", "start: {path: runs/old, stage: tune}")
    assert checked.sentence().endswith("start: runs/old has no stage 'tune'; its stages are align.")
    checked.change("start: {path: runs/old, stage: tune}", "name: other")
    checked.change("rank: 4", "rank: 4, start: runs/old")
    said = "connectors.lora.start: runs/old has learned connectors.image, and nothing below connectors.lora."
    assert checked.sentence().endswith(said)


@pytest.mark.parametrize(
    ("part", "word"),
    [
        ("{type: inner_adaptor, after: [5, 6]}", "after"),
        ("{type: series_adapter, blocks: [6]}", "blocks"),
        ("{type: parallel_adapter, blocks: [0, 6]}", "blocks"),
    ],
)
def test_blocks_that_the_llm_has_not(part: str, word: str, checked: Checked) -> None:
    checked.change("{type: lora, rank: 4}", part)
    assert checked.sentence() == f"my.yaml:6: connectors.lora.{word}: found 6, and the LLM has the blocks 0 to 5."
    checked.change(part, part.replace("6]", "4]"))
    assert checked() == 0


def test_a_place_behind_the_last_block(checked: Checked) -> None:
    checked.change(
        "{type: pool, from: image, grid: [4, 4]}", "{type: cross_attention_layers, from: image, before: [6, 7]}"
    )
    assert checked.sentence() == "my.yaml:5: connectors.image.before: found 7, and the LLM has the blocks 0 to 5."
    checked.change("[6, 7]", "[0, 6]")
    assert checked() == 0, checked.err
