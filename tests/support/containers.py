"""One small set of conversations with pictures, written into every container that people keep data in."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from PIL import Image

COLOURS = ("red", "lime", "blue", "black", "white", "yellow", "gray")


def png(colour: str) -> bytes:
    """A small picture of one colour."""
    out = io.BytesIO()
    Image.new("RGB", (8, 8), colour).save(out, "PNG")
    return out.getvalue()


def llava(colour: str) -> dict[str, Any]:
    """A row as LLaVA writes it."""
    asked = {"from": "human", "value": "<image>\nWhat colour?"}
    return {"id": colour, "image": f"{colour}.png", "conversations": [asked, {"from": "gpt", "value": colour}]}


def pictures(folder: Path) -> None:
    """The pictures as files."""
    for colour in COLOURS:
        (folder / f"{colour}.png").write_bytes(png(colour))


def json_lines(folder: Path) -> str:
    pictures(folder)
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(llava(colour)) + "\n" for colour in COLOURS), encoding="utf-8")
    return str(path)


def json_array(folder: Path) -> str:
    pictures(folder)
    path = folder / "rows.json"
    path.write_text(json.dumps([llava(colour) for colour in COLOURS], indent=2), encoding="utf-8")
    return str(path)


def several_files(folder: Path) -> str:
    pictures(folder)
    for number, colours in enumerate((COLOURS[:3], COLOURS[3:])):
        (folder / f"part-{number:02}.json").write_text(json.dumps([llava(one) for one in colours]), encoding="utf-8")
    return str(folder / "part-*.json")


def comma_separated(folder: Path) -> str:
    import csv

    pictures(folder)
    path = folder / "rows.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "question", "answer"])
        writer.writerows([f"{colour}.png", "What colour?\nOne word.", colour] for colour in COLOURS)
    return str(path)


def tab_separated(folder: Path) -> str:
    pictures(folder)
    path = folder / "rows.tsv"
    lines = ["image\tcaption", *(f"{colour}.png\t{colour}" for colour in COLOURS)]
    path.write_text("\ufeff" + "\n".join(lines), encoding="utf-8")
    return str(path)


def table(listed: bool = False) -> Mapping[str, list[Any]]:
    """Columns of a table with the pictures inside."""
    cells = [{"bytes": png(colour), "path": f"{colour}.png"} for colour in COLOURS]
    words = [[{"role": "user", "content": "What colour?"}, {"role": "assistant", "content": one}] for one in COLOURS]
    return {"images" if listed else "image": [[cell] for cell in cells] if listed else cells, "messages": words}


def parquet(folder: Path, listed: bool = False, name: str = "train-00000-of-00001.parquet") -> str:
    import pyarrow
    from pyarrow import parquet as pq

    pq.write_table(pyarrow.table(dict(table(listed))), folder / name, row_group_size=3)
    return str(folder / name)


def parquet_of_lists(folder: Path) -> str:
    return parquet(folder, listed=True)


def far_parquet(folder: Path) -> str:
    return f"file://{parquet(folder)}"


def saved_dataset(folder: Path) -> str:
    import datasets

    kind = datasets.Features(
        {
            "image": datasets.Image(decode=False),
            "messages": [{"role": datasets.Value("string"), "content": datasets.Value("string")}],
        }
    )
    one = datasets.Dataset.from_dict(dict(table()), features=kind)
    datasets.DatasetDict({"train": one}).save_to_disk(str(folder / "saved"))
    return str(folder / "saved")


def hub_folder(folder: Path) -> str:
    (folder / "repo" / "data").mkdir(parents=True)
    parquet(folder / "repo" / "data")
    (folder / "repo" / "README.md").write_text(
        "---\nconfigs:\n- config_name: default\n  data_files:\n  - split: train\n    path: data/train-*\n---\n",
        encoding="utf-8",
    )
    return str(folder / "repo")


def media_folder(folder: Path) -> str:
    pictures(folder)
    rows = [{"file_name": f"{colour}.png", "text": colour} for colour in COLOURS]
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(folder)


def shards(folder: Path) -> str:
    for number, colours in enumerate((COLOURS[:4], COLOURS[4:])):
        with tarfile.open(folder / f"{number:03}.tar", "w") as tar:
            for colour in colours:
                for ending, data in (("png", png(colour)), ("json", json.dumps(llava(colour)).encode())):
                    member = tarfile.TarInfo(f"some/{'deep/' * 40}{colour}.{ending}")
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))
    return str(folder / "{000..001}.tar")


WRITERS: Mapping[str, Callable[[Path], str]] = {
    writer.__name__: writer
    for writer in (
        json_lines,
        json_array,
        several_files,
        comma_separated,
        tab_separated,
        parquet,
        parquet_of_lists,
        far_parquet,
        saved_dataset,
        hub_folder,
        media_folder,
        shards,
    )
}
"""Name -> writes the conversations into an existing, empty folder; returns what a recipe calls them."""
