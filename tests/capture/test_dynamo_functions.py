"""Annotated functions that are wrappers, and calls that functions make: which module they belong to."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from fxkernels import KernelizeFallback, hubkernels, use_kernel_forward_from_hub
from fxkernels.report.report import Report

X = torch.randn(2, 8)


def captured(model: Callable[..., Any], *inputs: torch.Tensor) -> Report:
    backend = hubkernels(inner="eager", mapping={"turn": {"cpu": Nothing()}}, use_fallback=KernelizeFallback.ALL)
    torch.testing.assert_close(torch.compile(model, backend=backend)(*inputs), model(*inputs), rtol=0, atol=0)
    return backend.report


class Nothing:
    """A repository in which there is nothing: the name is mapped, and every call keeps its original."""

    def load(self) -> type[nn.Module]:
        raise ValueError("there is nothing")


def keys(report: Report) -> list[str]:
    return [call.key for call in report.calls if call.status != "not_captured"]


@use_kernel_forward_from_hub("activation")
class Activation(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.relu()


def activate(x: torch.Tensor) -> torch.Tensor:
    return Activation()(x)


@use_kernel_forward_from_hub("turn")
def turn(x: torch.Tensor) -> torch.Tensor:
    return -x


def activate_and_turn(x: torch.Tensor) -> torch.Tensor:
    return turn(activate(x))


def logged(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return wrapper


@use_kernel_forward_from_hub("bend")
@logged
def bend(x: torch.Tensor) -> torch.Tensor:
    return x * 2


class Holding(nn.Module):
    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.block = Calling(function)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.block(x)


class Calling(nn.Module):
    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(x) + 1


def test_a_wrapper_that_is_annotated_is_found_where_it_is_compiled_by_itself() -> None:
    assert keys(captured(bend, X)) == ["bend#0"]


def test_a_wrapper_that_is_annotated_is_found_after_a_graph_break() -> None:
    def broken(x: torch.Tensor) -> torch.Tensor:
        torch._dynamo.graph_break()
        return bend(x)

    assert keys(captured(Holding(broken), X)) == ["bend#0"]


def test_a_layer_that_no_module_holds_has_the_path_of_the_module_around_it_and_its_layer_name() -> None:
    assert keys(captured(Holding(activate), X)) == ["block.activation#0"]


@use_kernel_forward_from_hub("wrapped")
class Wrapped(nn.Module):
    """As layers of transformers 5.24 whose forward has a deprecated keyword."""

    @logged
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * 2

    @logged
    def other(self, x: torch.Tensor) -> torch.Tensor:
        return x * 3


class WithWrapped(nn.Module):
    def __init__(self, breaks: bool = False) -> None:
        super().__init__()
        self.layer, self.breaks = Wrapped(), breaks

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.breaks:
            x = self.around(x)
        return self.layer(x)

    def around(self, x: torch.Tensor) -> torch.Tensor:
        torch._dynamo.graph_break()
        return self.layer(x)


def test_a_layer_whose_forward_is_wrapped_is_found() -> None:
    assert keys(captured(WithWrapped(), X)) == ["layer#0"]


def test_a_layer_whose_forward_is_wrapped_is_found_where_it_is_compiled_by_itself() -> None:
    assert keys(captured(Wrapped(), X)) == ["#0"]
    assert keys(captured(WithWrapped(breaks=True), X)) == ["layer#0"]
    assert keys(captured(Wrapped().forward, X)) == ["#0"]


def test_another_method_under_the_same_wrapper_is_not_the_forward() -> None:
    assert keys(captured(Wrapped().other, X)) == []


def as_module(function: Callable[..., Any]) -> Any:
    return pytest.importorskip("kernels.layer").use_kernel_forward_from_hub("outer")(function)


def test_calls_inside_a_function_that_the_kernels_package_turned_into_a_module_are_those_of_the_module_around_it() -> None:
    function = as_module(activate_and_turn)

    class Around(Calling):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return function(x) + 1

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.block = Around(len)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.block(x)

    report = captured(Model().eval(), X)
    assert keys(report) == ["block.outer#0", "block.activation#0", "block.turn#0"]
    assert report.calls[2].decisions[-1].training is False
