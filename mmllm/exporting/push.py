"""`mmllm push`: what was exported, or a run itself, to the hub by its name; nothing leaves before it was compared."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path

from mmllm.checkpoints.load import Trust, run_recipe
from mmllm.errors import MmllmError
from mmllm.exporting.card import CARD, ID
from mmllm.exporting.export import REPORT, digests_of, export_run
from mmllm.exporting.places import check_places

Say = Callable[[str], None]


def push(
    given: Path,
    repo: str,
    form: str | None = None,
    *,
    private: bool = False,
    trust: Trust | None = None,
    say: Say = lambda _: None,
) -> str:
    """Upload a folder that ``mmllm export`` wrote, or a run in a form that is exported now; returns its address.

    Args:
        given: exported folder, or run.
        repo: ``user/name``; made where it is not there.
        form: of a run: as ``mmllm export --to`` has it; default: ``run``.
        private: whether a repository that is made is private; else its owner's default.
        trust: as ``load_run`` has it.
        say: is told each thing that is compared.

    Raises:
        MmllmError: something differs, a file changed since it was compared or names a place of this machine, or the
            hub refuses; nothing has been uploaded then.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise MmllmError(f"{repo} is no name that the hub takes; give user/name") from error
    if "/" not in repo:
        raise MmllmError(f"{repo} has no owner; give user/name")
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "pushed"
        _prepared(given, folder, form, trust, say)
        text = (folder / CARD).read_text(encoding="utf-8")
        (folder / CARD).write_text(text.replace(ID, repo), encoding="utf-8")
        api = HfApi()
        try:
            address = api.create_repo(repo, private=private or None, exist_ok=True)  # None: as its owner has it
            api.upload_folder(repo_id=repo, folder_path=folder, commit_message="Exported by mmllm push")
        except Exception as error:  # no token, offline, refused, cut off: its HTTP client has errors of its own
            first = str(error).strip().partition("\n")[0][:200]
            raise MmllmError(
                f"{repo}: the hub did not take it ({type(error).__name__}: {first}); log in with `hf auth login`, or "
                "set HF_TOKEN to a token that may write there"
            ) from error
    return str(address)


def _prepared(given: Path, folder: Path, form: str | None, trust: Trust | None, say: Say) -> None:
    """Put what is to be uploaded into ``folder``."""
    report = given / REPORT
    if report.is_file():
        _check_exported(given, form)
        folder.mkdir()
        for file in sorted(given.rglob("*")):
            if file.is_file():
                there = folder / file.relative_to(given)
                there.parent.mkdir(parents=True, exist_ok=True)
                # linked where that is possible would be changed with it: the card alone is written anew
                there.symlink_to(file.resolve()) if file.name != CARD else there.write_bytes(file.read_bytes())
        check_places(given, None)
        return
    export_run(given, form or "run", folder, trust=trust, say=say)
    recipe = run_recipe(given)
    check_places(folder, recipe, given)


def _check_exported(given: Path, form: str | None) -> None:
    """MmllmError where an exported folder is of another form, or has other files than those that were compared."""
    found = json.loads((given / REPORT).read_text(encoding="utf-8"))
    if form not in (None, found["form"]):
        raise MmllmError(f"{given} was exported with --to {found['form']}; give the run, to export it with --to {form}")
    now = digests_of(given)
    told = found.get("files", {})
    other = sorted(name for name in {*told, *now} if told.get(name) != now.get(name))
    if other:
        raise MmllmError(
            f"{given}: {other[0]} is not what was compared with the run when it was exported; export it again"
        )
