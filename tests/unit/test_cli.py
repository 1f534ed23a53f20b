"""The `mmllm` command: what it prints, its exit codes, and that light subcommands stay light."""

import json
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from mmllm import registry
from mmllm.cli import main
from mmllm.errors import CheckpointError
from mmllm.recipe.files import folder, shipped
from mmllm.recipe.load import load_recipe, parse
from tests.support.places import TESTS
from tests.support.recipe_text import RECIPE

LIGHT = {
    "ls": ["ls"],
    "ls connectors": ["ls", "connectors"],
    "ls part": ["ls", "pool"],
    "check": ["check", "image_pool", "--syntax"],
    "show": ["show", "image_pool"],
    "schema": ["show", "--schema"],
    "cp": ["cp", "image_pool", "copied.yaml"],
}
HEAVY = ["torch", "transformers", "deepspeed", "open_clip", "numpy", "PIL"]


@pytest.fixture
def recipe(tmp_path: Path) -> str:
    """A recipe file."""
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    return str(tmp_path / "recipe.yaml")


@pytest.mark.parametrize("arguments", LIGHT.values(), ids=LIGHT)
def test_light_commands_import_nothing_heavy(arguments: list[str], tmp_path: Path) -> None:
    code = (
        "import sys; from mmllm.cli import main; code = main(sys.argv[1:]); "
        f"print([name for name in {HEAVY} if name in sys.modules], file=sys.stderr); sys.exit(code)"
    )
    command = [sys.executable, "-c", code, *arguments]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.stderr == "[]\n"
    assert done.stdout
    # CPU seconds: they answer in so much where no other test runs on the same core.
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1.0


def test_ls_prints_every_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ls"]) == 0
    words = capsys.readouterr().out.split()
    names = [name for group in registry.groups() for name in registry.table(group)]
    assert set(names) | set(shipped()) <= set(words)


def test_ls_of_one_group(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ls", "encoders"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(registry.table("encoders"))


def test_check_of_a_full_size_recipe_is_light_too(tmp_path: Path) -> None:
    """What it names is looked for, here and in the hub's cache; without its data it is not ok."""
    code = (
        "import sys; from mmllm.cli import main; code = main(sys.argv[1:]); "
        f"print([name for name in {HEAVY} if name in sys.modules]); sys.exit(code)"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-c", code, "check", "image_pool"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert (done.returncode, done.stdout) == (2, "[]\n")
    assert 'data.captions.path: there is no file or folder "data/llava_pretrain/chat.jsonl"' in done.stderr
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1.0


def test_check_of_the_words_alone(recipe: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", recipe, "--syntax", "stages.align.batch=128"]) == 0
    assert capsys.readouterr().out == f"{recipe}: its words are right (1 stage: align)\n"


def test_check_lists_every_problem(recipe: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", recipe, "stages.align.batch=x", "seed=y"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    said = [line for line in captured.err.splitlines() if not line.startswith("mmllm: importing ")]
    assert said == [
        'mmllm: override "seed=y": seed: found "y" (text), expected a whole number.',
        'mmllm: override "stages.align.batch=x": stages.align.batch: found "x" (text), expected a whole number.',
    ]


def test_show_prints_the_resolved_recipe(recipe: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", recipe, "stages.align.batch=128"]) == 0
    assert parse(capsys.readouterr().out) == load_recipe(recipe, ["stages.align.batch=128"])


def test_show_of_a_run(recipe: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", str(Path(recipe).parent)]) == 0
    assert parse(capsys.readouterr().out) == load_recipe(recipe)


def test_show_schema(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", "--schema"]) == 0
    assert "connectors" in json.loads(capsys.readouterr().out)["properties"]


def test_show_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show"]) == 2
    assert capsys.readouterr().err == "mmllm: show needs a recipe, a run folder or --schema.\n"


@pytest.mark.slow
def test_a_recipe_may_name_parts_beside_the_user(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("class Mine:\n    def __init__(self, *, path: str) -> None: ...\n")
    (tmp_path / "recipe.yaml").write_text(RECIPE.replace("tests.support.recipe_parts:Source", "mine:Mine"))
    (tmp_path / "tests").symlink_to(TESTS)
    script = Path(sys.executable).parent / "mmllm"
    command = [script, "check", "recipe.yaml", "--syntax"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.stderr, done.stdout) == ("", "recipe.yaml: its words are right (1 stage: align)\n")


def test_cp_copies_and_never_overwrites(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cp", "mini/demo", str(tmp_path)]) == 0
    assert (tmp_path / "demo.yaml").read_text() == (folder() / "mini" / "demo.yaml").read_text()
    assert main(["cp", "mini/demo", str(tmp_path)]) == 2
    assert capsys.readouterr().err == f"mmllm: {tmp_path}/demo.yaml exists already; name another file.\n"
    assert main(["cp", "mini/demo", str(tmp_path / "no" / "demo.yaml")]) == 2
    assert capsys.readouterr().err == f"mmllm: {tmp_path}/no is not a folder; make it first.\n"


def test_unknown_recipe_has_a_near_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cp", "image_pol", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert error.startswith('mmllm: there is no recipe file "image_pol"; shipped recipes: ')
    assert error.endswith('; did you mean "image_pool"?\n')


def test_folder_that_is_no_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", str(tmp_path)]) == 2
    assert capsys.readouterr().err == f"mmllm: {tmp_path}: the folder has no recipe.yaml, so it is not a run.\n"


@pytest.mark.parametrize("word", ["eval", "chat", "serve"])
def test_a_run_is_named_by_its_folder_or_its_recipe(
    word: str, recipe: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("fastapi")
    from mmllm.evaluation import run
    from mmllm.serving import app, terminal

    seen: list[object] = []
    for module, name in ((run, "evaluate"), (terminal, "chat"), (app, "serve")):
        monkeypatch.setattr(module, name, lambda folder, *words, **named: seen.append(folder))
    folder, file = Path(recipe).parent, Path(recipe)
    assert main([word, str(file)]) == 2
    error = f"mmllm: {file} is a file and no run's recipe.yaml; give the folder that mmllm train made.\n"
    assert capsys.readouterr().err == error
    (folder / "stages").mkdir()
    assert main([word, str(file)]) == main([word, str(folder)]) == 0
    assert seen == [folder, folder]
    capsys.readouterr()
    assert main([word, f"{folder}s"]) == main([word, str(folder / "no" / "run")]) == 2
    assert capsys.readouterr().err == (
        f'mmllm: there is no run folder {folder}s; did you mean "{folder}"?\n'
        f"mmllm: there is no run folder {folder / 'no' / 'run'}; give the folder that mmllm train made, runs/NAME.\n"
    )


def test_train_hands_over_everything(recipe: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from mmllm.training import launch

    seen: list[object] = []
    monkeypatch.setattr(launch, "launch", lambda *words, **named: seen.append((words, named)) or 143)
    command = [
        "train",
        recipe,
        "seed=1",
        "--gpus",
        "2",
        "--out",
        "there",
        "stages.align.batch=128",
        "--accept",
        "changed",
    ]
    assert main(command) == 143
    named = {"gpus": 2, "nodes": None, "out": Path("there"), "accept": True, "verify": False}
    assert seen == [((Path(recipe), ["seed=1", "stages.align.batch=128"]), named)]


def test_train_says_how_to_go_on(
    recipe: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from mmllm.training import launch

    monkeypatch.setattr(launch, "launch", lambda *words, **named: 0)
    assert main(["train", recipe]) == 0
    assert capsys.readouterr().out == "next: mmllm eval runs/demo\n"
    assert main(["train", recipe, "eval.benchmarks=[]", "--out", "my run"]) == 0
    assert capsys.readouterr().out == "next: mmllm chat 'my run'\n"


def test_a_run_goes_on_in_its_own_folder_whatever_it_is_called(
    recipe: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import mmllm
    from mmllm.training import run

    seen: list[Path] = []
    monkeypatch.setattr(run, "train", lambda _, out, **named: seen.append(out))
    moved = tmp_path / "moved"
    (moved / "stages").mkdir(parents=True)
    (moved / "recipe.yaml").write_text(Path(recipe).read_text())
    for given in (moved, moved / "recipe.yaml"):
        assert main(["train", str(given), "--trust-code"]) == 0
        assert capsys.readouterr().out == f"next: mmllm eval {moved}\n"
        with pytest.raises(CheckpointError, match="names code of its own"):
            mmllm.train(given)
        assert mmllm.train(given, trust_code=True) == moved
    assert main(["train", str(moved), "--out", "other", "--trust-code"]) == 0
    assert mmllm.train(recipe) == Path("runs/demo")
    assert seen == [moved] * 4 + [Path("other"), Path("runs/demo")]


def test_eval_keeps_the_recipes_arguments(recipe: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from mmllm.checkpoints.load import Trust
    from mmllm.evaluation import run

    file = Path(recipe)
    file.write_text(file.read_text().replace("[docvqa]", "{docvqa: {path: here}}"))
    seen: list[object] = []
    monkeypatch.setattr(run, "evaluate", lambda folder, **named: seen.append((folder, named)))
    command = ["eval", str(file.parent), "--benchmarks", "docvqa", "textvqa", "--limit", "3", "--blind"]
    assert main([*command, "--out", "there", "--verify", "llm.context=64"]) == 0
    named = {"benchmarks": {"docvqa": {"path": "here"}, "textvqa": {}}, "limit": 3, "blind": True}
    named |= {"sample": None, "out": Path("there"), "overrides": ["llm.context=64"], "trust": Trust(verify=True)}
    assert seen == [(file.parent, named)]


def test_eval_of_an_unknown_benchmark(recipe: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", str(Path(recipe).parent), "--benchmarks", "docvqa={path: x"]) == 2
    assert "--benchmarks docvqa={path: x: this is not YAML: while parsing a flow mapping" in capsys.readouterr().err
    assert main(["eval", str(Path(recipe).parent), "--benchmarks", "docvq"]) == 2
    assert 'benchmarks has no type "docvq"' in capsys.readouterr().err


def test_interrupted(recipe: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*words: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("mmllm.checks.run.load_placed", interrupt)
    assert main(["check", recipe]) == 130


def test_a_defect_is_not_hidden(recipe: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def defect(*words: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("mmllm.checks.run.load_placed", defect)
    with pytest.raises(ZeroDivisionError):
        main(["check", recipe])


def test_unknown_arguments(recipe: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["check", recipe, "--gpu", "2"])
    assert caught.value.code == 2
    assert "unknown arguments: --gpu" in capsys.readouterr().err


def test_python_dash_m() -> None:
    done = subprocess.run([sys.executable, "-m", "mmllm", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.strip()


def test_reader_that_leaves_early() -> None:
    command = f"{sys.executable} -m mmllm show --schema | head -1"
    done = subprocess.run(["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "{\n", "")
