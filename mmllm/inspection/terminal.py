"""Prints a report in the terminal: tokens in colours, pictures in half blocks, the lengths as bars."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import dropwhile, pairwise
from typing import TYPE_CHECKING

from rich.console import Console, RenderableType
from rich.padding import Padding
from rich.panel import Panel
from rich.progress import track
from rich.table import Table
from rich.text import Text

from mmllm.inspection.findings import findings, scope, spreads
from mmllm.inspection.histogram import Bin, histogram
from mmllm.inspection.report import Entry, Report
from mmllm.inspection.rows import ShownRow
from mmllm.inspection.survey import Survey
from mmllm.inspection.tokens import Piece

if TYPE_CHECKING:
    from mmllm.inspection.views import View

LEARNED, READ, MEDIA = ("on green4", "on dark_green"), ("on grey23", "on grey30"), ("bold white on blue3",) * 2
"""Styles of tokens, in turn so that each token is seen: with a label, without, places of media."""
MARKS = {"learned": ("«", "»"), "control": ("⟨", "⟩"), "media": ("[", "]")}
"""What stands around them where there are no colours."""
_BAR = 40
_SIGNS = {"good": ("✓", "green"), "note": ("•", "yellow"), "bad": ("✗", "bold red")}


def show(report: Report, console: Console) -> None:
    """Print all of it."""
    console.print(_head(report))
    console.print(_legend(console))
    for entry in report.entries:
        console.print()
        for part in _entry(entry, console):
            console.print(part)


def progress(key: str, numbers: Iterable[int]) -> Iterable[int]:
    """Show on standard error how far a survey is; nothing where that is no terminal."""
    console = Console(stderr=True)
    return track(numbers, f"data.{key}", console=console, transient=True, disable=not console.is_terminal)


def _head(report: Report) -> Text:
    text = Text.assemble((report.name, "bold"), f": tokens of {report.llm}, context {report.context:,}")
    for line in report.encoders:
        text.append(f"\n  {line}")
    for sentence in report.notes:
        text.append(f"\n  {sentence}", "yellow")
    return text


def _legend(console: Console) -> Text:
    pieces = [
        Piece("learned", "text", True, 1),
        Piece("only read", "text", False, 1),
        Piece("control token", "control", False, 1),
        Piece("<media> 1", "media", False, 16),
    ]
    text = Text("tokens: ")
    for piece in pieces:
        text.append_text(tokens([piece], console.color_system is not None)).append("  ")
    return text


def _entry(entry: Entry, console: Console) -> Iterator[RenderableType]:
    used = f"drawn from in {', '.join(entry.stages)}" if entry.stages else "drawn from in no stage"
    yield Text.assemble((f"data.{entry.key}", "bold cyan"), f": {entry.summary}; {used}")
    yield Text(f"  {entry.source}", "dim")
    for row in entry.rows:
        yield from _row(row, console)
    yield Text(f"Of {scope(entry.survey)}:", "bold")
    for finding in findings(entry.survey):
        sign, style = _SIGNS[finding.level]
        yield Text.assemble("  ", (sign, style), f" {finding.title}")
        for detail in finding.details:
            yield Padding(Text(detail, "dim"), (0, 0, 0, 6))
    yield Padding(_table(entry.survey), (0, 0, 0, 2))
    yield from _bars(entry.survey)


def _row(row: ShownRow, console: Console) -> Iterator[RenderableType]:
    title = f"row {row.number} · {row.name}"
    counts = f"{row.n_tokens:,} tokens, {row.n_media:,} of them media; {row.n_labels:,} labels"
    if not row.pieces:
        said = "\n".join(f"{message.role}: {message.text}" for message in row.messages)
        body = Text.assemble((f"✗ {row.problem}", "bold red"), f"\n{said}" if said else "")
        yield Panel(body, title=Text(title), title_align="left", border_style="red")
        return
    body = tokens(row.pieces, console.color_system is not None)
    if row.problem:
        body = Text.assemble((f"✗ {row.problem}; training skips it\n", "bold red"), body)
    yield Panel(
        body, title=Text(title), subtitle=Text(counts), title_align="left", subtitle_align="left", border_style="dim"
    )
    for view in row.views:
        yield from _view(view, console)


def tokens(pieces: Sequence[Piece], colours: bool) -> Text:
    """Return tokens as text: in colours, each beside the next in another shade, or else between marks."""
    text = Text()
    for number, (before, piece) in enumerate(pairwise([None, *pieces])):
        assert piece is not None
        shown = _visible(piece)
        if colours:
            media = piece.kind == "media"
            style = (MEDIA if media else LEARNED if piece.learned else READ)[number % 2]
            text.append(shown, f"{style} bold magenta" if piece.kind == "control" else style)
            text.append("\n" * piece.text.count("\n") if not media else "")
            continue
        if before is not None and before.learned and not piece.learned:
            text.append(MARKS["learned"][1])
        if piece.learned and not (before is not None and before.learned):
            text.append(MARKS["learned"][0])
        opened, closed = ("", "") if piece.kind == "text" else MARKS[piece.kind]
        text.append(f"{opened}{shown}{closed}" + "\n" * (piece.kind != "media" and piece.text.count("\n")))
    if not colours and len(text) and pieces[-1].learned:
        text.append(MARKS["learned"][1])
    return text


def _visible(piece: Piece) -> str:
    if piece.kind == "media":
        return f"{piece.text} x {piece.n_tokens:,}"
    # a control character would move the cursor
    return "".join(letter if letter.isprintable() else _NAMED.get(letter, repr(letter)[1:-1]) for letter in piece.text)


_NAMED = {"\n": "↵", "\t": "→", "\u00a0": "\u00a0", "\u3000": "\u3000"}


def _view(view: View, console: Console) -> Iterator[RenderableType]:
    from mmllm.drawing.plots import strip
    from mmllm.drawing.terminal_image import draw

    yield Padding(Text.assemble((view.title, "bold"), f" · {view.facts}"), (0, 0, 0, 2))
    if view.text:
        yield Padding(Text(view.text), (0, 0, 0, 4))
    # a waveform is there in characters already
    pictures = [] if view.text and set(view.text) <= set(" ▁▂▃▄▅▆▇█") else list(view.pictures)
    if len(pictures) == 1:
        yield Padding(draw(pictures[0][1], 48), (0, 0, 0, 4))
    elif pictures:
        cell = max(4, min((console.width - 4) // min(len(pictures), 8), 24))
        per_line = max(1, (console.width - 4) // cell)
        for start in range(0, len(pictures), per_line):
            line = pictures[start : start + per_line]
            yield Padding(draw(strip([picture for _, picture in line]), cell * len(line)), (0, 0, 0, 4))
            yield Padding(Text("".join(caption.ljust(cell) for caption, _ in line), "dim"), (0, 0, 0, 4))


def _table(survey: Survey) -> Table:
    heads, *lines = spreads(survey)
    table = Table(box=None, padding=(0, 1), header_style="dim")
    for number, head in enumerate(heads):
        table.add_column(head, justify="left" if number == 0 else "right")
    for line in lines:
        table.add_row(*line)
    return table


def _bars(survey: Survey) -> Iterator[Text]:
    bins = histogram(survey.lengths)
    most = max((one.n_rows for one in bins), default=0)
    if not most:
        return
    yield Text.assemble("  rows by length: ", ("█ text", "cyan"), " ", ("▒ media", "blue"))
    # a conversation has a least length, so the bins before it are empty
    for one in dropwhile(lambda one: not one.n_rows, bins):
        yield _bar(one, most, survey.context)
    if bins[-1].end <= survey.context:
        yield Text(f"  {'':>15}  the context of {survey.context:,} lies beyond", "dim")


def _bar(one: Bin, most: int, context: int) -> Text:
    size = round(_BAR * one.n_rows / most) or (1 if one.n_rows else 0)
    media = round(size * one.media_share)
    end = f"{one.start:,}" if one.end == one.start + 1 else f"{one.start:,}-{one.end - 1:,}"
    over = one.start > context
    text = Text.assemble(
        (f"  {end:>15}  ", "red" if over else ""),
        ("█" * (size - media), "cyan"),
        ("▒" * media, "blue"),
        f" {one.n_rows:,}",
    )
    return text.append(f"  ← context {context:,}", "bold red") if one.start <= context < one.end else text
