"""What the demo measures: whether the numbers agree, and how long a forward takes."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

import torch
import torch.nn.functional as F
from torch import Tensor, nn

OUTPUT_TOLERANCE = 1e-5
"""How far outputs may differ, in parts of the largest value. Sums of some thousand float32 numbers in another order differ by less."""

GRADIENT_TOLERANCE = 1e-4
"""The same for gradients, which go through more of such sums. A wrong gradient differs by 1e-2 and more."""


@dataclass(frozen=True, slots=True)
class Difference:
    """How far two runs are apart.

    Args:
        what: What was compared.
        largest: The largest absolute difference.
        tolerance: What it may be.
        where: Which of several tensors that is.
    """

    what: str
    largest: float
    tolerance: float
    where: str = ""

    @property
    def agrees(self) -> bool:
        """Whether it is within the tolerance; a NaN is not."""
        return self.largest <= self.tolerance


def output_difference(what: str, expected: Tensor, actual: Tensor) -> Difference:
    """Return how far two outputs are apart."""
    return _difference(what, expected, actual, OUTPUT_TOLERANCE)


def gradient_difference(expected: dict[str, Tensor], actual: dict[str, Tensor]) -> Difference:
    """Return the difference of the parameter whose gradient uses up most of its tolerance, or is not a number."""
    differences = [_difference("gradients", expected[name], actual[name], GRADIENT_TOLERANCE, name) for name in expected]
    return max(differences, key=lambda d: (not d.agrees, d.largest / d.tolerance if d.tolerance else 0.0))


def outputs_of(model: Callable[[Tensor], Tensor], input_ids: Tensor) -> Tensor:
    """Return the model's logits, without a gradient."""
    with torch.no_grad():
        return model(input_ids)


def gradients_of(model: nn.Module, input_ids: Tensor) -> dict[str, Tensor]:
    """Return the gradients of the next-token loss for all parameters, in training mode; `.grad` and the mode stay as they were."""
    parameters = dict(model.named_parameters())
    training = model.training
    logits = model.train()(input_ids)
    loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), input_ids[:, 1:].flatten())
    gradients = torch.autograd.grad(loss, list(parameters.values()))
    model.train(training)
    return dict(zip(parameters, gradients, strict=True))


def medians(sides: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Return the median seconds of each side. The sides take turns, so that a slow minute of the machine hits all of them."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(repeats):
        for name, run in sides.items():
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
    return {name: median(values) for name, values in seconds.items()}


def missing_compiler() -> str | None:
    """Return the name of the C++ compiler that Inductor would call on a CPU if it is not installed, else None."""
    command = shlex.split(os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++"))
    return None if command and shutil.which(command[0]) else " ".join(command) or "a C++ compiler"


def _difference(what: str, expected: Tensor, actual: Tensor, tolerance: float, where: str = "") -> Difference:
    return Difference(what, (actual - expected).abs().max().item(), tolerance * expected.abs().max().item(), where)
