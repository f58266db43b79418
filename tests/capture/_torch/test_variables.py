"""Canaries for the variables of a frame that Dynamo traces."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from inspector import INSPECTOR, Layer, Outer, X, graphs_for_any_settings, inspected, look
from torch import fx
from torch._dynamo.testing import CompileCounter

from fxkernels.capture import _torch


def test_realized_is_no_longer_lazy() -> None:
    found = inspected(lambda x: look(x), X, examine=lambda frame, x: _torch.isinstance_lazy(_torch.realized(x)))
    assert found is False


def test_peek_finds_the_module() -> None:
    model = Outer()
    assert inspected(model, X, examine=lambda frame, layer: _torch.peek(frame, layer)) is model.layers[0]


def test_peek_installs_no_guard() -> None:
    assert graphs_for_any_settings(lambda frame: _torch.peek(frame, _torch.local_variable(frame, "settings"))) == 1
    assert [type(value) for value in INSPECTOR.found] == [SimpleNamespace]


def test_peek_is_none_for_what_is_only_in_the_graph() -> None:
    assert inspected(lambda x: look(x.sin()), X, examine=lambda frame, y: _torch.peek(frame, y)) is None


@pytest.mark.parametrize(("value", "name"), [(X, "Tensor"), (3, "int"), ([1], "list"), ({"a": 1}, "dict"), (Layer(), "Layer")])
def test_type_name_is_that_of_the_python_value(value: Any, name: str) -> None:
    def function(x: torch.Tensor, value: Any) -> torch.Tensor:
        look(value)
        return x + 1

    assert inspected(function, X, value, examine=lambda frame, value: _torch.type_name(value)) == name


def test_isinstance_lazy_is_true_before_anybody_looks() -> None:
    def function(x: torch.Tensor, settings: Any) -> torch.Tensor:
        look(settings)
        return x + 1

    assert inspected(function, X, [1], examine=lambda frame, settings: _torch.isinstance_lazy(settings)) is True


def test_attribute_follows_a_dotted_name() -> None:
    found = inspected(Layer(), X, examine=lambda frame, layer: _torch.graph_argument(_torch.attribute(frame, layer, "linear.weight")))
    assert found.node.meta["example_value"].shape == (3, 3)


def test_attribute_is_guarded() -> None:
    counter = CompileCounter()
    INSPECTOR.examine = lambda frame, layer: _torch.constant(_torch.attribute(frame, layer, "names"))
    layer = Layer()
    compiled = torch.compile(layer, backend=counter)
    compiled(X)
    layer.names = ("c",)
    compiled(X)
    assert (counter.frame_count, INSPECTOR.found) == (2, [("a", "b"), ("c",)])


def test_constant_gives_the_python_value() -> None:
    found = inspected(Layer(), X, examine=lambda frame, layer: _torch.constant(_torch.attribute(frame, layer, "names")))
    assert found == ("a", "b")


def test_constant_of_a_tensor_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="is no constant"):
        inspected(lambda x: look(x), X, examine=lambda frame, x: _torch.constant(x))


def test_unpacked_gives_positional_arguments_one_by_one() -> None:
    def function(*values: Any) -> torch.Tensor:
        look()
        return values[0] + 1

    found = inspected(
        function, X, 7, examine=lambda frame: [_torch.type_name(v) for v in _torch.unpacked(frame, _torch.local_variable(frame, "values"))]
    )
    assert found == ["Tensor", "int"]


def test_unpacked_keywords_gives_them_by_name() -> None:
    def function(x: torch.Tensor, **options: Any) -> torch.Tensor:
        look()
        return x + options["a"]

    INSPECTOR.examine = lambda frame: {
        name: _torch.constant(value) for name, value in _torch.unpacked_keywords(_torch.local_variable(frame, "options")).items()
    }
    torch.compile(function, backend="eager")(X, a=1, b="two")
    assert INSPECTOR.found == [{"a": 1, "b": "two"}]


def test_graph_argument_keeps_structure_and_constants() -> None:
    def function(x: torch.Tensor) -> torch.Tensor:
        look((x, 1, [2.0, None], {"a": x, "b": "text"}, slice(0, 2)))
        return x + 1

    found = inspected(function, X, examine=lambda frame, value: _torch.graph_argument(value))
    x = found[0]
    assert isinstance(x, fx.Proxy)
    assert (found[1], list(found[2]), found[4]) == (1, [2.0, None], slice(0, 2))
    assert (found[3]["a"] is x or found[3]["a"].node is x.node, found[3]["b"]) == (True, "text")


def test_graph_argument_of_an_object_is_a_value_error() -> None:
    def function(x: torch.Tensor, cache: Any) -> torch.Tensor:
        look(cache)
        return x + 1

    with pytest.raises(ValueError, match="no graph value"):
        inspected(function, X, SimpleNamespace(), examine=lambda frame, cache: _torch.graph_argument(cache))


@dataclasses.dataclass
class Output:
    hidden: torch.Tensor
    rest: Any = None


@dataclasses.dataclass(frozen=True)
class FrozenOutput:
    hidden: torch.Tensor
    rest: Any = None


class Settings:
    pass


class ListOutput(list):
    pass


class DictOutput(dict):
    pass


OUTPUTS: dict[str, Callable[[torch.Tensor], Any]] = {
    "tensor": lambda x: x.sin(),
    "tuple": lambda x: (x.sin(), 1, x.cos()),
    "list": lambda x: [x.sin(), x.cos()],
    "nested": lambda x: (x.sin(), [x.cos(), (x.tan(), None)]),
    "dict": lambda x: {"b": x.sin(), "a": x.cos()},
    "subclass of list": lambda x: ListOutput([x.sin(), x.cos()]),
    "subclass of dict": lambda x: DictOutput(b=x.sin(), a=x.cos()),
    "dataclass": lambda x: Output(x.sin(), (x.cos(),)),
    "frozen dataclass": lambda x: FrozenOutput(x.sin(), x.cos()),
    "with an object": lambda x: (x.sin(), Settings(), x.cos()),
    "with a function": lambda x: (x.sin(), len, x.cos()),
}


EXPECTED = {"tensor": ["sin"], "nested": ["sin", "cos", "tan"]}


@pytest.mark.parametrize("kind", OUTPUTS)
def test_output_proxies_are_the_tensors_in_order(kind: str) -> None:
    make = OUTPUTS[kind]

    def function(x: torch.Tensor) -> torch.Tensor:
        look(make(x))
        return x + 1

    names = inspected(function, X, examine=lambda frame, value: [proxy.node.target for proxy in _torch.output_proxies(frame, value)])
    assert names == EXPECTED.get(kind, ["sin", "cos"])
