"""Canaries for the autograd graph of one run, which is run again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks

from fxkernels.capture import _torch


class Cube(torch.autograd.Function):
    """x cubed, times a number."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, factor: float) -> torch.Tensor:
        ctx.save_for_backward(x)
        ctx.factor = factor
        return x**3 * factor

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        (x,) = ctx.saved_tensors
        return 3 * x**2 * ctx.factor * gradient, None


def taped(function: Callable[..., torch.Tensor], *inputs: torch.Tensor) -> tuple[_torch.Tape, _torch.SavedTensors]:
    saved = _torch.SavedTensors()
    leaves = [value.detach().requires_grad_() for value in inputs]
    with saved_tensors_hooks(saved.pack, saved.unpack):
        output = function(*leaves)
    return _torch.Tape([output], leaves), saved


FUNCTIONS = pytest.mark.parametrize(
    "function",
    [lambda x, y: Cube.apply(x, 2.0), lambda x, y: Cube.apply(x * 2, 2.0) * y, lambda x, y: (x * y).sin().sum()],
    ids=["a function in Python", "both", "in C++"],
)


@FUNCTIONS
def test_tape_gives_autograds_gradients_with_other_tensors_and_again(function: Callable[..., torch.Tensor]) -> None:
    shape = (3, 4)
    tape, saved = taped(function, torch.randn(shape), torch.randn(shape))
    tape.let_go()
    for _ in range(2):
        inputs = [torch.randn(shape).requires_grad_() for _ in range(2)]
        _, saved.tensors = (found := taped(function, *inputs))[0], found[1].tensors
        output = function(*inputs)
        gradient = torch.randn(output.shape)
        with torch.no_grad():
            gradients = tape.backward([gradient])
        torch.testing.assert_close(gradients, list(torch.autograd.grad(output, inputs, gradient, allow_unused=True)))


def test_tape_runs_inside_a_backward_that_wants_something_else() -> None:
    class Inside(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
            ctx.save_for_backward(x)
            return x * x

        @staticmethod
        def backward(ctx: Any, gradient: torch.Tensor) -> Any:
            (x,) = ctx.saved_tensors
            with torch.enable_grad():
                tape, _ = taped(lambda x: x * x, x)
            return tape.backward([gradient])[0]

    x = torch.randn(3).requires_grad_()
    torch.testing.assert_close(torch.autograd.grad(Inside.apply(x).sum(), x)[0], 2 * x)


def test_signature_tells_graphs_apart_by_their_constants() -> None:
    def signature(factor: float, scale: float) -> Any:
        tape, saved = taped(lambda x: Cube.apply(x, factor) * scale, torch.randn(3))
        return tape.signature(saved)

    assert signature(2.0, 3.0) == signature(2.0, 3.0)
    assert signature(2.0, 3.0) != signature(2.5, 3.0)
    assert signature(2.0, 3.0) != signature(2.0, 3.5)


def test_a_tensor_on_the_context_cannot_be_described() -> None:
    class Stashing(Cube):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor, factor: float) -> torch.Tensor:
            ctx.x = x
            return Cube.forward(ctx, x, factor)

    tape, saved = taped(lambda x: Stashing.apply(x, 2.0), torch.randn(3))
    with pytest.raises(_torch.Indescribable, match=r"ctx\.x is a Tensor"):
        tape.signature(saved)


def test_an_operator_without_a_backward_cuts_the_tape() -> None:
    with torch.library._scoped_library("fxtest_canary", "DEF") as library:
        library.define("plus(Tensor x) -> Tensor")
        library.impl("plus", lambda x: x.detach() + 1, "CPU")
        assert taped(lambda x: torch.ops.fxtest_canary.plus(x) * 2, torch.randn(3))[0].is_cut()
        assert not taped(lambda x: x * 2, torch.randn(3))[0].is_cut()


def test_recording_autograd_records_below_a_dispatch_mode() -> None:
    from torch.utils._python_dispatch import TorchDispatchMode

    class Mode(TorchDispatchMode):
        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            x = torch.ones(2).requires_grad_()
            with torch.enable_grad():
                seen.append((x * 2).requires_grad)
            with _torch.recording_autograd():
                seen.append((x * 2).requires_grad)
            return function(*args, **(kwargs or {}))

    seen: list[bool] = []
    with Mode():
        torch.zeros(2)
    assert seen[1]
