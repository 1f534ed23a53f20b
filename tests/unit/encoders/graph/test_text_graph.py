"""The text_graph encoder: what it reads, what it refuses, which part of a graph it takes, and whose states it gives."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from safetensors.torch import save_file

from mmllm.encoders.graph.states import main, write_states
from mmllm.encoders.graph.text_graph import TextGraphEncoder
from mmllm.errors import MediaError, MmllmError
from mmllm.processors import graph_files
from mmllm.processors.graph import states_file
from mmllm.testing.tiny import encoders as tiny_encoders
from tests.support.layouts import features_of


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("model")
    tiny_encoders.write_text_model(str(folder))
    return str(folder)


@pytest.fixture(scope="module")
def encoder(model: str) -> TextGraphEncoder:
    return TextGraphEncoder(model=model)


def graph(n: int, edges: list[list[int]], **words: Any) -> bytes:
    return json.dumps({"nodes": [f"node {number}" for number in range(n)], "edges": edges, **words}).encode()


def folder_of(path: Path, texts: list[str], edges: list[list[int]], states: torch.Tensor | None = None) -> Path:
    path.mkdir(exist_ok=True)
    (path / "texts.jsonl").write_text("".join(json.dumps(text) + "\n" for text in texts))
    numpy.save(path / "edges.npy", numpy.array(edges, dtype=numpy.int64).reshape(-1, 2))
    if states is not None:
        save_file({"states": states}, path / "states.safetensors")
    return path


def links(inputs: dict[str, torch.Tensor]) -> set[tuple[int, int]]:
    """Edges in the graph's own numbers."""
    nodes = inputs["nodes"]
    return {(int(nodes[a]), int(nodes[b])) for a, b in inputs["edges"].T.tolist()}


# ---- what is read


def test_edges_without_direction_go_both_ways_once_and_never_to_themselves(encoder: TextGraphEncoder) -> None:
    inputs = encoder.processor.read(graph(3, [[0, 1], [1, 0], [0, 1], [2, 2], [1, 2]]))
    assert links(inputs) == {(0, 1), (1, 0), (1, 2), (2, 1)}
    assert inputs["edges"].shape == (2, 4)
    directed = encoder.processor.read(graph(3, [[0, 1], [0, 1], [2, 2], [1, 2]], directed=True))
    assert directed["edges"].T.tolist() == [[0, 1], [1, 2]]
    features = encoder(**encoder.processor.collate([inputs, directed]))
    assert features.extras["edges"].shape == (2, 2, 4)
    assert features.extras["edges"][1, :, 2:].tolist() == [[-1, -1], [-1, -1]]


def test_a_node_alone_and_a_graph_without_edges(encoder: TextGraphEncoder) -> None:
    inputs = encoder.processor.read(graph(3, [[0, 1]], target=2))
    assert inputs["nodes"].tolist() == [2] and inputs["edges"].shape == (2, 0) and inputs["target"] == 0
    whole = encoder.processor.read(graph(3, []))
    assert whole["nodes"].tolist() == [0, 1, 2] and whole["target"] == -1
    assert encoder(**encoder.processor.collate([inputs])).concatenated().isfinite().all()


def test_the_node_it_is_about_comes_first_and_is_named_by_path_or_json(encoder: TextGraphEncoder, tmp_path) -> None:
    content = graph(4, [[0, 1], [1, 2], [2, 3]])
    (tmp_path / "chain.json").write_bytes(content)
    inputs = encoder.processor.read(f"{tmp_path}/chain.json#3")
    assert inputs["nodes"].tolist() == [3, 2, 1] and inputs["target"] == 0
    assert links(inputs) == {(3, 2), (2, 3), (2, 1), (1, 2)}
    assert torch.equal(encoder.processor.read(graph(4, [[0, 1], [1, 2], [2, 3]], target=3))["nodes"], inputs["nodes"])
    (tmp_path / "odd#3").write_bytes(content)
    assert encoder.processor.read(tmp_path / "odd#3")["target"] == -1  # a file of that name


BAD = {
    "is not JSON": b"not a graph",
    "has no list of nodes": b"[1, 2]",
    "has no nodes": b'{"nodes": []}',
    "node 1 is": b'{"nodes": ["a", 7]}',
    "names a node that is not there": b'{"nodes": ["a", "b"], "edges": [[0, 2]]}',
    "edge \\[0, -1\\] names": b'{"nodes": ["a", "b"], "edges": [[0, -1]]}',
    "edge \\[0, 1.5\\] is not a pair": b'{"nodes": ["a", "b"], "edges": [[0, 1.5]]}',
    "edge \\[True, 0\\] is not a pair": b'{"nodes": ["a", "b"], "edges": [[true, 0]]}',
    "edge 3 is not a pair": b'{"nodes": ["a", "b"], "edges": [3]}',
    "edges must be a list": b'{"nodes": ["a"], "edges": 4}',
    "directed true or false": b'{"nodes": ["a"], "directed": "yes"}',
    "target is 'a'": b'{"nodes": ["a"], "target": "a"}',
    "has no node 5": b'{"nodes": ["a"], "target": 5}',
    "has no node -1": b'{"nodes": ["a"], "target": -1}',
    "recursion": b'{"nodes": ' + b"[" * 100_000,
}


@pytest.mark.parametrize("says", BAD)
def test_what_is_no_graph_is_one_sentence(encoder: TextGraphEncoder, says: str) -> None:
    for read in (encoder.processor.read, encoder.processor.measure):
        with pytest.raises(MediaError, match=says) as caught:
            read(BAD[says])
        assert "\n" not in str(caught.value)


def test_counts_are_checked_before_anything_is_built(
    encoder: TextGraphEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    # nodes and edges here are no texts and no pairs: whoever looked at one of them would say so
    with pytest.raises(MediaError, match="200000 nodes; at most 10000"):
        encoder.processor.read(json.dumps({"nodes": [0] * 200_000}).encode())
    with pytest.raises(MediaError, match="200000 edges; at most 100000"):
        encoder.processor.read(json.dumps({"nodes": ["a"], "edges": [0] * 200_000}).encode())
    monkeypatch.setattr(graph_files, "MAX_BYTES", 10)
    with pytest.raises(MediaError, match="bytes; at most 10"):
        encoder.processor.read(graph(2, []))


# ---- which part of it


def test_a_graph_over_max_nodes_is_an_error_or_a_stated_drawing(model: str, caplog: pytest.LogCaptureFixture) -> None:
    content = graph(9, [[number, number + 1] for number in range(8)])
    with pytest.raises(MediaError, match=r"9 nodes, more than max_nodes \(8\)"):
        TextGraphEncoder(model=model, max_nodes=8, fanout=[2, 2]).processor.read(content)
    drawing = TextGraphEncoder(model=model, max_nodes=8, fanout=[2, 2], sample=4)
    with caplog.at_level(logging.WARNING):
        inputs = drawing.processor.read(content)
    assert "4 of its 9 nodes are drawn" in caplog.text
    assert len(inputs["nodes"]) == 4 and torch.equal(inputs["nodes"], drawing.processor.read(content)["nodes"])
    kept = inputs["nodes"].tolist()
    assert links(inputs) == {(a, b) for a in kept for b in kept if abs(a - b) == 1}
    features = drawing(**drawing.processor.collate([inputs]))
    assert features.extras["nodes"].tolist() == [kept]
    seeded = [TextGraphEncoder(model=model, max_nodes=8, fanout=[2, 2], sample=4, seed=seed) for seed in range(5)]
    others = {tuple(one.processor.read(content)["nodes"].tolist()) for one in seeded}
    assert len(others) > 1


def test_around_a_node_as_many_neighbours_as_fanout_says_always_the_same(model: str) -> None:
    hub = graph(60, [[0, number] for number in range(1, 50)] + [[number, number + 10] for number in range(1, 50)])
    wide = TextGraphEncoder(model=model, fanout=[60, 60], max_nodes=4000).processor.read(hub[:-1] + b', "target": 0}')
    assert sorted(wide["nodes"].tolist()) == list(range(60))
    narrow = TextGraphEncoder(model=model, fanout=[5])
    inputs = narrow.processor.read(hub[:-1] + b', "target": 0}')
    assert len(inputs["nodes"]) == 6 and inputs["nodes"][0] == 0
    assert all(1 <= node < 50 for node in inputs["nodes"][1:].tolist())
    again = TextGraphEncoder(model=model, fanout=[5]).processor.read(hub[:-1] + b', "target": 0}')
    assert all(torch.equal(inputs[name], again[name]) for name in inputs)
    other = TextGraphEncoder(model=model, fanout=[5], seed=1).processor.read(hub[:-1] + b', "target": 0}')
    assert not torch.equal(other["nodes"], inputs["nodes"])
    assert (
        TextGraphEncoder(model=model, fanout=[3, 2]).processor.read(hub[:-1] + b', "target": 0}')["nodes"].numel() <= 10
    )


def test_the_part_keeps_all_edges_among_its_nodes(model: str) -> None:
    random = numpy.random.default_rng(0)
    pairs = random.integers(0, 40, (150, 2)).tolist()
    inputs = TextGraphEncoder(model=model, fanout=[4, 3]).processor.read(graph(40, pairs, target=7))
    nodes = set(inputs["nodes"].tolist())
    both = {(a, b) for pair in pairs for a, b in (pair, pair[::-1])}
    assert links(inputs) == {(a, b) for a, b in both if a in nodes and b in nodes and a != b}


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ({}, "either model"),
        ({"width": 3, "fanout": []}, "fanout"),
        ({"width": 3, "fanout": [0]}, "fanout"),
        ({"width": 3, "fanout": [30, 30]}, "may give 931"),
        ({"width": 3, "sample": 600}, r"sample \(600\)"),
        ({"width": 3, "sample": 0}, r"sample \(0\)"),
        ({"width": 3, "layers": [0, -1]}, "layers"),
        ({"model": "nowhere/at-all"}, "cannot be loaded"),
    ],
)
def test_wrong_words_are_named(words: dict[str, Any], says: str) -> None:
    with pytest.raises(MmllmError, match=says):
        TextGraphEncoder(**words)


# ---- whose states


def test_states_are_those_of_the_model_alone_on_each_text(model: str) -> None:
    texts = ["tea", "a much longer text", "x"]
    content = json.dumps({"nodes": texts}).encode()
    for pool in ("last", "mean"):
        encoder = TextGraphEncoder(model=model, pool=pool, layers=[0, -2, -1])  # type: ignore[arg-type]
        assert encoder.text is not None
        features = features_of(encoder, content)
        for number, text in enumerate(texts):
            ids = encoder.text.texts.tokens([text], "")
            states = encoder.text.model(input_ids=ids, output_hidden_states=True)
            for layer, index in ((0, 0), (-2, 2)):
                hidden = states.hidden_states[index][0]
                expected = hidden[-1] if pool == "last" else hidden.mean(dim=0)
                torch.testing.assert_close(features.layers[layer][0, number], expected, atol=1e-5, rtol=1e-4)
            if pool == "last":  # before the final norm
                normed = encoder.text.model.norm(features.layers[-1][0, number])
                torch.testing.assert_close(normed, states.last_hidden_state[0, -1], atol=1e-5, rtol=1e-4)


def test_an_empty_text_has_the_state_zero_and_disturbs_nobody(encoder: TextGraphEncoder) -> None:
    with_empty = encoder(
        **encoder.processor.collate([encoder.processor.read(b'{"nodes": ["", "tea"]}')])
    ).concatenated()[0]
    alone = encoder(**encoder.processor.collate([encoder.processor.read(b'{"nodes": ["tea"]}')])).concatenated()[0]
    assert not with_empty[0].any()
    torch.testing.assert_close(with_empty[1], alone[0])
    assert (
        not encoder(**encoder.processor.collate([encoder.processor.read(b'{"nodes": ["", ""]}')])).concatenated().any()
    )


def test_a_longer_text_is_an_error_unless_it_may_be_cut(model: str) -> None:
    with pytest.raises(MediaError, match=r"node 1 \('abcdef'\) has 6 tokens; at most 3"):
        TextGraphEncoder(model=model, max_tokens=3).processor.read(b'{"nodes": ["a", "abcdef"]}')
    cut = TextGraphEncoder(model=model, max_tokens=3, cut=True)
    one, two = (features_of(cut, content) for content in (b'{"nodes": ["abcdef"]}', b'{"nodes": ["abc"]}'))
    assert torch.equal(one.concatenated(), two.concatenated())


def test_given_states_of_a_folder(tmp_path: Path) -> None:
    states = torch.randn(4, 3)
    folder = folder_of(tmp_path / "g", ["a", "b", "c", "d"], [[0, 1], [1, 2]], states)
    encoder = TextGraphEncoder(width=3)
    features = features_of(encoder, f"{folder}#2", f"{folder}#3")
    assert torch.equal(features.layers[-1][0], states[[2, 1, 0]]) and torch.equal(
        features.layers[-1][1, :1], states[3:]
    )
    assert features.grids == ((3,), (1,))
    (folder / "graph.json").write_text('{"directed": true}')
    directed = TextGraphEncoder(width=3).processor.read(folder / "graph.json#2")  # type: ignore[operator]
    assert directed["nodes"].tolist() == [2, 1, 0] and directed["edges"].T.tolist() == [[1, 0], [2, 1]]
    with pytest.raises(MediaError, match="states of width 3, but this encoder takes given states of width 4"):
        TextGraphEncoder(width=4).processor.read(folder)
    with pytest.raises(MediaError, match="texts only"):
        encoder.processor.read(b'{"nodes": ["a"]}')
    states[1] = float("nan")
    save_file({"states": states}, folder / "states.safetensors")
    with pytest.raises(MediaError, match="not finite"):
        TextGraphEncoder(width=3).processor.read(folder)


def test_states_made_once_are_used_and_never_stale(model: str, tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "g", ["tea", "milk and bread", ""], [[0, 1], [1, 2]])

    def fresh(**words: Any) -> tuple[torch.Tensor, bool]:
        encoder = TextGraphEncoder(model=model, **words)
        inputs = encoder.processor.read(folder)
        return encoder(**encoder.processor.collate([inputs])).concatenated(), inputs["states"].shape[1] > 0

    made, used = fresh()
    assert not used
    assert main([str(folder), "--model", model]) == 0
    kept, used = fresh()
    assert used
    torch.testing.assert_close(kept, made, atol=1e-5, rtol=1e-4)
    assert [fresh(**words)[1] for words in ({"pool": "mean"}, {"layers": [-2]}, {"max_tokens": 99})] == [False] * 3
    folder_of(folder, ["tea", "milk and butter", ""], [[0, 1], [1, 2]])
    changed, used = fresh()
    assert not used and not torch.allclose(changed[0, 1], made[0, 1])


def test_made_and_given_states_stand_in_one_batch(model: str, tmp_path: Path) -> None:
    encoder = TextGraphEncoder(model=model)
    folder = folder_of(tmp_path / "g", ["tea", "milk and bread"], [[0, 1]])
    assert encoder.text is not None
    write_states(folder, encoder.text, encoder.resolve(encoder.n_blocks), ["tea", "milk and bread"])
    assert states_file(folder, encoder.text.digest, [3], ["tea", "milk and bread"]).is_file()
    items = [
        encoder.processor.read(one) for one in (b'{"nodes": ["x", "y", "z"]}', folder, b'{"nodes": ["milk and bread"]}')
    ]
    together = encoder(**encoder.processor.collate(items))
    assert together.grids == ((3,), (2,), (1,))
    for number, item in enumerate(items):
        alone = encoder(**encoder.processor.collate([item])).concatenated()[0]
        torch.testing.assert_close(together.concatenated()[number, : len(alone)], alone, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(together.concatenated()[1, 1], together.concatenated()[2, 0], atol=1e-5, rtol=1e-4)


def test_states_of_the_untrained_model_are_refused_once_it_is_trained(model: str, tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "g", ["tea"], [])
    assert main([str(folder), "--model", model]) == 0
    encoder = TextGraphEncoder(model=model)
    inputs = encoder.processor.collate([encoder.processor.read(folder)])
    assert encoder.to(torch.bfloat16)(**inputs).concatenated().any()
    encoder.requires_grad_(True)
    with pytest.raises(MmllmError, match="has trained the text model"):
        encoder(**inputs)
    encoder.requires_grad_(False)
    with torch.no_grad():
        next(encoder.parameters()).mul_(1.5)
    with pytest.raises(MmllmError, match="has trained the text model"):
        encoder(**inputs)


def test_a_damaged_folder_is_one_sentence(tmp_path: Path) -> None:
    def says(expected: str) -> None:
        with pytest.raises(MediaError, match=expected):
            TextGraphEncoder(width=2).processor.read(tmp_path / "g")

    says("does not exist")
    (tmp_path / "g").mkdir()
    says("neither texts.jsonl nor states")
    folder = folder_of(tmp_path / "g", ["a", "b"], [[0, 1]], torch.zeros(3, 2))
    says("2 texts but 3 states")
    save_file({"states": torch.zeros(2, 2)}, folder / "states.safetensors")
    numpy.save(folder / "edges.npy", numpy.array([[0, 5]]))
    says(r"edge \[0, 5\] names a node that is not there")
    numpy.save(folder / "edges.npy", numpy.array([0.5]))
    says("whole numbers")
    numpy.save(folder / "edges.npy", numpy.array([["a", object()]], dtype=object))
    says("edges.npy cannot be read")
    (folder / "edges.npy").unlink()
    says("no edges.npy")
    numpy.savez(folder / "edges.npz", edges=numpy.array([[0, 1]]))
    assert TextGraphEncoder(width=2).processor.read(folder)["edges"].shape == (2, 2)
    (folder / "states.safetensors").write_bytes(b"nothing")
    says("no tensor called states")
    (folder / "texts.jsonl").write_text("{half\n")
    says("texts.jsonl has a line that is not JSON")
