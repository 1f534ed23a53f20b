"""What an extraction is made of, without a model: values in JSON, bounds of a schema, pictures alike, text layers."""

from __future__ import annotations

import json
import math
from pathlib import Path
from random import Random
from typing import Any

import pytest
from PIL import Image

from mmllm.datasets.scanned import Text
from mmllm.errors import ConstraintError, MmllmError
from mmllm.extraction.fields import leaves, probability
from mmllm.extraction.grounding import Grounding
from mmllm.extraction.pictures import read_hash
from mmllm.extraction.records import Examples, Record
from mmllm.extraction.schema import MOST_CHARACTERS, bounded
from mmllm.extraction.text_layer import places_of
from mmllm.miniature.world.documents import document
from mmllm.miniature.world.render import draw_document


def drawn(rng: Random, depth: int = 3) -> Any:
    """Any JSON value."""
    kind = rng.randrange(7 if depth else 5)
    if kind == 5:
        return [drawn(rng, depth - 1) for _ in range(rng.randrange(4))]
    if kind == 6:
        return {"".join(rng.choices('ab/~"\\ é\n', k=3)): drawn(rng, depth - 1) for _ in range(rng.randrange(4))}
    return [None, rng.random() < 0.5, rng.randrange(-99, 99), rng.uniform(-1, 1) * 10 ** rng.randrange(-9, 20), ',"}'][
        kind
    ]


def looked_up(value: Any, pointer: str) -> Any:
    """What RFC 6901 says a pointer names."""
    for step in pointer.split("/")[1:]:
        step = step.replace("~1", "/").replace("~0", "~")
        value = value[int(step)] if isinstance(value, list) else value[step]
    return value


def n_values(value: Any) -> int:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return 1 if inner is None else sum(map(n_values, inner))


def test_every_value_of_any_json_is_found_where_it_stands() -> None:
    rng = Random(0)
    for number in range(300):
        value = {"x": drawn(rng)}
        text = json.dumps(value, indent=[None, 1][number % 2], ensure_ascii=number % 3 == 0)
        found = leaves(text)
        assert len(found) == n_values(value) == len({leaf.pointer for leaf in found})
        for leaf in found:
            assert leaf.value == looked_up(value, leaf.pointer)
            assert json.loads(text[leaf.start : leaf.end - (not isinstance(leaf.value, str))]) == leaf.value


def test_a_probability_is_that_of_the_tokens_of_a_value_and_of_its_end() -> None:
    pieces = [('{"a"', -9.0), (": 1", -1.0), ("2", -2.0), (', "b": "x', -4.0), ('"}', -8.0)]
    first, second = leaves("".join(text for text, _ in pieces))
    assert (first.value, second.value) == (12, "x")
    # the third token says where 12 ends
    assert probability(first, pieces) == pytest.approx(math.exp(-1 - 2 - 4))
    assert probability(second, pieces) == pytest.approx(math.exp(-4 - 8))


def test_all_texts_and_numbers_get_a_bound_and_objects_no_other_keys() -> None:
    schema = {
        "type": "object",
        "properties": {
            "kept": {"type": "string", "maxLength": 7},
            "rows": {"type": "array", "items": {"$ref": "#/$defs/row"}},
            "either": {"anyOf": [{"type": "integer", "minimum": 0}, {"type": "null"}]},
            "kind": {"enum": ["a"]},
        },
        "$defs": {"row": {"type": ["object", "null"], "properties": {"price": {"type": "number"}}}},
    }
    found = bounded(schema)
    price = found["$defs"]["row"]["properties"]["price"]
    assert {"minimum", "maximum", "multipleOf"} <= price.keys()
    assert found["properties"]["kept"]["maxLength"] == 7
    assert found["properties"]["either"]["anyOf"][0] == {"type": "integer", "minimum": 0, "maximum": 10**15}
    assert found["additionalProperties"] is found["$defs"]["row"]["additionalProperties"] is False
    assert bounded({"type": "string"})["maxLength"] == MOST_CHARACTERS
    for wrong in ({}, {"type": "object"}, {"type": "array"}, {"type": "text"}, {"anyOf": [True]}):
        with pytest.raises(ConstraintError, match="#"):
            bounded(wrong)


def test_the_most_alike_document_is_of_its_kind_and_never_itself(tmp_path: Path) -> None:
    rng, kinds = Random(1), {}
    for number in range(40):
        kind, rows = document(rng, False)
        path = tmp_path / f"{number}.png"
        draw_document(rng, kind, rows).save(path)
        kinds[path] = kind
    examples = Examples([Record(path, {}) for path in kinds], lambda record: record.image.name)
    same = 0
    for path, kind in kinds.items():
        copy = tmp_path / f"{path.stem}.bmp"
        Image.open(path).save(copy)  # the document itself, in another file
        found = examples.nearest(read_hash(copy))
        assert found is not None and found[0].image != path
        same += kinds[found[0].image] == kind
    assert same >= 36  # by chance 12
    assert Examples([Record(path, {})], lambda record: "").nearest(read_hash(path)) is None


def test_a_value_is_found_in_a_text_layer_as_a_whole_wherever_it_stands() -> None:
    texts = [
        Text("Total  RM 9.00", (0, 0, 10, 1)),
        Text("19.00", (0, 2, 4, 3)),
        Text("9.001", (0, 4, 4, 5)),
        Text("12 Main", (0, 6, 5, 7)),
        Text("Street,", (1, 8, 6, 9)),
        Text("cash 9.00.", (0, 10, 4, 11)),
    ]
    assert places_of("9.00", texts) == [(0, 0, 10, 1), (0, 10, 4, 11)]
    assert places_of("12 main STREET", texts) == [(0, 6, 6, 9)]
    for nowhere in ("9.0", "1", "Stree", "", None, True, "(a+)+"):
        assert places_of(nowhere, texts) == []


@pytest.mark.parametrize(
    ("fit", "size", "seen", "there"),
    [
        ("squash", (200, 100), (0.1, 0.2, 0.5, 0.6), (0.1, 0.2, 0.5, 0.6)),
        ("pad", (200, 100), (0.0, 0.25, 0.5, 0.5), (0.0, 0.0, 0.5, 0.5)),
        ("crop", (200, 100), (0.0, 0.0, 1.0, 0.5), (0.25, 0.0, 0.75, 0.5)),
        ("pad", (200, 100), (0.1, 0.0, 0.5, 0.2), None),
        ("squash", (10, 10), (0.5, 0.5, 0.5, 0.9), None),
    ],
)
def test_a_box_that_the_run_names_is_brought_back_to_the_picture(fit: str, size: Any, seen: Any, there: Any) -> None:
    found = Grounding("{value}?", 1.0, fit).in_picture(seen, size)
    assert found == ([] if there is None else [pytest.approx(there)])


def test_a_question_without_its_value_is_refused() -> None:
    with pytest.raises(MmllmError, match=r"\{value\}"):
        Grounding.of(None, "Where is it?", 1.0)  # type: ignore[arg-type]
