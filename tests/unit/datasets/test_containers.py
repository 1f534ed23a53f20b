"""Every container gives the same conversations and pictures, at random access, and says what is wrong with it."""

from __future__ import annotations

import io
import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from mmllm.datasets.chat import Chat
from mmllm.errors import MediaError, MmllmError, SampleError
from mmllm.model.inputs import loaded
from mmllm.testing import check_dataset
from mmllm.types import Sample
from tests.support.containers import COLOURS, WRITERS, json_lines, parquet, pictures, png, saved_dataset, shards, table

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the datasets library converts goes into a folder of the test."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


def colour(sample: Sample) -> tuple[int, ...]:
    """Of the one picture that a sample shows."""
    (item,) = sample.media["image"]
    found = loaded(item)
    with Image.open(io.BytesIO(found) if isinstance(found, bytes) else found) as image:
        pixel = image.convert("RGB").getpixel((0, 0))
    assert isinstance(pixel, tuple)
    return pixel


def colour_of(name: str) -> Any:
    return Image.new("RGB", (1, 1), name).getpixel((0, 0))


@pytest.mark.parametrize("name", WRITERS)
def test_rows_of_every_container(name: str, tmp_path: Path) -> None:
    source = Chat(WRITERS[name](tmp_path))
    assert len(source) == len(COLOURS)
    for index in (*reversed(range(len(COLOURS))), 0, 3):
        sample = source[index]
        assert sample.messages[-1].text == COLOURS[index]
        assert colour(sample) == colour_of(COLOURS[index])
        assert sum(message.text.count("<image>") for message in sample.messages) == 1
    assert f"{len(COLOURS)} rows, " in source.summary


@pytest.mark.parametrize("name", [one for one in WRITERS if one not in ("several_files", "shards", "far_parquet")])
def test_every_container_keeps_the_contract_of_datasets(name: str) -> None:
    check_dataset(lambda folder: Chat(WRITERS[name](folder)))


def test_the_start_says_what_was_found(tmp_path: Path) -> None:
    assert Chat(json_lines(tmp_path)).summary == "7 rows, LLaVA conversations (JSON lines)"
    (tmp_path / "t").mkdir()
    assert Chat(shards(tmp_path / "t")).summary == "7 rows, LLaVA conversations (WebDataset shards)"


def test_row_groups_are_blocks_and_pictures_are_read_where_they_are_needed(tmp_path: Path) -> None:
    source = Chat(parquet(tmp_path))
    assert source.blocks == [3, 3, 1]
    samples = [source[index] for index in range(len(source))]
    assert all(not isinstance(item, bytes) for sample in samples for item in sample.media["image"])
    (tmp_path / "train-00000-of-00001.parquet").unlink()
    with pytest.raises(MediaError, match=r"row group 0 of .* cannot be read"):
        loaded(samples[0].media["image"][0])


def test_class_labels_are_read_by_name(tmp_path: Path) -> None:
    import datasets

    kind = datasets.Features(
        {"image": datasets.Image(decode=False), "caption": datasets.ClassLabel(names=["cat", "dog"])}
    )
    rows = {"image": [{"bytes": png("red"), "path": None}] * 2, "caption": [1, 0]}
    one = datasets.Dataset.from_dict(rows, features=kind)
    one.to_parquet(str(tmp_path / "a.parquet"))
    one.save_to_disk(str(tmp_path / "saved"))
    for name in ("a.parquet", "saved"):
        assert [sample.messages[-1].text for sample in Chat(str(tmp_path / name))] == ["dog", "cat"]


def test_dates_stay_text(tmp_path: Path) -> None:
    pictures(tmp_path)
    for day in ("2026-11-28", "2026-11-28T02:00:00Z"):
        (tmp_path / "a.jsonl").write_text(json.dumps({"image": "red.png", "caption": day}))
        assert Chat(str(tmp_path / "a.jsonl"))[0].messages[-1].text == day


def test_a_large_array_is_not_held_in_memory(tmp_path: Path) -> None:
    path = tmp_path / "large.json"
    row = json.dumps({"query": "é" * 400, "response": '\\"]}, {[' * 20})
    with path.open("w", encoding="utf-8") as file:
        file.write("[\n" + ",\n".join([row] * 20_000) + "]")
    assert path.stat().st_size > 20 << 20
    tracemalloc.start()
    source = Chat(str(path))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 12 << 20
    assert len(source) == 20_000 and source[19_999].messages[0].text == "é" * 400


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ('[{"a": 1}, {"a": 2', r"is no array of JSON objects: a row is damaged or cut .* \(after 1 rows\)"),
        ('[{"a": 1} {"a": 2}]', r"found '\{' behind a row, expected a comma or \]"),
        ("[1, 2]", "found '1, 2]' where an object should begin"),
        ('[{"a": 1},]', "where an object should begin"),
        ("[]", "holds no row"),
        ("", "holds no row"),
        ("{\n}", "no row at its beginning can be read; the first: not a JSON object .* stand in an array"),
        ('[{"query": "a", "response": "b"}]\n[{"query": "c"}]', r"found '\[\{\"query\": \"c\"\}\]' behind the array"),
        ('{"a": 1}', "rows have the fields a, which is no form of chat data; known: messages"),
    ],
)
def test_a_file_that_is_no_data_is_one_sentence(text: str, sentence: str, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(MmllmError, match=sentence) as error:
        Chat(str(tmp_path / "a.json"))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["a.csv", "a.tsv"])
def test_a_quote_that_is_never_closed_takes_no_rows_with_it(name: str, tmp_path: Path) -> None:
    rows = [["query", "response"], ["a", "b"], ["c", '"d'], ["e", "f"]]
    (tmp_path / name).write_text("\n".join((",", "\t")[name == "a.tsv"].join(row) for row in rows))
    with pytest.raises(MmllmError, match=r"unexpected end of data .in the record that begins on line 3"):
        Chat(str(tmp_path / name))


def test_a_split_or_config_of_what_has_none_is_refused(tmp_path: Path) -> None:
    import datasets

    pictures(tmp_path)
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "red.png", "text": "red"}\n')
    for split in ("one", "two"):
        (tmp_path / "both" / split).mkdir(parents=True)
        (tmp_path / "both" / split / "metadata.jsonl").write_text('{"file_name": "../../red.png", "text": "red"}\n')
    datasets.Dataset.from_dict({"query": ["a"], "response": ["b"]}).save_to_disk(str(tmp_path / "saved"))
    for path in (tmp_path, tmp_path / "metadata.jsonl", tmp_path / "meta*.jsonl", tmp_path / "saved"):
        with pytest.raises(MmllmError, match="split: test is of a dataset that has several"):
            Chat(str(path), split="test", form=None if path.name == "saved" else "text")
    with pytest.raises(MmllmError, match="has the splits one, two and no train; name one with split"):
        Chat(str(tmp_path / "both"))
    with pytest.raises(MmllmError, match="config: en is of a dataset of the hub or in its layout"):
        Chat(str(tmp_path), config="en")
    assert len(Chat(str(tmp_path / "both"), split="two")) == 1


def test_dates_that_the_library_read_are_not_made_text_again(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"query": "When?", "response": "2021-02-03"}\n')
    (tmp_path / "README.md").write_text("---\nconfigs:\n- config_name: default\n  data_files: a.jsonl\n---\n")
    with pytest.raises(SampleError, match=r"response is of type datetime, as the datasets library .* name the file"):
        Chat(str(tmp_path))[0]
    assert Chat(str(tmp_path / "a.jsonl"))[0].messages[1].text == "2021-02-03"


def test_configs_are_named(tmp_path: Path) -> None:
    names = ("de", "en")
    for name in names:
        (tmp_path / f"{name}.csv").write_text(f"query,response\n{name},b\n")
    listed = "".join(f"- config_name: {name}\n  data_files: {name}.csv\n" for name in names)
    (tmp_path / "README.md").write_text(f"---\nconfigs:\n{listed}---\n")
    with pytest.raises(MmllmError, match="has the configs de, en; name one of them with config"):
        Chat(str(tmp_path))
    assert Chat(str(tmp_path), config="en")[0].messages[0].text == "en"


def test_a_key_that_stands_twice_is_an_error_of_its_row(tmp_path: Path) -> None:
    good = '{"query": "a", "response": "b"}'
    (tmp_path / "a.jsonl").write_text(f'{good}\n{{"query": "a", "response": "b", "query": "c"}}\n{good}\n')
    source = Chat(str(tmp_path / "a.jsonl"))
    with pytest.raises(SampleError, match=r"a\.jsonl:2: the key 'query' stands twice"):
        source[1]
    assert source[2].messages[0].text == "a"


def test_what_is_no_data_is_one_sentence(tmp_path: Path) -> None:
    pictures(tmp_path)
    (tmp_path / "sub").mkdir()
    (tmp_path / "a.jsonl.gz").write_bytes(b"\x1f\x8b")
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    (tmp_path / "a.tar").write_bytes(b"no tar" * 200)
    for name, sentence in (
        ("sub", "is a folder without data that are known"),
        ("gone.jsonl", "there is no file or folder"),
        ("*.json", "no file is named"),
        ("{00..02}.tar", "there is no file .*00.tar"),
        ("a.jsonl.gz", "is compressed"),
        ("a.parquet", "cannot be read as Parquet"),
    ):
        with pytest.raises(MmllmError, match=sentence):
            Chat(str(tmp_path / name))
    with pytest.raises(MmllmError, match="cannot be read as a tar file"):
        Chat(str(tmp_path / "a.tar"))


def test_splits_are_named(tmp_path: Path) -> None:
    with pytest.raises(MmllmError, match="has the splits train and no test; name one with split"):
        Chat(saved_dataset(tmp_path), split="test")


def test_several_splits_from_afar_are_never_mixed(tmp_path: Path) -> None:
    parquet(tmp_path)
    parquet(tmp_path, name="test-00000-of-00001.parquet")
    for split in (None, "test"):
        source = Chat(f"file://{tmp_path}", split=split)
        assert len(source) == len(COLOURS) and f"/{split or 'train'}-" in source[0].name
    (tmp_path / "train-00000-of-00001.parquet").rename(tmp_path / "other.parquet")
    with pytest.raises(MmllmError, match="has the splits other, test and no train; name one with split"):
        Chat(f"file://{tmp_path}")


def test_a_folder_of_media_in_splits_is_read_by_train_or_the_only_one(tmp_path: Path) -> None:
    for split in ("test", "train"):
        (tmp_path / split).mkdir()
        (tmp_path / split / "metadata.jsonl").write_text(f'{{"file_name": "red.png", "text": "{split}"}}\n')
        assert Chat(str(tmp_path))[0].messages[-1].text == split
    with pytest.raises(MmllmError, match="has the splits test, train and no other; name one with split"):
        Chat(str(tmp_path), split="other")
    (tmp_path / "train" / "metadata.csv").write_text("file_name,text\nred.png,red\n")
    with pytest.raises(MmllmError, match=r"has metadata\.jsonl and metadata\.csv, and one says what its media show"):
        Chat(str(tmp_path))


def test_parquet_may_end_in_pq(tmp_path: Path) -> None:
    pictures(tmp_path)
    Path(parquet(tmp_path)).rename(tmp_path / "train.pq")
    for path in (tmp_path / "train.pq", tmp_path / "*.pq", tmp_path, f"file://{tmp_path}"):
        assert len(Chat(str(path))) == len(COLOURS)


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("a.json", POINTER, "holds a pointer of Git LFS, not the data; fetch them: `git lfs pull` in its folder"),
        ("a.jsonl", POINTER, "holds a pointer of Git LFS"),
        ("a.csv", POINTER, "holds a pointer of Git LFS"),
        ("a.tar", POINTER, "holds a pointer of Git LFS"),
        ("a.parquet", POINTER, "holds a pointer of Git LFS"),
        ("a.arrow", b"ARROW1", r"is an Arrow file, which is not read; make Parquet of it: python -c .*; of a folder"),
        ("a.feather", b"ARROW1", r"is a Feather file, .*read_feather\('a.feather'\)\.to_parquet\('a.parquet'\)"),
        ("a.xlsx", b"PK", "is an Excel workbook, .*read_excel"),
        ("a.pkl", b"\x80\x04", "is pickled, which may run any code and is not read"),
        ("a.json", '[{"a": 1}]'.encode("utf-16"), "is UTF-16, and text is read as UTF-8: iconv -f UTF-16 -t UTF-8 a"),
        ("a.jsonl", '{"a": 1}'.encode("utf-16-le"), "is UTF-16"),
        ("a.csv", "query,response\n".encode("utf-16-be"), "is UTF-16"),
        ("a.csv", b"query;response\na;b\n", "is read with commas between its cells, and its first line has semicol"),
        ("a.csv", b"query\tresponse\na\tb\n", r"its first line has tabs: 'query\\tresponse'; save it with commas"),
        ("a.tsv", b"query,response\na,b\n", "is read with tabs between its cells, and its first line has commas"),
        ("a.csv", b"Query, response\na,b\n", r'write columns: \{query: "Query", response: " response"\}'),
    ],
)
def test_a_file_of_another_kind_says_what_to_do(
    name: str, content: bytes, sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path(name).write_bytes(content)
    for path in (name, f"*{Path(name).suffix}", *([str(tmp_path)] if name == "a.parquet" else [])):
        with pytest.raises(MmllmError, match=sentence) as error:
            Chat(path)
        assert "\n" not in str(error.value)


def test_splits_of_other_columns_are_one_sentence(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    import pyarrow
    from pyarrow import parquet as pq

    for split, field in (("train", "query"), ("test", "question")):
        pq.write_table(pyarrow.table({field: ["a"], "response": ["b"]}), tmp_path / f"{split}-00000-of-00001.parquet")
    with pytest.raises(MmllmError, match=r"cannot be read as a Hugging Face dataset: .*question: string"):
        Chat(str(tmp_path))
    assert capfd.readouterr().err == ""


def test_a_change_far_away_is_noticed(tmp_path: Path) -> None:
    import pyarrow
    from pyarrow import parquet as pq

    digests = []
    for answers in (["a", "b"], ["a", "c"], ["a", "b"], ["a", "b", "c"]):
        pq.write_table(pyarrow.table({"query": answers, "response": answers}), tmp_path / "a.parquet")
        digests.append((Chat(f"file://{tmp_path / 'a.parquet'}").digest(), Chat(str(tmp_path / "a.parquet")).digest()))
    for far in zip(*digests, strict=True):
        assert far[0] == far[2] and len(set(far)) == 3


def test_files_of_other_columns_are_not_one_table(tmp_path: Path) -> None:
    import pyarrow
    from pyarrow import parquet as pq

    parquet(tmp_path, name="a.parquet")
    pq.write_table(pyarrow.table({"messages": table()["messages"]}), tmp_path / "b.parquet")
    with pytest.raises(
        MmllmError, match=r"b\.parquet has other columns than .*a\.parquet: images? is missing there and"
    ):
        Chat(str(tmp_path / "*.parquet"))
    numbers = pyarrow.table({"query": [1, 2], "response": [3, 4]})
    for name, kind in (("c", "int64"), ("d", "int32")):
        pq.write_table(numbers.cast(pyarrow.schema([(n, kind) for n in numbers.column_names])), tmp_path / f"{name}.pq")
    (tmp_path / "c.pq").rename(tmp_path / "n-c.parquet")
    (tmp_path / "d.pq").rename(tmp_path / "n-d.parquet")
    with pytest.raises(MmllmError, match="query is int32 there and int64 in the first"):
        Chat(str(tmp_path / "n-*.parquet"))


def test_the_order_of_columns_is_the_writers(tmp_path: Path) -> None:
    import pyarrow
    from pyarrow import parquet as pq

    parquet(tmp_path, name="a.parquet")
    whole = pq.read_table(tmp_path / "a.parquet")
    pq.write_table(whole.select(whole.column_names[::-1]), tmp_path / "b.parquet")
    one, both = Chat(str(tmp_path / "a.parquet")), Chat(str(tmp_path / "*.parquet"))
    assert len(both) == 2 * len(one) and isinstance(whole, pyarrow.Table)
    for index in range(len(one)):
        first, second = both[index], both[len(one) + index]
        assert first.messages == second.messages == one[index].messages
        (item,), (other,) = first.media["image"], second.media["image"]
        assert item.load() == other.load()


def test_members_of_a_shard_that_do_not_stand_together(tmp_path: Path) -> None:
    import tarfile

    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for name in ("a.txt", "b.txt", "a.png"):
            member = tarfile.TarInfo(name)
            tar.addfile(member, io.BytesIO())
    with pytest.raises(MmllmError, match="the members of a do not stand together"):
        Chat(str(tmp_path / "a.tar"))


def tar_of(path: Path, members: dict[str, bytes]) -> str:
    import tarfile

    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return str(path)


def test_names_with_dots_do_not_make_one_sample_of_many(tmp_path: Path) -> None:
    rows = {f"v1.{n}.{ending}": f"{n}".encode() for n in (1, 2) for ending in ("png", "txt")}
    with pytest.raises(
        MmllmError, match=r"two of its members hold text, the second is v1\.2\.txt; a sample's name ends"
    ):
        Chat(tar_of(tmp_path / "a.tar", rows))


def test_a_caption_without_its_picture_is_a_bad_row(tmp_path: Path) -> None:
    rows = {"0.png": png("red"), "0.txt": b"Red.", "1.txt": b"Blue.", "2.tif": b"II*", "2.txt": b"Green."}
    source = Chat(tar_of(tmp_path / "a.tar", rows))
    with pytest.raises(SampleError, match="#1: a text without anything that it describes"):
        source[1]
    assert [len(source[index].media["image"]) for index in (0, 2)] == [1, 1]


def test_a_file_name_and_a_field_do_not_cover_each_other(tmp_path: Path) -> None:
    pictures(tmp_path)
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "red.png", "images": ["blue.png"], "text": "red"}\n')
    with pytest.raises(MmllmError, match="a file name and a field of its own both hold image; keep one"):
        Chat(str(tmp_path))


def test_numbered_members_are_several_pictures(tmp_path: Path) -> None:
    import tarfile

    members = {"x.2.png": png("blue"), "x.10.png": png("red"), "x.txt": b"Two.\n"}
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    (sample,) = list(Chat(str(tmp_path / "a.tar")))
    assert [loaded(item) for item in sample.media["image"]] == [png("blue"), png("red")]
    assert sample.messages[0].text == "<image>\n<image>" and sample.messages[1].text == "Two."
