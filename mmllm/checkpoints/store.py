"""Writes one checkpoint folder so that a kill at any moment leaves the older one intact, and verifies it when read.

Protocol: every rank writes and hashes its files in ``step-N.tmp-*``; all ranks agree that it went well; rank 0 writes
the manifest, renames the folder to ``step-N``, moves ``latest`` and only then prunes. Used by ``training`` and
``checkpoints.load``; safetensors and JSON only, nothing is ever unpickled from a run folder.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import distributed

from mmllm.errors import CheckpointError
from mmllm.files.durable import secure

MANIFEST = "manifest.json"
LEARNED = "learned.safetensors"
_ZEROS = "0" * 64
"""Bytes hashed at a time: 4 MiB; larger pieces hash no faster and smaller ones are more calls than work."""


@dataclass(frozen=True)
class Manifest:
    """Manifest of a committed checkpoint; ``files`` maps a file name to (bytes, sha256)."""

    stage: str
    step: int
    """Optimizer steps of this stage that are done."""
    final: bool
    """True for the checkpoint at the stage's end."""
    world: int
    """Ranks that wrote it; resuming needs as many, loading for use does not."""
    recipe: str
    """Digest of the recipe it was trained with."""
    frozen: dict[str, str]
    """Frozen part -> sha256 of its weights."""
    files: dict[str, tuple[int, str]] = field(default_factory=dict)
    shaping: dict[str, Any] | None = None
    """What of the recipe shaped the weights (``recipe.shaping``); None in checkpoints older than this field."""
    inputs: dict[str, str] = field(default_factory=dict)
    """What the model was fed through -> sha256: ``tokenizer``, ``template``, ``preprocessing.<encoder>``,
    ``data.<key>``. Empty in older checkpoints."""
    accepted: list[str] = field(default_factory=list)
    """Differences that were accepted with ``--accept changed`` since the run began, as sentences."""
    threads: int | None = None
    """Threads of torch on a CPU: with another number the last bits of a sum may differ."""
    digest: str = ""
    """sha256 of the manifest's file with 64 zeros in this place; empty in older checkpoints."""


@dataclass(frozen=True)
class VerifiedCheckpoint:
    """A checkpoint folder whose every file was verified."""

    path: Path
    manifest: Manifest


def rank() -> int:
    """This process among the ranks, 0 when there is only one."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def all_gather(value: Any) -> list[Any]:
    """``value`` of every rank in order; waits for all of them."""
    if not distributed.is_initialized():
        return [value]
    values: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(values, value)
    return values


def commit(folder: Path, head: Manifest, files: Mapping[str, Any], keep: int) -> Path:
    """Writes ``folder/step-N`` from what each rank hands in and returns it; every rank calls it at the same step.

    ``files`` are this rank's own: a ``.safetensors`` name with ``dict[str, Tensor]`` or a ``.json`` name with plain
    JSON. Keeps the newest ``keep`` checkpoints. Raises CheckpointError on every rank if any of them failed; the
    older checkpoints are then untouched.
    """
    tmp = begin(folder, head)
    return finish(tmp, head, write(tmp, files), keep)


Written = tuple[str | None, dict[str, tuple[int, str]]]
"""What went wrong on a rank (None: nothing), and its files' sizes and digests."""


def begin(folder: Path, head: Manifest) -> Path:
    """First part of ``commit``: the folder, the same on every rank, into which all of them write."""
    # rank 0's name for all: a shared folder that no unfinished save of an earlier run can already hold
    return folder / all_gather(f"step-{head.step}.tmp-{uuid.uuid4().hex[:12]}")[0]


def write(tmp: Path, files: Mapping[str, Any]) -> Written:
    """Second part: this rank's files, written, flushed and hashed. No rank waits for another in it."""
    try:
        tmp.mkdir(parents=True, exist_ok=True)
        records = {file: _write(tmp / file, content) for file, content in files.items()}
        secure(tmp)
    except (OSError, SafetensorError) as error:
        return f"rank {rank()}: {error}", {}
    return None, records


def finish(tmp: Path, head: Manifest, written: Written, keep: int) -> Path:
    """Last part: all ranks agree that it went well, and rank 0 publishes. Errors as ``commit``."""
    final = tmp.parent / f"step-{head.step}"
    answers = all_gather(written)
    # every rank learns of every failure here: one that raised alone would leave the others waiting in the next exchange
    _abort_if([failed for failed, _ in answers], tmp)
    failure = None
    if rank() == 0:
        merged = {file: record for _, part in answers for file, record in part.items()}
        try:
            _publish(tmp, final, Manifest(**{**asdict(head), "files": merged}), keep)
        except OSError as error:
            failure = f"rank 0: {error}"
    _abort_if(all_gather(failure), tmp)
    return final


def _abort_if(failures: list[str | None], tmp: Path) -> None:
    found = [failure for failure in failures if failure]
    if not found:
        return
    if rank() == 0:
        shutil.rmtree(tmp, ignore_errors=True)
    raise CheckpointError(
        f"the checkpoint {tmp.parent / tmp.name.split('.')[0]} could not be saved ({'; '.join(found)}); older "
        "checkpoints are intact: make room and run the same command again"
    )


def _publish(tmp: Path, final: Path, manifest: Manifest, keep: int) -> None:
    write_manifest(tmp / MANIFEST, manifest)
    secure(tmp)
    if final.exists():  # one that did not verify, trained again from an older one
        _remove(final)
    # the folder appears under its name whole or not at all, and `latest` names it only then
    os.rename(tmp, final)
    secure(final.parent)
    replace_text(final.parent / "latest", final.name + "\n")
    numbers = {number(path): path for path in checkpoints(final.parent)}
    old = sorted(step for step in numbers if step <= manifest.step)[:-keep]
    # a folder beyond this step was skipped as damaged when this run resumed; it must not shadow this one
    for step in [*old, *(step for step in numbers if step > manifest.step)]:
        _remove(numbers[step])


def write_manifest(path: Path, manifest: Manifest) -> None:
    """Write a manifest that holds the digest of its own text."""
    text = json.dumps({**asdict(manifest), "digest": _ZEROS}, indent=1)
    path.write_text(text.replace(_ZEROS, hashlib.sha256(text.encode()).hexdigest()), encoding="utf-8")
    secure(path)


def read_manifest(path: Path) -> Manifest:
    """Return the manifest of a file whose own digest agrees; ValueError where it does not."""
    text = path.read_bytes()
    values = json.loads(text)
    if not isinstance(values, dict):
        raise ValueError("it holds no JSON object")
    manifest = Manifest(**values)
    # older ones end with `files` and hold no digest; one that lost its digest has a field that no manifest has
    if "digest" in values:
        zeroed = text.replace(manifest.digest.encode(), _ZEROS.encode())
        if len(manifest.digest) != len(_ZEROS) or hashlib.sha256(zeroed).hexdigest() != manifest.digest:
            raise ValueError("it does not have the sha256 it holds itself")
    return manifest


def _remove(path: Path) -> None:
    """Remove a folder, renamed first: a kill halfway leaves a tmp folder and not a broken checkpoint."""
    doomed = path.with_name(f"{path.name}.tmp-removed-{uuid.uuid4().hex[:8]}")
    os.rename(path, doomed)
    shutil.rmtree(doomed)


def remove_partial(folder: Path) -> None:
    """Removes what an interrupted save or prune left behind; only the process that holds the run's lock may call it."""
    for path in folder.glob("*.tmp-*"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def replace_text(path: Path, text: str) -> None:
    """Writes ``text`` to ``path`` so that a reader sees the old or the new file, never a part of one."""
    tmp = path.with_name(f"{path.name}.tmp-{uuid.uuid4().hex[:8]}")
    with tmp.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(tmp, path)
    secure(path.parent)


def _write(path: Path, content: Any) -> tuple[int, str]:
    if path.suffix == ".safetensors":
        # clones: tensors that share storage (tied weights, flat buffers) are refused by the format
        save_file({key: value.detach().cpu().contiguous().clone() for key, value in content.items()}, path)
        # safetensors makes it the owner's alone; whoever may read the folder (a server's own user) may read this too
        path.chmod(path.parent.stat().st_mode & 0o666)
    else:
        path.write_text(json.dumps(content, indent=1), encoding="utf-8")
    secure(path)
    return path.stat().st_size, _sha256(path)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def number(path: Path) -> int:
    """Step of a folder named ``step-N``."""
    return int(path.name.removeprefix("step-"))


def checkpoints(folder: Path) -> list[Path]:
    """Committed folders of a stage, newest first; verified or not."""
    found = [path for path in folder.glob("step-*") if path.name.removeprefix("step-").isdigit()]
    return sorted(found, key=number, reverse=True)


def verify(path: Path) -> Manifest:
    """The manifest of ``path`` after every file's size and sha256 was compared; CheckpointError says what is wrong."""
    try:
        manifest = read_manifest(path / MANIFEST)
        if (manifest.stage, manifest.step) != (path.parent.name, number(path)):
            raise CheckpointError(
                f"{path} is not where it belongs: its manifest says step {manifest.step} of stage {manifest.stage}"
            )
        for name, (size, digest) in manifest.files.items():
            found = (path / name).stat().st_size
            if found != size:
                raise CheckpointError(f"{path / name} has {found} bytes, its manifest says {size}")
            if _sha256(path / name) != digest:
                raise CheckpointError(f"{path / name} does not have the sha256 its manifest says")
    except OSError as error:
        raise CheckpointError(f"{path} is incomplete: {error}") from error
    except (ValueError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path / MANIFEST} is damaged: {error}") from error
    return manifest


def newest(folder: Path) -> tuple[VerifiedCheckpoint | None, list[str]]:
    """The newest checkpoint of a stage that verifies (or None), and one sentence for each newer one skipped."""
    skipped: list[str] = []
    for path in checkpoints(folder):
        try:
            return VerifiedCheckpoint(path, verify(path)), skipped
        except CheckpointError as error:
            skipped.append(f"skipped {path.name}: {error}")
    return None, skipped


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """Tensors of a verified file, on the CPU."""
    return load_file(path)


def read_json(path: Path) -> Any:
    """Content of a verified file."""
    return json.loads(path.read_text(encoding="utf-8"))
