"""``python -m tests.support.vllm_engine FOLDER``: what vLLM answers to conversations in JSON from stdin, one line each.

A process of its own: vLLM sets up torch and logging for all of it, and its warnings are not ours.
"""

from __future__ import annotations

import json
import sys
from typing import Any


def main(folder: str, talks: list[Any]) -> None:
    """Print ``{"prompt": ids, "said": ids, "text": ...}`` for each conversation."""
    from vllm import LLM, SamplingParams
    from vllm.plugins import load_general_plugins

    from mmllm.interop.vllm import register

    load_general_plugins()
    register()  # of this checkout, whatever is installed; a second time changes nothing
    llm = LLM(folder, dtype="float32", enforce_eager=True, max_model_len=128, max_num_seqs=4)
    asked = SamplingParams(temperature=0, max_tokens=8)
    for answer in llm.chat(talks, asked, use_tqdm=False):
        (found,) = answer.outputs
        print(json.dumps({"prompt": answer.prompt_token_ids, "said": list(found.token_ids), "text": found.text}))


if __name__ == "__main__":
    main(sys.argv[1], json.load(sys.stdin))
