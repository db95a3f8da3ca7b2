"""Vector algebra on columns: a point is a list of its coordinates, each an array of its own.

Arrays whose last axis has length three leave most of a vector unit idle on a CPU; columns fill it.
"""

from __future__ import annotations

from typing import Any

from jaxtyping import Array


def minus(a: Any, b: Any) -> list[Array]:
    return [a[i] - b[i] for i in range(3)]


def cross(a: Any, b: Any) -> list[Array]:
    return [a[i - 2] * b[i - 1] - a[i - 1] * b[i - 2] for i in range(3)]


def dot(a: Any, b: Any) -> Array:
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]
