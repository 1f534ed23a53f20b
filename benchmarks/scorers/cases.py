"""Drawn predictions: texts made of what scorers treat in their own way, options, boxes, captions and transcripts."""

from __future__ import annotations

from random import Random
from typing import Any

TRICKY = (
    "a the two none dont Im 3. 1,000 t-shirt ' : , ? No yes ten cat blue isnt its 's .5 2.50 hes [x] 7-up A/C U.S. An "
    "zero 10 shouldnt've somebody'd red! \"no\" don't"
).split()
WORDS = "a an the red blue green dog cat man bus two 2 10 on of is street sign stop hotel 7.50 1998 50% n/a".split()
YES_NO = (
    "yes", "no", "Yes", "No", "Yes.", "No.", "NO", "yes, it is", "No, there is not", "There is no dog", "A dog. No cat",
    "Not sure", "none", "know", "y", "n", "", "Yes and no", "yes there is a cat, not a dog", "I cannot see one",
    "The answer is yes", "Answer: no", "nothing", "It is a yes", "YES!", "noted", "maybe",
)  # fmt: skip
OPTIONS = ("a red cat", "the blue bus", "two dogs", "none of them", "Paris", "12", "an apple", "a dog", "because it is")


def words(draw: Random, vocabulary: list[str] | tuple[str, ...], least: int, most: int) -> str:
    """So many words with blanks between them, some joined, some doubled."""
    chosen = [draw.choice(vocabulary) for _ in range(draw.randint(least, most))]
    return "".join(word + draw.choice((" ", " ", " ", "", "  ", "\n")) for word in chosen).rstrip(" ")


def answered(draw: Random) -> dict[str, Any]:
    """A prediction and ten annotators' answers out of a few texts, mostly near it."""
    pool = [words(draw, TRICKY, 1, 3) for _ in range(draw.randint(1, 3))]
    said = draw.choice(pool) if draw.random() < 0.8 else words(draw, TRICKY, 1, 3)
    near = [said.lower(), f"the {said}", said.replace("'", ""), said.rstrip(".?,!")]
    others = [*pool, *near] if draw.random() < 0.6 else [text for text in pool if text != said] or ["gray"]
    return {"said": said, "answers": [draw.choice(others) for _ in range(10)]}


def near_texts(draw: Random) -> dict[str, Any]:
    """A short text over three letters, and answers that are a few edits away."""
    letters = "abC "
    said = "".join(draw.choice(letters) for _ in range(draw.randint(0, 6)))
    return {"said": said, "answers": ["".join(draw.choice(letters) for _ in range(draw.randint(1, 6))) for _ in "ab"]}


def numbers(draw: Random) -> dict[str, Any]:
    """A target number, and what is said: near 5 % of it, written in several ways; or words."""
    target = draw.choice([0.0, 5, 100, -7.5, 0.02, 2008, 1e6, round(draw.uniform(-90, 90), 2)])
    factor = draw.choice((0.9, 0.94, 0.95, 0.9500001, 1, 1.0000001, 1.05, 1.0500001, 1.06, -1))

    def written(value: float) -> str:
        forms = (
            f"{value}",
            f"{value:g}",
            f"{value}%",
            f"{value:e}",
            f"{value:,}",
            f"{value:+}",
            f"${value}",
            f" {value} ",
        )
        return draw.choice(forms)

    said = written(target * factor) if draw.random() < 0.85 else draw.choice(("yes", "Yes", "no.", "", "two", "nan"))
    return {"said": said, "answer": written(target) if draw.random() < 0.85 else draw.choice(("Yes", "two", "N/A"))}


def yes_no(draw: Random) -> dict[str, Any]:
    """What is said to a question whose answer is yes or no."""
    return {"said": draw.choice(YES_NO), "answer": draw.choice(("yes", "no"))}


def plain_yes_no(draw: Random) -> dict[str, Any]:
    """The same, answered with one of the words and nothing else."""
    return {"said": draw.choice(("yes", "no", "Yes", "NO", " yes ")), "answer": draw.choice(("yes", "no"))}


def choice(draw: Random) -> dict[str, Any]:
    """A question of two to four options and what is said: a letter or a text in one of many forms."""
    options = draw.sample(OPTIONS, draw.randint(2, 4))
    right = draw.randrange(len(options))
    number = right if draw.random() < 0.5 else draw.randrange(len(options))
    letter, text = "ABCD"[number], options[number]
    other = "ABCD"[draw.randrange(4)]
    forms = (
        letter, f"{letter}.", f"({letter})", f"{letter}. {text}", f"({letter}) {text}", f"{letter}) {text}",
        f"{letter}: {text}", f"The answer is {letter}.", f"The answer is {letter}", f"The answer is ({letter}).",
        f"Answer: {letter}", text, f"{text}.", f"It is {text}", letter.lower(), f"**{letter}**",
        f"{letter} because {text} fits", f"I think {letter}", "", f"The answer is {letter}. {other} is wrong.",
        f"{other} or {letter}", f"Option {letter}", "A dog is shown", "I see", "E", f"\\boxed{{{letter}}}",
        f"the picture shows that it must be {text} there", f"It is not {other} but {letter}",
    )  # fmt: skip
    return {"options": options, "right": right, "said": draw.choice(forms)}


def opened(draw: Random) -> dict[str, Any]:
    """An open question's right answers, numbers or texts, and what is said: one of them or another in many forms."""
    pool = (
        "8.5",
        "8.50",
        "1,200",
        "1200",
        "0.333",
        "-3",
        "2e3",
        "a",
        "b",
        "left",
        "the left",
        "8 1/2",
        "ohm",
        "inf",
        "A.",
    )
    answers = draw.sample(pool, draw.randint(1, 2))
    text, other = draw.choice(answers) if draw.random() < 0.6 else draw.choice(pool), draw.choice(pool)
    forms = (
        text, f"{text}.", f"The answer is {text}", f"So it is {text} ohm", f"x = {text}", f"x = {other}\nso {text}",
        f"It could be {other}. Therefore {text}!", f"{other} and {text}", f"The final result is: {text}", "", "is ",
        f"{text.upper()} is right\nThus the answer is {other}.", f"${text}$", f"y={other}=\n",
        f"answer: {text}-{other}", f"The answer is {other}\n{text}", f"final answer is {text}\n.", f"{text}%",
        f"{text}, {other}", "so : is .",
    )  # fmt: skip
    return {"answers": answers, "said": draw.choice(forms)}


def valued(draw: Random) -> dict[str, Any]:
    """A value of one of MathVista's types, or an option, and what is said, bare or in a sentence."""
    kind = draw.choice(("text", "integer", "float", "list"))
    if kind == "text":
        return {**choice(draw), "type": kind, "precision": None}
    precision = draw.choice((1.0, 2.0)) if kind == "float" else None
    one, two = (draw.choice((3, 12, -4, 1203, 0.5, 2.04, 7.5, 99)) for _ in "ab")
    said = f"[{one}, {two}]" if kind == "list" else str(one)
    forms = (
        said,
        f"{said}.",
        f"The answer is {said}",
        f"Answer: {said} cm",
        f"It is {two}, so {said}",
        "",
        "none",
        f" {said} ",
    )
    return {"options": (), "type": kind, "precision": precision, "said": draw.choice(forms)}


def boxed(draw: Random) -> dict[str, Any]:
    """A box and what is said for it, in fractions."""
    wanted = _box(draw)
    near = tuple(min(1.0, max(0.0, value + draw.uniform(-0.2, 0.2))) for value in wanted)
    said = near if draw.random() < 0.8 else _box(draw)
    numbers = ", ".join(f"{value:.3f}" for value in said)
    tight = ",".join(f"{value:.2f}" for value in said)
    forms = (f"[{numbers}]", f"It is at [{tight}].", f"({numbers})", f"[{numbers}] or [0, 0, 1, 1]", "there", numbers)
    return {"said": draw.choice((*forms[:2], *forms)), "box": list(wanted)}


def _box(draw: Random) -> tuple[float, float, float, float]:
    across, down = sorted(round(draw.random(), 3) for _ in "ab"), sorted(round(draw.random(), 3) for _ in "ab")
    return across[0], down[0], across[1] + 0.001, down[1] + 0.001


def captioned(draw: Random) -> dict[str, Any]:
    """A caption and references of plain words, some of them like it."""
    vocabulary = [word for word in WORDS if word.isalpha()]
    references = [" ".join(draw.choices(vocabulary, k=draw.randint(2, 12))) for _ in range(draw.randint(1, 5))]
    said = draw.choice(references).split() if draw.random() < 0.7 else draw.choices(vocabulary, k=draw.randint(1, 12))
    for _ in range(draw.randrange(4)):
        said.insert(draw.randrange(len(said) + 1), draw.choice(vocabulary))
    return {"said": " ".join(said), "references": references}


def written_caption(draw: Random) -> str:
    """A caption with the signs that captions have."""
    vocabulary = (
        *WORDS,
        "man's",
        "dogs'",
        "don't",
        "t-shirt",
        "black-and-white",
        "a.m.",
        "St.",
        '"STOP"',
        "it's",
        "u.s.",
    )
    text = " ".join(draw.choices(vocabulary, k=draw.randint(3, 12)))
    return text.replace(" of ", draw.choice((", ", " of ", "; ", " - ", "... "))).capitalize() + draw.choice(
        (".", "", " .", "!")
    )


def transcript(draw: Random) -> dict[str, Any]:
    """What was said and what was heard: words left out, put in and changed."""
    vocabulary = (
        "the mister smith it's colour color twenty one 21 dont we'll okay uh st. doctor $5 five dollars".split()
    )
    # a normaliser takes "uh" out, and of nothing there is no rate
    wanted = ["street", *draw.choices(vocabulary, k=draw.randint(0, 12))]
    heard = [draw.choice(vocabulary) if draw.random() < 0.2 else word for word in wanted if draw.random() > 0.15]
    heard += draw.choices(vocabulary, k=draw.choice((0, 0, 1, 3)))
    ending = draw.choice(("", ".", "?", "!"))
    return {"said": " ".join(heard) + ending, "wanted": " ".join(wanted).capitalize() + ending}
