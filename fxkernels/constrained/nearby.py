"""Sizes near given ones, the likely ones first."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

_NEAR = 64
_FACTORS = (2, 3, 4)


def nearby(sizes: Mapping[Any, int]) -> Iterator[dict[Any, int]]:
    """Yield other sizes: larger ones, one or all of them changed by the same number; multiples; then smaller ones.

    Args:
        sizes: The sizes, by whatever names them.
    """
    for step in range(1, _NEAR + 1):
        yield {each: size + step for each, size in sizes.items()}
        for each, size in sizes.items():
            yield {**sizes, each: size + step}
    for each, size in sizes.items():
        yield from ({**sizes, each: size * factor} for factor in _FACTORS)
        yield from ({**sizes, each: smaller} for smaller in range(size - 1, max(size - _NEAR, 1), -1))
