"""Combinations that belong to the test split only. Train and test draw from disjoint sets, decided here once."""

from __future__ import annotations

from mmllm.miniature.world.words import CITIES, COLOURS, DAYS, ITEMS, NAMES, PLACES, SHAPES

# 3 and 5, by which numbers are multiplied below, share no divisor with it: each value is held out equally often
HELD_OUT_EVERY = 8
KEYS = (*ITEMS, *NAMES, "total")
VALUES = (*NAMES, *CITIES, *DAYS)


def object_held_out(place: str, colour: str, shape: str) -> bool:
    """One colour of eight is held out for each (place, shape); every (colour, shape) stays known at most places."""
    number = COLOURS.index(colour) + 3 * SHAPES.index(shape) + 5 * PLACES.index(place) + PLACES.index(place) // 8
    return number % HELD_OUT_EVERY == 0


def price_held_out(key: str, number: int) -> bool:
    """One number of eight is held out for each key word of a receipt, table or chart."""
    return (number + 3 * KEYS.index(key)) % HELD_OUT_EVERY == 0


def field_held_out(row: int, value: str) -> bool:
    """One value of eight is held out for each row of a form; codes are numbers."""
    number = int(value) if value.isdigit() else VALUES.index(value)
    return (number + 3 * row) % HELD_OUT_EVERY == 0


def ink_held_out(digit: int, colour: str) -> bool:
    """One ink colour of eight is held out for each digit."""
    return (COLOURS.index(colour) + 3 * digit) % HELD_OUT_EVERY == 0


def digit_image_held_out(index: int) -> bool:
    """One of five of the 1797 handwritten digit images belongs to the test split."""
    return index % 5 == 0


def large_held_out(colour: str, shape: str) -> bool:
    """Large single shapes: a few (colour, shape) pairs never appear large in training."""
    return (COLOURS.index(colour) + 3 * SHAPES.index(shape)) % HELD_OUT_EVERY == 0
