"""Datasets of labelled nodes: what their files may hold, how splits are drawn, and that encoder and LLM get them."""

from __future__ import annotations

import gzip
import json
import os
import pickle
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

import numpy
import pytest
from safetensors.numpy import load_file

from mmllm.datasets.chat import Chat
from mmllm.datasets.planetoid import Planetoid
from mmllm.datasets.text_attributed_graph import TextAttributedGraph
from mmllm.encoders.graph.text_graph import TextGraphEncoder
from mmllm.errors import MmllmError
from mmllm.evaluation.benchmarks.node_classification import NodeClassification
from mmllm.miniature.tasks.graphs import write_graph
from mmllm.miniature.world.graphs import CLASSES, blocks, shuffled
from mmllm.testing.tiny import encoders as tiny_encoders
from mmllm.testing.tiny.datasets import write_planetoid, write_text_attributed_graph

# ---- planetoid


def test_test_nodes_stand_at_their_numbers(tmp_path: Path) -> None:
    write_planetoid(tmp_path)
    sources = {split: Planetoid(str(tmp_path), "tiny", split=split) for split in ("train", "valid", "test")}
    assert {split: source.nodes.tolist() for split, source in sources.items()} == {
        "train": [0, 1], "valid": [2], "test": [3, 4]
    }  # fmt: skip
    assert [sources["test"].answer(number) for number in range(2)] == ["1", "0"]
    assert numpy.array_equal(load_file(tmp_path / "graph" / "states.safetensors")["states"], numpy.eye(5, 6))
    encoder = TextGraphEncoder(width=6)
    (graph,) = sources["test"][0].media["graph"]
    inputs = encoder.processor.read(graph)
    assert inputs["nodes"].tolist() == [3, 2, 4, 1] and inputs["states"].argmax(1).tolist() == [3, 2, 4, 1]


class Evil:
    """Runs something when it is unpickled, wherever that is allowed."""

    def __init__(self, ran: Path) -> None:
        self.ran = ran

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.ran),)


@pytest.mark.parametrize("part", ["allx", "y", "graph"])
def test_a_pickle_that_runs_something_is_refused_before_it_does(part: str, tmp_path: Path) -> None:
    write_planetoid(tmp_path)
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        (tmp_path / f"ind.tiny.{part}").write_bytes(pickle.dumps(Evil(tmp_path / "ran"), protocol=protocol))
        with pytest.raises(MmllmError, match=r"posix\.mkdir|nt\.mkdir"):
            Planetoid(str(tmp_path), "tiny")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["builtins eval", "numpy.core.multiarray scalar", "scipy.sparse.csr spmatrix"])
def test_names_that_are_not_needed_are_refused(name: str, tmp_path: Path) -> None:
    write_planetoid(tmp_path)
    module, attribute = name.split()
    (tmp_path / "ind.tiny.ally").write_bytes(f"c{module}\n{attribute}\n.".encode())
    with pytest.raises(MmllmError, match=f"wants {module}.{attribute}, which is not let in"):
        Planetoid(str(tmp_path), "tiny")


def test_damaged_files_are_one_sentence(tmp_path: Path) -> None:
    write_planetoid(tmp_path)
    good = {file: file.read_bytes() for file in tmp_path.glob("ind.*")}
    for file, content in good.items():
        for damage in (b"", content[: len(content) // 2], b"nonsense", pickle.dumps(3, protocol=2)):
            file.write_bytes(damage)
            with pytest.raises(MmllmError) as caught:
                Planetoid(str(tmp_path), "tiny", graph=str(tmp_path / "new"))
            assert "\n" not in str(caught.value)
        file.write_bytes(content)
    Planetoid(str(tmp_path), "tiny", graph=str(tmp_path / "new"))


# ---- splits, words and the graph's folder


def test_drawn_splits_are_disjoint_complete_and_always_the_same(tmp_path: Path) -> None:
    write_text_attributed_graph(tmp_path)
    nodes = []
    for split in ("train", "valid", "test"):
        source = TextAttributedGraph(str(tmp_path), split=split, seed=3, shares=(0.4, 0.2, 0.4))
        asked = NodeClassification(path=str(tmp_path), split=split, seed=3, shares=(0.4, 0.2, 0.4))
        assert [asked[i].sample.media for i in range(len(asked))] == [source[i].media for i in range(len(source))]
        nodes += source.nodes.tolist()
    assert sorted(nodes) == [0, 1, 2, 3, 4]
    seeds = {tuple(TextAttributedGraph(str(tmp_path), seed=seed).nodes.tolist()) for seed in range(8)}
    assert len(seeds) > 1
    for shares in ((0.5, 0.5), (0.9, 0.2, 0.1), (-0.1, 0.5, 0.5)):
        with pytest.raises(MmllmError, match="shares"):
            TextAttributedGraph(str(tmp_path), seed=0, shares=shares)
    with pytest.raises(MmllmError, match="'dev' is unknown"):
        TextAttributedGraph(str(tmp_path), split="dev")


def test_words_stand_for_all_classes(tmp_path: Path) -> None:
    write_text_attributed_graph(tmp_path)
    source = TextAttributedGraph(str(tmp_path), words={"cs.LG": "physics", "cs.CV": "art"}, question="what topic?")
    assert [message.text for message in source[1].messages] == ["<graph>\nwhat topic?", "art"]
    for words, says in (
        ({"cs.LG": "a"}, "no word for 'cs.CV'"),
        ({"cs.LG": "a", "cs.CV": "b", "cs.XX": "c"}, "'cs.XX', which is no class"),
        ({"cs.LG": "a", "cs.CV": "a"}, "same word"),
    ):
        with pytest.raises(MmllmError, match=says):
            TextAttributedGraph(str(tmp_path), words=words)


def test_a_graph_folder_of_other_files_is_not_taken(tmp_path: Path) -> None:
    write_text_attributed_graph(tmp_path)
    TextAttributedGraph(str(tmp_path))
    (tmp_path / "raw" / "edges.csv").write_text("source,target\n0,4\n")
    with pytest.raises(MmllmError, match="made from other files"):
        TextAttributedGraph(str(tmp_path))
    elsewhere = TextAttributedGraph(str(tmp_path), graph=str(tmp_path / "elsewhere"))
    assert numpy.load(elsewhere.folder / "edges.npy").tolist() == [[0, 4]]


def test_tables_may_be_compressed_and_are_checked(tmp_path: Path) -> None:
    write_text_attributed_graph(tmp_path)
    plain = TextAttributedGraph(str(tmp_path), graph=str(tmp_path / "one"))
    for file in plain.files:
        Path(f"{file}.gz").write_bytes(gzip.compress(file.read_bytes()))
        file.unlink()
    packed = TextAttributedGraph(str(tmp_path), graph=str(tmp_path / "two"))
    texts = [(folder / "texts.jsonl").read_text() for folder in (plain.folder, packed.folder)]
    assert texts[0] == texts[1] and json.loads(texts[0].split("\n")[1]) == "milk, cold"
    (tmp_path / "split" / "test.csv").write_text("test_id\n7\n")
    with pytest.raises(MmllmError, match=r"split/test names a node that is not there; the nodes are 0\.\.4"):
        TextAttributedGraph(str(tmp_path))
    (tmp_path / "split" / "test.csv").write_text("test_id\nx\n")
    with pytest.raises(MmllmError, match="something else than node numbers"):
        TextAttributedGraph(str(tmp_path))


def test_another_source_is_unknown(tmp_path: Path) -> None:
    with pytest.raises(MmllmError, match="known: planetoid, text_attributed_graph"):
        NodeClassification(path=str(tmp_path), source="ogb")  # type: ignore[arg-type]


# ---- the miniature graphs


def test_miniature_graphs_are_homophilous_weakly_told_and_apart(tmp_path: Path) -> None:
    write_graph(tmp_path, 30, 20, 0)
    source = Chat(str(tmp_path / "instruct.jsonl"))
    rows = [json.loads(line) for line in (tmp_path / "test" / "mini_graph.jsonl").read_text().splitlines()]
    assert len(source) == 30 and len(rows) == 20 and (tmp_path / "complete").is_file()
    encoder = tiny_encoders.text_graph()
    (graph,) = source[4].media["graph"]
    assert encoder.processor.read(graph)["nodes"][0] == 4
    assert encoder.processor.read(tmp_path / "test" / rows[3]["graph"])["nodes"][0] == 3
    texts = [(folder / "media/world/texts.jsonl").read_text() for folder in (tmp_path, tmp_path / "test")]
    assert texts[0] != texts[1]


def test_linked_nodes_share_their_topic_unless_edges_are_shuffled() -> None:
    graph = blocks(Random(0), 600)
    mixed = shuffled(Random(1), graph)
    same = [numpy.mean([g.topics[a] == g.topics[b] for a, b in g.edges]) for g in (graph, mixed)]
    assert same[0] == pytest.approx(0.85, abs=0.03) and same[1] == pytest.approx(1 / len(CLASSES), abs=0.03)
    assert mixed.texts == graph.texts and len(mixed.edges) == len(graph.edges) == 2400
    told = numpy.mean(
        [text.split()[1:].count(topic) / 3 for text, topic in zip(graph.texts, graph.topics, strict=True)]
    )
    assert told == pytest.approx(0.35, abs=0.03)


# ---- real files


def real(folder: str) -> str:
    root = os.environ.get("MMLLM_TEST_DATA")
    if root is None:
        pytest.skip("MMLLM_TEST_DATA is not set")
    return str(Path(root) / folder)


def test_cora_is_cora(tmp_path: Path) -> None:
    sizes = {}
    for split in ("train", "valid", "test"):
        source = Planetoid(real("planetoid"), graph=str(tmp_path / "cora"), split=split)
        sizes[split] = len(source)
    assert sizes == {"train": 140, "valid": 500, "test": 1000}
    every = Planetoid(real("planetoid"), graph=str(tmp_path / "cora"), seed=0, shares=(1, 0, 0))
    counts = Counter(every.answer(number) for number in range(len(every)))
    assert counts["neural networks"] == 818 and counts["rule learning"] == 180 and sum(counts.values()) == 2708
    encoder = TextGraphEncoder(width=1433, max_nodes=3000)
    graph, _ = encoder.processor.open(every.item(0))
    assert graph.n_nodes == 2708 and len(graph.links.senders) == 2 * 5278
    assert int(encoder.processor.read(every.folder)["states"].sum()) == 49216


def test_arxiv_2023_is_read(tmp_path: Path) -> None:
    source = TextAttributedGraph(real("arxiv2023_tag"), graph=str(tmp_path / "arxiv"), split="test")
    assert len(source) == 668 and len(source.classes) == 39
    graph, node = tiny_encoders.text_graph().processor.open(source.item(0))
    assert graph.n_nodes == 33868 and graph.texts is not None and node == source.nodes[0]
    assert graph.texts[0] == "Causal models in string diagrams"
