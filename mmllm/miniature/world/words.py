"""Every word of the miniature world. The tokenizer makes each one token; scenes and documents draw from them."""

from __future__ import annotations

COLOURS = ("red", "green", "blue", "black", "gray", "teal", "brown", "yellow")
SHAPES = ("circle", "rectangle", "triangle", "star", "cross")
EASY_SHAPES = SHAPES[:3]
COLUMNS = "abcd"
PLACES = tuple(f"{column}{row}" for row in "1234" for column in COLUMNS)
ITEMS = ("tea", "milk", "bread", "rice", "soup", "cake", "egg", "fish", "corn", "salt", "apple", "lemon")
NAMES = ("anna", "ben", "carl", "dora", "emma", "finn", "gina", "hugo", "iris", "jack", "kate", "liam")
CITIES = ("rome", "paris", "oslo", "lima", "cairo", "delhi", "tokyo", "milan", "bern", "kyiv", "quito", "lyon")
DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
FIELDS = ("name", "city", "day", "code")
DOCUMENTS = ("receipt", "form", "table", "chart")
SOUNDS = ("bell", "dog", "rain", "horn", "bird", "drum", "door", "wind")
PITCHES = ("low", "high", "loud", "soft", "short", "long")
TIMES = tuple(f"t{n}" for n in range(1, 9))
NODES = tuple(f"n{n}" for n in range(1, 10))
TOPICS = ("physics", "biology", "art", "law", "music", "history", "maths", "sport")
NUMBERS = tuple(str(n) for n in range(100))

OTHER = (
    "a an the is are at of in it and or not no yes to on as by do does how many what which where who color shape "
    "shapes image picture contain present there box left right above below nothing empty digit even odd number price "
    "total score value kind document describe list sound heard linked topic mod add sort copy reverse read text "
    "circles rectangles triangles stars crosses big small large one two three word line row first last answer question "
    "you user hello thanks short"
).split()


def every_word() -> list[str]:
    """All words in a fixed order, without repeats."""
    groups = (COLOURS, SHAPES, PLACES, ITEMS, NAMES, CITIES, DAYS, FIELDS, DOCUMENTS, SOUNDS, PITCHES, TIMES, NODES)
    words = [word for group in (*groups, TOPICS, NUMBERS, OTHER) for word in group]
    return list(dict.fromkeys(words))
