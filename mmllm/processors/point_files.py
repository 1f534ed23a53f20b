"""Reads point clouds and meshes (OFF, PLY, NPY/NPZ, plain rows of numbers), recognised by content."""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from tokenize import TokenError
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmllm.errors import MediaError, MmllmError
from mmllm.processors.point_sampling import on_faces

MAX_BYTES = 64 * 2**20
"""Largest file: ``MAX_POINTS`` rows of text take about 60 bytes each, three numbers of full precision."""
MAX_POINTS = 1_000_000
"""Limit on points, vertices or faces; checked before a file is parsed where its header says."""
SCALARS = {
    "char": "i1", "int8": "i1", "uchar": "u1", "uint8": "u1", "short": "i2", "int16": "i2", "ushort": "u2",
    "uint16": "u2", "int": "i4", "int32": "i4", "uint": "u4", "uint32": "u4", "float": "f4", "float32": "f4",
    "double": "f8", "float64": "f8",
}  # fmt: skip
"""PLY's names of numbers -> numpy's."""
ORDERS = {"binary_little_endian": "<", "binary_big_endian": ">"}


def read_points(
    media: Any, n: int, seed: int, max_points: int = MAX_POINTS, max_bytes: int = MAX_BYTES, mesh: bool = True
) -> Tensor:
    """The points of a file (path or bytes) or array [P, 3 or more]: float64[P, 3], finite, at least one.

    A mesh in OFF is sampled: ``n`` points uniform on its faces (its vertices where it has no faces, or without
    ``mesh``). Of PLY the vertices are the points. Of rows the first three numbers count; NPZ needs ``points`` or a
    single array.

    Raises:
        MediaError: nothing there, over a limit, damaged, or a coordinate that is no finite number.
    """
    if isinstance(media, np.ndarray | Tensor):
        found = torch.as_tensor(np.asarray(media))
        return _checked(found, max_points)
    data = _bytes(media, max_bytes)
    name = "these bytes" if isinstance(media, bytes) else f"{media}"
    try:
        return _checked(_parser(data)(data, n, seed, max_points, mesh), max_points)
    except MediaError:
        raise
    except _BROKEN as error:
        reason = str(error).strip().split("\n")[0]
        raise MediaError(
            f"{name} is no point cloud that can be read ({reason}); known are OFF, PLY, NPY, NPZ and rows of x y z"
        ) from error


def _bytes(media: Any, max_bytes: int) -> bytes:
    """Content of a path, or the bytes themselves; MediaError where there is none or too much."""
    if not isinstance(media, bytes | str | Path):
        raise MediaError(f"a {type(media).__name__} is no point cloud; give a path, bytes or an array [P, 3]")
    if isinstance(media, bytes):
        size, data = len(media), media
    else:
        path = Path(media)
        if not path.is_file():
            raise MediaError(f"there is no file {media}")
        size, data = path.stat().st_size, None
    if size > max_bytes:
        raise MediaError(f"the point cloud has {size} bytes, over the limit of {max_bytes}; thin it or raise max_bytes")
    if not size:
        raise MediaError("the point cloud is empty")
    return Path(media).read_bytes() if data is None and not isinstance(media, bytes) else data or b""


_BROKEN = (
    MmllmError, ValueError, IndexError, KeyError, OverflowError, EOFError, OSError, MemoryError, StopIteration,
    zipfile.BadZipFile, zlib.error, NotImplementedError, SyntaxError, TokenError,
)  # fmt: skip
"""Errors of parsers on damaged files; the last ones are zip's, and numpy's on an NPY header that is no Python."""
Parser = Callable[[bytes, int, int, int, bool], Tensor]


def _parser(data: bytes) -> Parser:
    """Choose by the first bytes: each format but plain rows begins with a mark of its own."""
    for mark, parser in ((b"OFF", _off), (b"ply", _ply), (b"\x93NUMPY", _npy), (b"PK\x03\x04", _npz)):
        if data.startswith(mark):
            return parser
    return _rows


def _checked(points: Tensor, max_points: int) -> Tensor:
    """float64[P, 3] or MediaError."""
    if points.dim() != 2 or points.shape[1] < 3:
        raise MediaError(f"a point cloud is rows of x, y, z; this one has the shape {tuple(points.shape)}")
    _limit(len(points), max_points, "points")
    points = points[:, :3].double()
    if not len(points):
        raise MediaError("the point cloud has no points")
    if not torch.isfinite(points).all():
        bad = int((~torch.isfinite(points)).any(dim=1).sum())
        raise MediaError(f"{bad} of the {len(points)} points have a coordinate that is no finite number")
    return points


def _limit(count: int, most: int, what: str) -> None:
    if count > most:
        raise MediaError(f"the point cloud has {count} {what}, over the limit of {most}; thin it or raise max_points")


def _off(data: bytes, n: int, seed: int, max_points: int, mesh: bool) -> Tensor:
    """OFF; files of ModelNet whose header and counts share a line (``OFF490 518 0``) are read too."""
    text = data.decode("ascii")[3:]
    lines = [line for raw in text.splitlines() if (line := raw.partition("#")[0].strip())]
    n_vertices, n_faces = (int(word) for word in lines[0].split()[:2])
    _limit(n_vertices, max_points, "vertices")
    _limit(n_faces, max_points, "faces")
    if min(n_vertices, n_faces) < 0 or len(lines) < 1 + n_vertices + n_faces:
        raise ValueError(f"{n_vertices} vertices and {n_faces} faces are announced, {len(lines) - 1} lines follow")
    vertices = torch.tensor([[float(word) for word in line.split()[:3]] for line in lines[1 : 1 + n_vertices]])
    if not n_faces or not mesh:
        return vertices
    _checked(vertices, max_points)
    triangles = []
    for line in lines[1 + n_vertices : 1 + n_vertices + n_faces]:
        size, *corners = (int(word) for word in line.split()[: 1 + int(line.split()[0])])
        if size < 3 or len(corners) < size or min(corners) < 0 or max(corners) >= n_vertices:
            raise ValueError(f"the face {line[:40]!r} names other than its vertices")
        # a face of more corners as a fan of triangles
        triangles += [(corners[0], one, other) for one, other in pairwise(corners[1:])]
    return on_faces(vertices[torch.tensor(triangles)], n, seed)


def _ply(data: bytes, n: int, seed: int, max_points: int, mesh: bool) -> Tensor:
    """PLY, ascii or binary; its vertices must be the first element and have x, y and z."""
    head, mark, body = data.partition(b"end_header")
    body = body.lstrip(b"\r")[1:]  # one end of line; bytes of numbers may follow that look like white space
    lines = [line.split() for line in head.decode("ascii").splitlines()[1:]]
    lines = [line for line in lines if line and line[0] not in ("comment", "obj_info")]
    form = next(line[1] for line in lines if line[0] == "format")
    first = next(number for number, line in enumerate(lines) if line[0] == "element")
    if not mark or lines[first][1] != "vertex":
        raise ValueError("the header has no end, or its first element is not vertex")
    count = int(lines[first][2])
    _limit(count, max_points, "vertices")
    fields = []
    for line in lines[first + 1 :]:
        if line[0] != "property":
            break
        fields.append((line[2], SCALARS[line[1]]))
    columns = [[name for name, _ in fields].index(axis) for axis in "xyz"]
    if form == "ascii":
        rows = body.decode("ascii").split()
        table = np.array(rows[: count * len(fields)], dtype=np.float64).reshape(count, len(fields))
        return torch.from_numpy(table[:, columns])
    kind = np.dtype([(name, ORDERS[form] + scalar) for name, scalar in fields])
    records = np.frombuffer(body, dtype=kind, count=count)
    return torch.from_numpy(np.stack([records[axis].astype(np.float64) for axis in "xyz"], axis=1))


def _npy(data: bytes, n: int, seed: int, max_points: int, mesh: bool) -> Tensor:
    return torch.from_numpy(np.asarray(np.load(io.BytesIO(data), allow_pickle=False), dtype=np.float64))


def _npz(data: bytes, n: int, seed: int, max_points: int, mesh: bool) -> Tensor:
    with zipfile.ZipFile(io.BytesIO(data)) as packed:
        size = sum(part.file_size for part in packed.infolist())
    # before anything is unpacked: up to eight numbers of 4 bytes a point
    _limit(size // 4, 8 * max_points, "numbers unpacked")
    with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
        names = list(arrays.keys())
        if "points" not in names and len(names) != 1:
            raise ValueError(f"its arrays are {', '.join(names)}; one of them must be called points")
        return torch.from_numpy(np.asarray(arrays["points" if "points" in names else names[0]], dtype=np.float64))


def _rows(data: bytes, n: int, seed: int, max_points: int, mesh: bool) -> Tensor:
    """Read one point a line, numbers separated by white space or commas; lines that begin with # are comments."""
    lines = [line for raw in data.decode("utf-8").splitlines() if (line := raw.partition("#")[0].strip())]
    _limit(len(lines), max_points, "points")
    found = [[float(word) for word in line.replace(",", " ").split()] for line in lines]
    if any(len(row) < 3 for row in found):
        raise ValueError("a line has fewer than three numbers")
    return torch.tensor([row[:3] for row in found], dtype=torch.float64)
