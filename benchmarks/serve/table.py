"""Writes benchmarks/serve/RESULTS.md from the figures of ``python -m benchmarks.serve``."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def write(found: dict[str, Any], page: Path) -> None:
    """Write the page; parts that were not measured are left out."""
    lines = [
        "# The server, measured",
        "",
        "Written by `python -m benchmarks.serve traffic`, `fuzz` and `sets`.",
        f"Machine: {found['machine']}.",
        "",
    ]
    if "traffic" in found:
        lines += _traffic(found["traffic"])
    if "fuzz" in found:
        lines += _fuzz(found["fuzz"])
    if "speed" in found:
        lines += _speed(found["speed"])
    if "memory" in found:
        one = found["memory"]
        lines += [
            "## Memory of many sets",
            "",
            f"{one['sets']} sets loaded from run folders and asked once: their tensors take {one['tensors_mb']:.1f}",
            f"MB, the process grew by {one['grown_mb']:.1f} MB; so a set takes",
            f"{one['beside_tensors_mb_each']:.2f} MB beside its tensors.",
            "",
        ]
    if "campaign" in found:
        lines += _campaign(found["campaign"])
    page.write_text("\n".join(lines))


def _traffic(one: dict[str, Any]) -> list[str]:
    gauges = ", ".join(f"`mmllm_{name}` {value:.0f}" for name, value in sorted(one["gauges"].items()))
    size, drained = one["rss_mb"], one["drained"]
    return [
        "## Many clients for a long time",
        "",
        f"{one['clients']} clients for {one['minutes']:.0f} minutes against `mmllm serve` in a process of its own, one",
        "thread; a model of drawn weights that sees, hears and watches, over the miniature parts. 70 % of the requests",
        "are questions in text, about one picture or two, half of them streamed; 15 % leave before the answer, at its",
        "first piece or soon after; 15 % are wrong on purpose, among the others. Each answer is held to that of the",
        f"same request alone ({one['asked']} requests, {one['distinct']} answers that differ): its text, and the",
        "log-probability of its first token. `serve.kv_memory` and `serve.media_memory` are 32 MiB: what is kept is",
        "full within the first minutes, and memory that grows from then on would be a leak.",
        "",
        "| | requests |",
        "|---|--:|",
        f"| answered as alone | {one['right']} |",
        f"| answered from another's media | {one['of_another']} |",
        f"| another answer | {one['wrong']} |",
        f"| lost: no answer, or a 5xx | {one['lost']} |",
        f"| left by the client | {one['left']} |",
        f"| wrong on purpose, refused with the status they deserve | {one['poison']} |",
        f"| wrong on purpose, another status | {one['poison_wrong']} |",
        f"| told to come back later (429), and did | {one['told_to_wait']} |",
        "",
        f"Afterwards: {gauges}. Memory of the server from minute {size['from_minute']:.0f} on:",
        f"{size['early']:.0f} MB, in the last one {size['late']:.0f} MB ({100 * one['rss_growth']:+.1f} %).",
        f"SIGTERM in the middle of an answer: it came {'whole' if drained['whole'] else 'cut off'}.",
        "",
    ]


def _fuzz(found: dict[str, Any]) -> list[str]:
    lines = [
        "## Bodies and files that are wrong",
        "",
        "One after the other against the same server; CPU time and memory are the server's with all it starts, beyond",
        "what it had before the request. Bodies are good ones of every endpoint, changed by a seed; some stay good.",
        "`serve.max_new_tokens` is 16: one that loses its limit would else be answered as long as the context allows.",
        "",
        "| | requests | statuses | most CPU time | most memory | 5xx, over 2 s or 200 MB |",
        "|---|--:|---|---|---|--:|",
    ]
    for kind in ("bodies", "media"):
        one = found[kind]
        statuses = ", ".join(f"{status}: {n}" for status, n in sorted(one["statuses"].items()))
        costs = [f"{value:.2f} {unit} ({name})" for (value, name), unit in ((one["seconds"], "s"), (one["mb"], "MB"))]
        lines.append(f"| {kind} | {one['n']} | {statuses} | {' | '.join(costs)} | {len(one['faults'])} |")
    return [*lines, "", f"Afterwards `/health` is {'200' if found['alive_after'] else 'not 200'}.", ""]


def _speed(rows: list[dict[str, Any]]) -> list[str]:
    ranks = ", ".join(map(str, rows[0]["ranks"]))
    lines = [
        "## Speed of many sets",
        "",
        "32 requests with prompts of their own and 48 new tokens each, on the miniature LLM; LoRA of the ranks",
        f"{ranks} in turn on all linear layers, with drawn weights. Tokens per CPU second of one thread, the three",
        "ways in turns; the answers of the first two are equal. One set for all has rank 16. Other work shared the",
        "machine: only the ratios (median, and range over rounds) mean something.",
        "",
        "| sets | rounds | together | switching each request | one set for all | over switching | over one set |",
        "|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for row in rows:
        rates = row["tokens_per_s"]
        cells = [f"{rates[name]:.0f}" for name in ("together", "switching", "one set for all")]
        ratios = [
            f"{one['median']:.2f} ({one['min']:.2f}-{one['max']:.2f})"
            for one in (row["against_switching"], row["against_one_set"])
        ]
        lines.append(f"| {row['sets']} | {row['n']} | {' | '.join([*cells, *ratios])} |")
    return [*lines, ""]


def _campaign(one: dict[str, Any]) -> list[str]:
    return [
        "## Right answers under reloads, evictions and forbidden names",
        "",
        f"{one['requests']:,} requests in {one['minutes']:.0f} minutes to {one['sets']} sets of three groups by four",
        "keys, with memory for about 10 of them. A run was written anew with other weights",
        f"{one['rewritten']} times; {one['loads']} loads, {one['removals']} removals. Sets that answer differently:",
        f"{one['distinct_answers']}.",
        "",
        "| answer | requests |",
        "|---|--:|",
        f"| right: what the set answers alone, in a version its name then led to | {one['right']} |",
        f"| of a wrong set | {one['wrong']} |",
        f"| of a stale version | {one['stale']} |",
        f"| forbidden name, refused as one that does not exist | {one['forbidden_refused']} |",
        f"| forbidden name, answered | {one['forbidden_answered']} |",
        f"| told to come back later (429) | {one['busy']} |",
        f"| other statuses | {one['other'] or 'none'} |",
        "",
    ]
