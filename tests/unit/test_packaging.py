"""What an install is: a wheel holds mmllm, its recipes and miniature parts, and no more; a clone is a path entry."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from mmllm.recipe.files import shipped
from tests.support.places import ROOT

pytestmark = pytest.mark.slow
COMMITTED = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
PARTS = sorted(
    path.relative_to(ROOT) for part in ("lm", "clip", "vit", "audio") for path in ROOT.glob(f"data/mini/{part}/*")
)


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of a clone called mmllm, as the working tree has them; building writes into it."""
    folder = tmp_path_factory.mktemp("beside") / "mmllm"
    names = subprocess.run(COMMITTED, cwd=ROOT, capture_output=True, check=True).stdout.decode().split("\0")
    for name in filter(None, names):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, folder / name)
    return folder


@pytest.fixture(scope="module")
def wheel(clone: Path) -> Path:
    """The wheel that ``pip wheel`` builds of it."""
    build = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        ".",
        "--no-deps",
        "--no-build-isolation",
        "--no-index",
        "--wheel-dir",
        "../wheels",
    ]
    stale = clone / "build" / "lib" / "mmllm" / "room_that_was.py"  # of an older source, built in the same folder
    stale.parent.mkdir(parents=True)
    stale.touch()
    done = subprocess.run(build, cwd=clone, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (found,) = (clone.parent / "wheels").glob("mmllm-*.whl")
    return found


@pytest.fixture(scope="module")
def installed(wheel: Path) -> Path:
    """A folder of packages that holds what installing the wheel puts there."""
    folder = wheel.parent / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def test_wheel_installs_mmllm_alone(installed: Path) -> None:
    top = {path.name for path in installed.iterdir()}
    assert {name for name in top if not name.endswith(".dist-info")} == {"mmllm"}
    assert not (installed / "mmllm" / "room_that_was.py").exists()
    code = {path.relative_to(installed) for path in installed.rglob("*.py")}
    assert code == {path.relative_to(ROOT) for path in ROOT.glob("mmllm/**/*.py")}


def test_wheel_holds_recipes_and_parts(installed: Path) -> None:
    home = installed / "mmllm" / "shipped"
    recipes = sorted(path.relative_to(ROOT) for path in ROOT.glob("recipes/**/*.yaml"))
    assert sorted(path.relative_to(home) for path in home.rglob("*") if path.is_file()) == sorted([*recipes, *PARTS])
    assert all((home / path).read_bytes() == (ROOT / path).read_bytes() for path in [*recipes, *PARTS])


def test_wheel_in_an_empty_folder(installed: Path, tmp_path: Path) -> None:
    def mmllm(*arguments: str) -> tuple[str, str]:
        return python("-m", "mmllm", *arguments)

    def python(*arguments: str) -> tuple[str, str]:
        environment = {**os.environ, "PYTHONPATH": str(installed)}
        command = [sys.executable, *arguments]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout, done.stderr

    assert [line.split()[0] for line in mmllm("ls", "recipes")[0].splitlines()] == list(shipped())
    right = "its words are right (2 stages: align, instruct)\n"
    assert mmllm("check", "mini/demo", "--syntax")[0].endswith(f"mini/demo.yaml: {right}")
    out, said = mmllm("cp", "mini/demo", "my.yaml")
    assert out == "my.yaml\n"
    assert said.startswith("mmllm: data/mini/lm, data/mini/clip: copied into the current folder from ")
    assert mmllm("check", "my.yaml", "--syntax") == (f"my.yaml: {right}", "")
    assert mmllm("cp", "mini/pool", ".") == ("pool.yaml\n", "")
    found = {path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file()}
    named = {path for path in PARTS if path.parts[2] in ("lm", "clip")}
    assert found == {Path("my.yaml"), Path("pool.yaml"), *named}
    assert all((tmp_path / path).read_bytes() == (ROOT / path).read_bytes() for path in named)
    page = python("-c", "from mmllm.serving.page import page_command; print(page_command('http://x:1'))")[0]
    assert page.startswith("MMLLM_SERVER=http://x:1 streamlit run streamlit_app.py, in a clone of the repository")


def test_a_clone_is_not_hidden_by_its_own_folder(clone: Path) -> None:
    code = "import sys; from setuptools import build_meta; build_meta.build_editable(sys.argv[1])"
    site = clone.parent / "editable"
    site.mkdir()
    subprocess.run([sys.executable, "-c", code, str(site)], cwd=clone, capture_output=True, check=True)
    (built,) = site.glob("*.whl")
    with zipfile.ZipFile(built) as archive:
        archive.extractall(site)
    (entry,) = site.glob("*.pth")
    assert entry.read_text().split() == [str(clone)]
    # -S: the environment of the tests has an mmllm of its own
    look = f"import site; site.addsitedir({str(site)!r}); import mmllm; print(mmllm.__file__)"
    elsewhere = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    command = [sys.executable, "-S", "-c", look]
    done = subprocess.run(command, cwd=clone.parent, env=elsewhere, capture_output=True, text=True, check=True)
    assert Path(done.stdout.strip()) == clone / "mmllm" / "__init__.py"
