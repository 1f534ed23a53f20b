"""Documents: receipts, forms, tables and bar charts of three or four rows, a key and a value in each row."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from mmllm.miniature.world.described import Ask, Described
from mmllm.miniature.world.splits import field_held_out, price_held_out
from mmllm.miniature.world.words import CITIES, DAYS, DOCUMENTS, FIELDS, ITEMS, NAMES

Rows = tuple[tuple[str, str], ...]
QUESTION = {
    "receipt": ("what is the price of {k}?", "{k}?"),
    "form": ("what is the {k}?",),
    "table": ("what is the score of {k}?", "what is the value of {k}?"),
    "chart": ("what is the value of {k}?",),
}


def _number(rng: Random, key: str, held_out: bool, top: int = 99) -> int:
    while True:
        number = rng.randint(1, top)
        if price_held_out(key, number) == held_out:
            return number


def _receipt(rng: Random, held_out: bool) -> Rows:
    while True:
        items = rng.sample(ITEMS, rng.randint(2, 3))
        prices = [_number(rng, item, held_out) for item in items]
        total = sum(prices)
        if total <= 99 and price_held_out("total", total) == held_out:
            return (*((item, str(price)) for item, price in zip(items, prices, strict=True)), ("total", str(total)))


def _form(rng: Random, held_out: bool) -> Rows:
    values = {"name": NAMES, "city": CITIES, "day": DAYS, "code": tuple(str(n) for n in range(1, 100))}
    while True:  # no day is held out for the last row, so such a test form is drawn again
        fields = rng.sample(FIELDS, rng.randint(3, 4))
        fitting = [
            [value for value in values[field] if field_held_out(row, value) == held_out]
            for row, field in enumerate(fields)
        ]
        if all(fitting):
            return tuple((field, rng.choice(some)) for field, some in zip(fields, fitting, strict=True))


def _numbers(rng: Random, held_out: bool, keys: tuple[str, ...]) -> Rows:
    return tuple((key, str(_number(rng, key, held_out))) for key in rng.sample(keys, rng.randint(3, 4)))


def document(rng: Random, held_out: bool, kind: str | None = None) -> tuple[str, Rows]:
    """A document's kind and its rows (key, value); all combinations are held-out ones, or none is."""
    kind = kind or rng.choices(DOCUMENTS, (4.0, 3.0, 2.0, 1.2))[0]
    make: dict[str, Callable[[], Rows]] = {
        "receipt": lambda: _receipt(rng, held_out),
        "form": lambda: _form(rng, held_out),
        "table": lambda: _numbers(rng, held_out, NAMES),
        "chart": lambda: _numbers(rng, held_out, ITEMS),
    }
    return kind, make[kind]()


def about_document(rng: Random, kind: str, rows: Rows, n: int) -> Described:
    """A document with n questions, nearly all of them look one value up by its key."""
    asks: list[Ask] = []
    for _ in range(4 * n):
        key, value = rng.choice(rows)
        chance = rng.random()
        if chance < 0.05:
            asks.append(Ask("doc_kind", "what document is it?", kind))
        elif chance < 0.1:
            asks.append(Ask("doc_first", "what is in the first row?", rows[0][0]))
        elif key == "total":
            asks.append(Ask("doc_total", "what is the total?", value))
        else:
            asks.append(Ask(f"doc_{kind}", rng.choice(QUESTION[kind]).format(k=key), value))
        if asks[-1].question in {ask.question for ask in asks[:-1]}:
            asks.pop()
        if len(asks) == n:
            break
    facts = ((kind,), *rows)
    return Described("document", facts, tuple(asks), ", ".join(" ".join(f) for f in facts), ordered=True)
