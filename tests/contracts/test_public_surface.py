"""``mmllm.testing`` as a plugin sees it: light to import, no test framework, every check says what it asserts."""

from __future__ import annotations

import inspect
import subprocess
import sys
from typing import Any

import pytest

from mmllm import connectors, datasets, encoders, testing
from mmllm.evaluation import benchmarks
from mmllm.testing.tiny import benchmarks as tiny_benchmarks
from mmllm.testing.tiny import datasets as tiny_datasets
from mmllm.testing.tiny import deep_fusion as tiny_deep_fusion
from mmllm.testing.tiny import encoder_adapters as tiny_encoder_adapters
from mmllm.testing.tiny import encoders as tiny_encoders
from mmllm.testing.tiny import llm_adapters as tiny_llm_adapters

CHECKS = [name for name in testing.__all__ if name.startswith("check_")]


def test_all_checks_are_there() -> None:
    kinds = ("projector", "llm_adapter", "deep_fusion", "encoder_adapter", "encoder", "dataset", "benchmark")
    assert sorted(CHECKS) == sorted(f"check_{kind}" for kind in kinds)
    assert {name: getattr(testing, name).__name__ for name in CHECKS} == {name: name for name in CHECKS}
    with pytest.raises(AttributeError, match="has no attribute 'check_everything'"):
        testing.check_everything  # noqa: B018


@pytest.mark.parametrize("name", CHECKS)
def test_a_check_says_what_it_asserts_and_what_its_maker_takes(name: str) -> None:
    check: Any = getattr(testing, name)
    text = inspect.getdoc(check) or ""
    assert len(text.split("\n\n")[1]) > 150, "the second paragraph says what is asserted"
    arguments = text.partition("Args:")[2].partition("Raises:")[0]
    assert all(f"{argument}: " in arguments for argument in inspect.signature(check).parameters)
    assert "AssertionError: it breaks a rule; the text says which, and how to mend it." in text


@pytest.mark.parametrize(
    "module", ["projector_rules", "llm_connector_rules", "encoder_adapters", "encoders", "datasets", "benchmarks"]
)
def test_every_rule_says_how_to_mend_it(module: str) -> None:
    rules = __import__(f"mmllm.testing.{module}", fromlist=["RULES"]).RULES
    assert [rule.__name__ for rule in rules if "Mend: " not in (inspect.getdoc(rule) or "")] == []
    assert len({rule.__name__ for rule in rules}) == len(rules) >= 4


@pytest.mark.slow
@pytest.mark.parametrize(
    ("table", "tiny"),
    [
        (encoders.TABLE, tiny_encoders),
        (connectors.DEEP_FUSION, tiny_deep_fusion),
        (connectors.LLM_ADAPTERS, tiny_llm_adapters),
        (connectors.ENCODER_ADAPTERS, tiny_encoder_adapters),
        (datasets.TABLE, tiny_datasets),
        (benchmarks.TABLE, tiny_benchmarks),
    ],
    ids=["encoders", "deep_fusion", "llm_adapters", "encoder_adapters", "datasets", "benchmarks"],
)
def test_each_listed_part_has_a_tiny_one(table: dict[str, str], tiny: Any) -> None:
    """A projector may do without, where its default arguments are small."""
    missing, unknown = sorted(table.keys() - tiny.TINY.keys()), sorted(tiny.TINY.keys() - table.keys())
    assert not missing, f"add a function that makes a small one to {tiny.__name__}.TINY for {missing}"
    assert not unknown, f"{tiny.__name__}.TINY has {unknown}, which no table lists"


def test_importing_it_is_light_and_needs_no_test_framework() -> None:
    heavy = "{'torch', 'transformers', 'pytest', 'numpy'} & set(sys.modules)"
    code = (
        f"import sys\nimport mmllm.testing\nprint({heavy})\nfrom mmllm.testing import *\n"
        "import mmllm.testing.tiny.projectors\nprint('pytest' in sys.modules, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:2] == ["set()", "False True"]
