"""How far a kernel may be from the exact result: one table, and the comparison that uses it.

Let u be the unit roundoff (half of ``torch.finfo(dtype).eps``) of the coarsest dtype to which the layer itself rounds. Two distances from
the reference in float64 are looked at, because each hides what the other shows:

- *mean*: the 2-norm of the difference in parts of the 2-norm of the exact result. Rounding errors average out in it: one rounding to
  nearest gives 0.3 u to 0.6 u, n independent ones the square root of n times that. What is systematically wrong does not average out.
- *largest*: the largest difference in parts of the largest exact value. It shows what is wrong in few places.

==================  ==================  =====================
dtype               mean                largest
==================  ==================  =====================
bfloat16, float16   2 u                 8 u
float32, float64    64 u + 2 u sqrt(n)  256 u + 16 u sqrt(n)
==================  ==================  =====================

In half precision only values are rounded, not sums, since kernels accumulate in float32: sixteen roundings stay below 2 u on average, and
where terms of four times the result cancel, two roundings of those are 8 u. A gradient that was summed over 8192 rows in bfloat16 is 18 u
off. In float32 the sums count: n terms added one after another lose up to sqrt(n) u, and fast reciprocals, square roots and exponentials a
few u each. TF32 (8192 u) and half precision on the way stay far outside.

Where that is not met, the layer itself is asked, in its own dtype: what it is off by, and how far the exact result moves if its inputs are
moved by one rounding, which no computation in that dtype can help. A kernel may be `_FACTOR` times as far off.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

_FACTOR = 4.0
"""How much worse than the layer itself a kernel may be: another order of sums and another place of a rounding."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """What a kernel may be off by, in parts of the exact result.

    Args:
        mean: By the 2-norm.
        largest: By the largest value.
        floor: What is off by less than this is right: the dtype cannot say it.
    """

    mean: float
    largest: float
    floor: float

    @staticmethod
    def of(dtype: torch.dtype, terms: int) -> Bounds:
        """Return the bounds for a result that is rounded to a dtype.

        Args:
            dtype: The coarsest floating dtype to which it is rounded.
            terms: How many numbers go into one sum, at most.
        """
        info = torch.finfo(dtype)
        u = info.eps / 2
        # Numbers below the smallest normal one have fewer digits, and kernels may flush them to zero.
        if info.bits <= 16:
            return Bounds(2 * u, 8 * u, info.smallest_normal)
        root = math.sqrt(terms)
        return Bounds((64 + 2 * root) * u, (256 + 16 * root) * u, info.smallest_normal)


@dataclass(frozen=True, slots=True)
class Distance:
    """How far a result is from the exact one, by norm and by the largest value; the same of the exact result itself; how many there are."""

    mean: float
    largest: float
    norm: float
    peak: float
    count: int

    @staticmethod
    def between(result: torch.Tensor, exact: torch.Tensor, where: torch.Tensor | None) -> Distance:
        """Return it over the elements that count."""
        found, wanted = result.detach().to(exact.dtype), exact.detach()
        difference = found - wanted
        if where is not None:
            difference, wanted = torch.where(where, difference, 0), torch.where(where, wanted, 0)
        if difference.numel() == 0:
            return Distance(0.0, 0.0, 0.0, 0.0, 0)
        largest, peak = float(difference.abs().max()), float(wanted.abs().max())
        return Distance(float(difference.norm()), largest, float(wanted.norm()), peak, difference.numel())


@dataclass(frozen=True, slots=True)
class Comparison:
    """A result beside the exact one.

    Args:
        agrees: Whether it is near enough.
        error: The distance that came nearest to its tolerance or exceeds it, in parts of the exact result.
        tolerance: What it may be.
        by: ``"mean"``, ``"largest"``, or ``"finite"`` for a result that is infinite or not a number where the exact one is not.
    """

    agrees: bool
    error: float
    tolerance: float
    by: str

    @property
    def used(self) -> float:
        """Which part of the tolerance the error takes up."""
        return self.error / self.tolerance if self.tolerance else (0.0 if self.agrees else math.inf)


def compare(
    result: torch.Tensor,
    exact: torch.Tensor,
    bounds: Bounds,
    of_layer: Callable[[], list[torch.Tensor]],
) -> Comparison:
    """Return whether a result is as near to the exact one as may be asked.

    Args:
        result: What the kernel computed.
        exact: The same in float64.
        bounds: What it may be off by.
        of_layer: Asked only if the bounds are not met: what the layer computes in its own dtype, then the exact result for inputs that were
            moved by one rounding.
    """
    limit = torch.finfo(result.dtype).max if result.is_floating_point() else math.inf
    distance = Distance.between(result, exact, None)
    if math.isfinite(distance.mean) and math.isfinite(distance.norm) and distance.peak <= limit:
        found = _judged(distance, [], bounds)  # the usual case, without a look at single elements
        if found.agrees:
            return found
    others = of_layer()
    countable = torch.isfinite(exact) & (exact.abs() <= limit) & torch.isfinite(others[0])  # where the layer overflows, the kernel may
    if not bool((torch.isfinite(result) | ~countable).all()):
        return Comparison(False, math.inf, bounds.largest, "finite")
    for other in others:
        countable = countable & torch.isfinite(other)
    where = None if bool(countable.all()) else countable
    return _judged(Distance.between(result, exact, where), [Distance.between(other, exact, where) for other in others], bounds)


def _judged(distance: Distance, others: list[Distance], bounds: Bounds) -> Comparison:
    norm, peak = distance.norm, distance.peak
    allowed_mean = max(bounds.mean * norm, bounds.floor * math.sqrt(distance.count), *(_FACTOR * other.mean for other in others))
    allowed_largest = max(bounds.largest * peak, bounds.floor, *(_FACTOR * other.largest for other in others))
    mean = Comparison(distance.mean <= allowed_mean, distance.mean / (norm or 1.0), allowed_mean / (norm or 1.0), "mean")
    largest = Comparison(distance.largest <= allowed_largest, distance.largest / (peak or 1.0), allowed_largest / (peak or 1.0), "largest")
    return max(mean, largest, key=lambda one: (not one.agrees, one.used))
