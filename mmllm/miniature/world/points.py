"""Solids as clouds of points: eight kinds, turned anyhow, stretched a little, with noise and a side left out."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

Cloud = np.ndarray
"""float64[P, 3]."""
SOLIDS: dict[str, str] = {
    "sphere": "circle",
    "cube": "rectangle",
    "pyramid": "triangle",
    "star": "star",
    "cross": "cross",
    "cylinder": "drum",
    "cone": "horn",
    "torus": "cake",
}
"""Kind of solid -> what it is called: the miniature LM has no words of its own for solids, so it is told these."""


def solid(rng: np.random.Generator, kind: str, points: int = 256, noise: float = 0.05, hidden: float = 0.15) -> Cloud:
    """float32[points, 3] on the surface of one solid: turned, stretched by up to a quarter, with normal ``noise``.

    ``hidden`` is the share of its points that a cut from one side leaves out.
    """
    n = round(points / (1 - hidden)) + 1
    cloud = DRAWN[kind](rng, n) * rng.uniform(0.8, 1.25, 3)
    cloud = cloud @ _turn(rng).T
    cloud = cloud[np.argsort(cloud[:, 0])][:points]
    cloud = cloud + rng.normal(0, noise, cloud.shape)
    return rng.permutation(cloud).astype(np.float32)


def _turn(rng: np.random.Generator) -> np.ndarray:
    """A rotation, uniform over all."""
    q, r = np.linalg.qr(rng.normal(size=(3, 3)))
    # without these signs the rotations would not be uniform
    q = q * np.sign(np.diag(r))
    return q if np.linalg.det(q) > 0 else -q


def _sphere(rng: np.random.Generator, n: int) -> Cloud:
    directions = rng.normal(size=(n, 3))
    return directions / np.linalg.norm(directions, axis=1, keepdims=True)


def _box(rng: np.random.Generator, n: int, sides: tuple[float, float, float]) -> Cloud:
    """Uniform on the six faces of a box of half these sides."""
    a, b, c = sides
    areas = np.array([b * c, a * c, a * b])
    axis = rng.choice(3, n, p=areas / areas.sum())
    cloud = rng.uniform(-1, 1, (n, 3))
    cloud[np.arange(n), axis] = rng.choice((-1.0, 1.0), n)
    return cloud * np.array(sides)


def _cube(rng: np.random.Generator, n: int) -> Cloud:
    return _box(rng, n, (0.8, 0.8, 0.8))


def _cross(rng: np.random.Generator, n: int) -> Cloud:
    """Three crossed bars."""
    bars = [(1.0, 0.22, 0.22), (0.22, 1.0, 0.22), (0.22, 0.22, 1.0)]
    return np.concatenate([_box(rng, -(-n // 3), bar) for bar in bars])[:n][rng.permutation(n)]


def _pyramid(rng: np.random.Generator, n: int) -> Cloud:
    """Four sides and a square base."""
    on_base = rng.random(n) < 0.3
    base = rng.uniform(-1, 1, (n, 2))
    # the root makes points uniform on the slopes, which narrow towards the top; so below, and on discs
    height = 1 - np.sqrt(rng.random(n))
    edge = rng.integers(0, 4, n)
    along, c, s = rng.uniform(-1, 1, n), np.cos(edge * np.pi / 2), np.sin(edge * np.pi / 2)
    turned = np.stack([c - along * s, s + along * c], axis=1)
    flat = np.where(on_base[:, None], base, turned * (1 - height)[:, None])
    return np.column_stack([flat * 0.8, np.where(on_base, 0, height) * 1.3 - 0.5])


def _round(rng: np.random.Generator, n: int, radius: np.ndarray) -> Cloud:
    angle = rng.uniform(0, 2 * np.pi, n)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)


def _cylinder(rng: np.random.Generator, n: int) -> Cloud:
    lid = rng.random(n) < 0.35
    flat = _round(rng, n, np.where(lid, 0.7 * np.sqrt(rng.random(n)), 0.7))
    return np.column_stack([flat, np.where(lid, rng.choice((-0.8, 0.8), n), rng.uniform(-0.8, 0.8, n))])


def _cone(rng: np.random.Generator, n: int) -> Cloud:
    base = rng.random(n) < 0.3
    height = 1 - np.sqrt(rng.random(n))
    radius = np.where(base, 0.8 * np.sqrt(rng.random(n)), 0.8 * (1 - height))
    return np.column_stack([_round(rng, n, radius), np.where(base, 0, height) * 1.5 - 0.6])


def _torus(rng: np.random.Generator, n: int) -> Cloud:
    tube = rng.uniform(0, 2 * np.pi, n)
    return np.column_stack([_round(rng, n, 0.75 + 0.28 * np.cos(tube)), 0.28 * np.sin(tube)])


def _star(rng: np.random.Generator, n: int) -> Cloud:
    """A ball with six spikes."""
    directions = _sphere(rng, n)
    return directions * (0.35 + 0.75 * np.abs(directions).max(axis=1, keepdims=True) ** 6)


DRAWN: dict[str, Callable[[np.random.Generator, int], Cloud]] = {
    "sphere": _sphere,
    "cube": _cube,
    "pyramid": _pyramid,
    "star": _star,
    "cross": _cross,
    "cylinder": _cylinder,
    "cone": _cone,
    "torus": _torus,
}
