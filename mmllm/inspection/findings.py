"""A survey in sentences and tables of numbers, the same for the terminal and the page."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from mmllm.inspection.survey import MOST, Length, Survey


@dataclass(frozen=True)
class Finding:
    """One thing that was looked for, and what was found."""

    level: Literal["good", "note", "bad"]
    title: str
    details: tuple[str, ...] = ()


def scope(survey: Survey) -> str:
    """Return which rows were looked through."""
    if survey.n_rows > survey.n_read:
        return f"the first {survey.n_read:,} of {survey.n_rows:,} rows (at most {MOST:,} are looked through)"
    return f"all {survey.n_rows:,} rows" if survey.n_rows != 1 else "the only row"


def findings(survey: Survey) -> list[Finding]:
    """Return what the survey found, each kind always in the same place: what is well is said too."""
    return [_bad(survey), _too_long(survey), *_media(survey), _repeated(survey)]


def spreads(survey: Survey) -> list[tuple[str, ...]]:
    """Return rows of a table of lengths in tokens; the first holds its heads."""
    kinds: dict[str, Callable[[Length], int]] = {
        "text": lambda length: length.text,
        "media": lambda length: length.media,
        "both": lambda length: length.total,
        "learned": lambda length: length.labels,
    }
    table: list[tuple[str, ...]] = [("tokens", "least", "median", "mean", "95 %", "most")]
    for name, of in kinds.items():
        found = survey.spread(of)
        if found is not None:
            least, median, mean, high, most = found
            table.append((name, f"{least:,}", f"{median:,}", f"{mean:,.1f}", f"{high:,}", f"{most:,}"))
    return table


def _bad(survey: Survey) -> Finding:
    reasons = survey.reasons
    if not reasons.count:
        return Finding("good", "no bad rows")
    details = [f"{_rows(one.rows.count)}: {one.sentence.rstrip('.')} ({one.rows.listed()})" for one in reasons.listed()]
    return Finding("bad", f"{_share(reasons.count, survey)} cannot be used", tuple(details))


def _too_long(survey: Survey) -> Finding:
    limit = f"the context of {survey.context:,} tokens"
    if not survey.too_long.count:
        return Finding("good", f"no row is over {limit}")
    title = f"{_share(survey.too_long.count, survey)} over {limit}: skipped in training, as nothing is cut"
    return Finding("bad", title, (survey.too_long.listed(),))


def _media(survey: Survey) -> list[Finding]:
    if not survey.with_media:
        return []
    found = [
        Finding("good", f"{_share(count, survey)} with <{key}>") for key, count in survey.with_media.items() if count
    ]
    missing = [f"<{key}>" for key, count in survey.with_media.items() if not count]
    if missing and len(missing) < len(survey.with_media):
        found.append(Finding("note", f"no row has {' or '.join(missing)}"))
    if survey.without_media.count:
        title = f"{_share(survey.without_media.count, survey)} without media, though the recipe has encoders"
        found.append(Finding("note", title, (survey.without_media.listed(),)))
    return found


def _repeated(survey: Survey) -> Finding:
    repeated = survey.duplicates
    if not repeated.count:
        return Finding("good", "no row repeats another")
    details = tuple(" = ".join(names) for names in repeated.groups)
    more = repeated.n_groups - len(repeated.groups)
    details += (f"and {more:,} more such groups",) if more else ()
    return Finding("note", f"{_share(repeated.count, survey)} repeat another: same conversation, same media", details)


def _share(count: int, survey: Survey) -> str:
    return f"{_rows(count)} ({100 * count / max(1, survey.n_read):.3g} %)"


def _rows(count: int) -> str:
    return f"{count:,} row{'s' * (count != 1)}"
