"""From what a recipe names (a file, a pattern, a folder, a dataset of the hub) to its rows."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path

from mmllm.datasets.containers.arrow_rows import HfDataset, Parquet
from mmllm.datasets.containers.base import Row, Rows
from mmllm.datasets.containers.csv_rows import CsvRows
from mmllm.datasets.containers.foreign import PARQUET, check_file, check_text
from mmllm.datasets.containers.json_rows import JsonArray, JsonLines, is_array
from mmllm.datasets.containers.media_folder import METADATA, MediaFolder
from mmllm.datasets.containers.webdataset import WebDataset
from mmllm.errors import MmllmError
from mmllm.files.hub_names import is_dataset_of_hub

HUB = "hf://datasets/"
KNOWN = (
    "JSON lines or a JSON array (.jsonl, .json), .csv, .tsv, .parquet, WebDataset shards (.tar), a folder with "
    "metadata.jsonl beside its media, or a Hugging Face dataset (a folder, or hf://datasets/OWNER/NAME)"
)
_BRACES = re.compile(r"\{(\d+)\.\.(\d+)\}")
_CONFIGS = re.compile(r"^(configs|dataset_info):", re.MULTILINE)


class Concatenated(Rows):
    """Rows of several containers of one kind, one after the other."""

    def __init__(self, parts: Sequence[Rows]) -> None:
        self._parts = list(parts)
        self.kind = f"{len(parts)} files of {parts[0].kind}"
        self.folder = parts[0].folder
        self._starts = [0, *accumulate(map(len, parts))]

    def __len__(self) -> int:
        """Return the rows of all parts."""
        return self._starts[-1]

    def __getitem__(self, index: int) -> Row:
        """Return the row of the part that holds it."""
        part, place = self._place(index)
        return part[place]

    def label(self, index: int) -> str:
        """Return what its part calls it."""
        part, place = self._place(index)
        return part.label(place)

    def files(self) -> Sequence[Path]:
        """Return the files of all parts."""
        return [file for part in self._parts for file in part.files()]

    def _place(self, index: int) -> tuple[Rows, int]:
        number = bisect_right(self._starts, index) - 1
        return self._parts[number], index - self._starts[number]


def open_rows(path: str, split: str | None = None, streaming: bool = False, config: str | None = None) -> Rows:
    """Open what ``path`` names: a file, a pattern (``shards/{000..099}.tar``, ``part-*.jsonl``), a folder, a dataset.

    Args:
        path: as above; ``hf://datasets/OWNER/NAME`` or, where nothing local has the name, ``OWNER/NAME``: of the hub.
        split: of a dataset that has several.
        streaming: read a hub's Parquet files where they are, row group by row group, instead of downloading them.
        config: of a dataset of the hub, or in its layout, that has several.

    Raises:
        MmllmError: nothing is there, or it is none of the known kinds.
    """
    here = Path(path)
    if "://" in path:
        rows = _far(path, split, streaming, config)
    elif here.is_file():
        rows = _file(here)
        _without_splits(path, split)
    elif here.is_dir():
        rows = _folder(here, split, config)
    elif "*" in path or _BRACES.search(path):
        rows = open_files(_matching(path), path)
        _without_splits(path, split)
    elif is_dataset_of_hub(path):
        rows = _far(HUB + path, split, streaming, config)
    else:
        raise MmllmError(f"there is no file or folder {path}; data are {KNOWN}")
    if config is not None and not isinstance(rows, HfDataset):
        raise MmllmError(f"config: {config} is of a dataset of the hub or in its layout, and {path} is {rows.kind}")
    if not len(rows):
        raise MmllmError(f"{path} holds no row")
    return rows


def _without_splits(path: str, split: str | None) -> None:
    if split not in (None, "train"):
        raise MmllmError(f"split: {split} is of a dataset that has several, and {path} has none; name the file of it")


def _file(path: Path) -> Rows:
    check_file(path)
    ending = path.suffix.lower()
    if ending in PARQUET:
        return Parquet([str(path)], path.parent)
    if ending == ".tar":
        return WebDataset([path])
    check_text(path)
    if ending in (".csv", ".tsv"):
        return CsvRows(path, "," if ending == ".csv" else "\t")
    return JsonArray(path) if is_array(path) else JsonLines(path)


def open_files(files: Sequence[Path], path: str) -> Rows:
    """Several files of one kind as one container, in their order; ``path`` is what errors call them."""
    endings = {file.suffix.lower() for file in files}
    parquet = endings <= set(PARQUET)
    if len(endings) > 1 and not parquet:
        raise MmllmError(f"{path} names files of several kinds: {', '.join(sorted(endings))}")
    for file in files:
        check_file(file)
    if endings == {".tar"}:
        return WebDataset(files)
    if parquet:
        return Parquet([str(file) for file in files], files[0].parent)
    return Concatenated([_file(file) for file in files]) if len(files) > 1 else _file(files[0])


def _matching(path: str) -> list[Path]:
    """Files of a pattern, sorted; those of ``{000..099}`` all have to be there."""
    braces = _BRACES.search(path)
    if braces:
        low, high = braces[1], braces[2]
        names = [str(n).zfill(len(low)) for n in range(int(low), int(high) + 1)]
        files = [found for name in names for found in _matching(path.replace(braces[0], name, 1))]
        if not files:
            raise MmllmError(f"{path} names no file: {low} is above {high}")
        return files
    if "*" not in path:
        if not Path(path).is_file():
            raise MmllmError(f"there is no file {path}")
        return [Path(path)]
    start = Path(path).anchor or "."
    files = sorted(file for file in Path(start).glob(path.removeprefix(start)) if file.is_file())
    if not files:
        raise MmllmError(f"no file is named {path}")
    return files


def _folder(folder: Path, split: str | None, config: str | None) -> Rows:
    for place in (folder / split, folder) if split else (folder,):
        metadata = _metadata(place)
        if metadata is not None:
            if place == folder:
                _without_splits(str(folder), split)
            return MediaFolder(metadata, _file)
    if (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file():
        return _saved(folder, split)
    shards = sorted(folder.glob("*.tar"))
    if shards:
        _without_splits(str(folder), split)
        return WebDataset(shards)
    readme = folder / "README.md"
    described = readme.is_file() and _CONFIGS.search(readme.read_text(encoding="utf-8", errors="replace"))
    tables = sorted(file for file in folder.rglob("*.p*") if file.suffix.lower() in PARQUET and file.is_file())
    for file in tables:
        check_file(file)
    if tables and not described and all(file.suffix == ".pq" for file in tables):  # which the library does not read
        return Parquet(_of_split([str(file) for file in tables], str(folder), str(folder), split), folder)
    if described or tables:
        return _loaded(str(folder), split, folder, config)
    found = sorted(entry.name for entry in folder.iterdir())
    splits = [name for name in found if _metadata(folder / name)]
    if splits:
        metadata = _metadata(folder / _chosen(str(folder), splits, split))
        assert metadata is not None
        return MediaFolder(metadata, _file)
    shown = ", ".join(found[:8]) + (", ..." if len(found) > 8 else "")
    raise MmllmError(f"{folder} is a folder without data that are known ({shown or 'it is empty'}); data are {KNOWN}")


def _metadata(folder: Path) -> Path | None:
    """The file that says what a folder's media show; None: it has none."""
    found = [folder / name for name in METADATA if (folder / name).is_file()]
    if len(found) > 1:
        names = " and ".join(file.name for file in found)
        raise MmllmError(f"{folder} has {names}, and one says what its media show; keep one, or name the file as path")
    return found[0] if found else None


def _saved(folder: Path, split: str | None) -> Rows:
    """What ``Dataset.save_to_disk`` wrote."""
    import datasets

    try:
        found = datasets.load_from_disk(str(folder))
    except (OSError, ValueError, KeyError) as error:
        raise MmllmError(f"{folder} cannot be read as a saved dataset: {error}") from error
    if isinstance(found, datasets.DatasetDict):
        found = found[_chosen(str(folder), list(found), split)]
    elif split != str(found.split):
        _without_splits(str(folder), split)
    return HfDataset(found, str(folder), folder)


def _loaded(name: str, split: str | None, folder: Path, config: str | None) -> Rows:
    """A dataset in the hub's layout, by the ``datasets`` library; its Parquet becomes memory-mapped Arrow."""
    import datasets

    datasets.disable_progress_bars()
    loud = datasets.logging.get_verbosity()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)  # it logs all it knows of what it then raises
    try:
        configs = datasets.get_dataset_config_names(name)
        if config not in configs and (config is not None or len(configs) > 1):
            raise MmllmError(f"{name} has the configs {', '.join(configs)}; name one of them with config")
        splits = datasets.get_dataset_split_names(name, config)
        found = datasets.load_dataset(name, config, split=_chosen(name, splits, split))
    except MmllmError:
        raise
    except Exception as error:  # the library and the hub's client raise many kinds, network errors among them
        text = " ".join(str(_cause(error)).split())
        raise MmllmError(f"{name} cannot be read as a Hugging Face dataset: {text[:300]}") from error
    finally:
        datasets.logging.set_verbosity(loud)
    return HfDataset(found, name, folder)


def _cause(error: BaseException) -> BaseException:
    """What the library's "An error occurred while generating the dataset" was made of."""
    import datasets

    generating = isinstance(error, datasets.exceptions.DatasetGenerationError)
    return error.__cause__ if generating and error.__cause__ is not None else error


def _chosen(name: str, known: Sequence[str], split: str | None) -> str:
    """The split asked for; where none is, ``train`` or the only one."""
    if split is None:
        split = "train" if "train" in known or len(known) != 1 else known[0]
    if split not in known:
        raise MmllmError(f"{name} has the splits {', '.join(known)} and no {split}; name one with split")
    return split


def _far(path: str, split: str | None, streaming: bool, config: str | None) -> Rows:
    """A dataset of the hub, downloaded or streamed, or Parquet files of any file system that fsspec knows."""
    if path.startswith(HUB) and not streaming:
        name = path.removeprefix(HUB)
        if name.count("/") != 1:
            raise MmllmError(f"{path}: a dataset of the hub is {HUB}OWNER/NAME; files of it need streaming: true")
        return _loaded(name, split, Path(), config)
    import fsspec

    try:
        system, place = fsspec.url_to_fs(path)
        below = place.rstrip("/")
        patterns = [place] if place.endswith(PARQUET) else [f"{below}/**/*{ending}" for ending in PARQUET]
        files = sorted(file for pattern in patterns for file in system.glob(pattern))
    except Exception as error:  # each file system raises its own kinds
        text = " ".join(str(error).split())
        raise MmllmError(f"{path} cannot be reached: {text[:300]}") from error
    if not files:
        raise MmllmError(f"{path} holds no Parquet file; only Parquet is read from afar")
    return Parquet(_of_split(files, place, path, split), Path(), system.open)


def _of_split(files: Sequence[str], root: str, path: str, split: str | None) -> list[str]:
    """Parquet files below ``root`` of the split asked for; where none is, of ``train`` or the only one."""
    if split is not None:
        named = [file for file in files if _split_of(file) == split or f"/{split}/" in file.removeprefix(root)]
        if not named:
            raise MmllmError(f"{path} holds no Parquet file of the split {split}")
        return named
    splits = sorted({_split_of(file) for file in files})
    chosen = _chosen(path, splits, None)
    return [file for file in files if _split_of(file) == chosen]


def _split_of(name: str) -> str:
    """What a file's name says before its number: ``train`` of ``data/train-00000-of-00002.parquet``."""
    return re.split(r"[-.]", name.rpartition("/")[2])[0]
