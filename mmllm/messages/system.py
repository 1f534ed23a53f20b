"""``system:`` of data, benchmarks and ``serve``: the system message of conversations that have none of their own.

Many chat templates write a default one where there is none, often longer than the question: ``system: ""`` leaves it
out.
"""

from __future__ import annotations

from dataclasses import replace

from mmllm.types import Message, Sample


def with_system(sample: Sample, text: str | None) -> Sample:
    """The sample with ``text`` as its system message, unless that is None or it has one already."""
    if text is None or any(message.role == "system" for message in sample.messages):
        return sample
    return replace(sample, messages=(Message("system", text), *sample.messages))
