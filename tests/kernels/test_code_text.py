"""How nodes are written as Python, and their values as dtype and shape."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from graphs import GraphBuilder, named
from torch import fx

from fxkernels.kernels.code_text import Symbols, code_of, spelled_value


class _Written:
    """Appends a node to a graph of two inputs and says how it is written."""

    def __init__(self) -> None:
        self.build = GraphBuilder()
        self.x, self.y = self.build.tensor("x", 4, 8), self.build.tensor("y", 4, 8)

    def function(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> str:
        return self._of(self.build.graph.call_function(function, args, kwargs))

    def method(self, name: str, *args: Any, **kwargs: Any) -> str:
        return self._of(self.build.graph.call_method(name, args, kwargs))

    def _of(self, node: fx.Node) -> str:
        return code_of(node, {self.x: "x", self.y: "self.y"})


@pytest.fixture
def written() -> _Written:
    return _Written()


def test_a_method_is_written_as_a_call_on_its_first_argument(written: _Written) -> None:
    assert written.method("mean", written.x, -1, keepdim=True) == "x.mean(-1, keepdim=True)"
    assert written.method("to", written.x, torch.float32) == "x.to(torch.float32)"


@pytest.mark.parametrize(
    ("function", "text"),
    [
        (operator.add, "x + self.y"),
        (operator.matmul, "x @ self.y"),
        (operator.floordiv, "x // self.y"),
        (operator.pow, "x ** self.y"),
        (operator.lt, "x < self.y"),
        (operator.iadd, "x += self.y"),
        (operator.imul, "x *= self.y"),
    ],
)
def test_an_operator_is_written_as_its_sign(written: _Written, function: Callable[..., Any], text: str) -> None:
    assert written.function(function, written.x, written.y) == text


def test_negative_numbers_keep_their_meaning_before_an_operator(written: _Written) -> None:
    assert written.function(operator.pow, -2, written.x) == "(-2) ** x"
    assert written.function(operator.mul, written.x, -0.5) == "x * -0.5"
    assert written.function(operator.neg, written.x) == "-x"


@pytest.mark.parametrize(
    ("index", "text"),
    [
        (0, "x[0]"),
        ((..., slice(None, 4, None)), "x[..., :4]"),
        ((slice(None), None, slice(1, None, 2)), "x[:, None, 1::2]"),
        ((0,), "x[0,]"),
        ((), "x[()]"),
    ],
)
def test_an_index_is_written_with_colons(written: _Written, index: Any, text: str) -> None:
    assert written.function(operator.getitem, written.x, index) == text


def test_an_assignment_to_an_index_is_a_statement(written: _Written) -> None:
    assert written.function(operator.setitem, written.x, (slice(None), 0), written.y) == "x[:, 0] = self.y"


@pytest.mark.parametrize(
    ("function", "text"),
    [
        (torch.rsqrt, "torch.rsqrt(x)"),
        (F.silu, "F.silu(x)"),
        (F.gelu, "F.gelu(x)"),
        (torch.linalg.inv, "torch.linalg.inv(x)"),
        (torch._C._linalg.linalg_solve_triangular, "torch.linalg.solve_triangular(x)"),
        (torch.ops.aten.relu.default, "torch.ops.aten.relu.default(x)"),
        (torch.ops.aten.relu, "torch.ops.aten.relu(x)"),
        (abs, "abs(x)"),
    ],
)
def test_a_function_has_the_name_by_which_users_call_it(written: _Written, function: Callable[..., Any], text: str) -> None:
    assert written.function(function, written.x) == text


def test_constants_are_written_so_that_they_can_be_read_back(written: _Written) -> None:
    text = written.function(torch.full, (2, 3), float("-inf"), dtype=torch.bool, device=torch.device("cpu"))
    assert text == "torch.full((2, 3), float('-inf'), dtype=torch.bool, device='cpu')"
    assert written.function(torch.cat, [written.x, written.y], dim=-1) == "torch.cat([x, self.y], dim=-1)"
    assert written.method("split", written.x, (8,), None) == "x.split((8,), None)"


def test_a_value_has_dtype_and_shape_and_strides_only_where_it_is_not_contiguous() -> None:
    symbols = Symbols()
    assert spelled_value(torch.empty(2, 8, dtype=torch.bfloat16), symbols) == "bf16[2, 8]"
    assert spelled_value(torch.empty(2, 8, dtype=torch.bool).t(), symbols) == "bool[8, 2] strides [1, 8]"
    assert spelled_value(torch.empty(8, 1).expand(8, 1).t(), symbols) == "f32[1, 8]"
    assert spelled_value(torch.empty(()), symbols) == "f32[]"
    assert spelled_value((torch.empty(2), torch.empty(3, dtype=torch.int64)), symbols) == "f32[2], i64[3]"
    assert spelled_value(None, symbols) == ""


def test_a_sparse_value_says_so() -> None:
    assert spelled_value(torch.eye(3).to_sparse(), Symbols()) == "f32[3, 3] sparse_coo"


def test_dynamic_sizes_have_names_of_their_own_and_asking_for_them_adds_no_guard() -> None:
    build = GraphBuilder()
    x = build.tensor("x", 4, 8, dynamic=True)
    build.method("reshape", x, -1)
    graph = build.graph
    symbols = Symbols()
    value = x.meta["example_value"]
    guards = len(value.fake_mode.shape_env.guards)
    assert spelled_value(value, symbols) == "f32[s0, s1]"
    assert spelled_value(value.t(), symbols) == "f32[s1, s0] strides [1, s1]"
    assert spelled_value(named(graph, "reshape").meta["example_value"], symbols) == "f32[s0*s1]"
    assert spelled_value(value.shape[1], symbols) == "s1"
    assert len(value.fake_mode.shape_env.guards) == guards
