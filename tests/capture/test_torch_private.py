"""One canary for each function of `_torch`: the first to fall over when a version of torch changes what it relies on."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from inspect import isroutine
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from inspector import INSPECTOR, Inspector, break_graph, inspected, look
from torch import fx, nn
from torch._dynamo.testing import CompileCounter

from fxkernels.capture import _torch


@pytest.fixture(autouse=True)
def inspector() -> Iterator[Inspector]:
    _torch.install(INSPECTOR)
    INSPECTOR.reset()
    yield INSPECTOR
    INSPECTOR.reset()


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 3)
        self.names = ("a", "b")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        look(self)
        return self.linear(x)


class Outer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([Layer()])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers[0](x)


X = torch.ones(3)


def test_every_function_has_a_canary_that_is_named_after_it() -> None:
    canaries = "".join(file.read_text() for file in Path(__file__).parent.glob("test_torch_private*.py"))
    functions = [name for name in _torch.__all__ if isroutine(getattr(_torch, name))]
    assert [name for name in functions if not name.startswith("_") and f"def test_{name}_" not in canaries] == []


# --- install ----------------------------------------------------------------------------------------------------------------------------


def test_install_tells_of_inlined_calls(inspector: Inspector) -> None:
    torch.compile(lambda x: look(x) + 1, backend="eager")(X)
    assert ("call", "call", True) in inspector.log


def test_install_tells_of_frames(inspector: Inspector) -> None:
    torch.compile(lambda x: x + 1, backend="eager")(X)
    assert inspector.log == [("frame", "frame", True)]


def test_install_tells_of_a_call_that_broke_the_graph(inspector: Inspector) -> None:
    torch.compile(lambda x: break_graph(x.sin()).cos(), backend="eager")(X)
    assert [entry for entry in inspector.log if entry[0] == "call"] == [("call", "call", False)]


def test_install_leaves_results_alone(inspector: Inspector) -> None:
    assert torch.equal(torch.compile(lambda x: look(x * 2) + 1, backend="eager")(X), X * 2 + 1)


# --- frames -----------------------------------------------------------------------------------------------------------------------------


def test_unwrapped_backend_is_what_was_passed_to_compile() -> None:
    def mine(gm: fx.GraphModule, example_inputs: list[Any], **options: Any) -> Any:
        return gm.forward

    found = []
    for options in (None, {"inner": "eager"}):
        INSPECTOR.examine = lambda frame, *args: _torch.unwrapped_backend(_torch.current_backend(frame))[0]
        torch.compile(lambda x: look(x), backend=mine, options=options)(X)
        found.append(INSPECTOR.found[-1])
    assert found == [mine, mine]


def test_unwrapped_backend_comes_with_the_wrapper_that_holds_the_options() -> None:
    def mine(gm: fx.GraphModule, example_inputs: list[Any], **options: Any) -> Any:
        return gm.forward

    INSPECTOR.examine = lambda frame, *args: _torch.unwrapped_backend(_torch.current_backend(frame))[1]
    torch.compile(lambda x: look(x), backend=mine, options={"inner": "eager"})(X)
    assert INSPECTOR.found[-1].kwargs == {"options": {"inner": "eager"}}


def test_set_backend_gives_this_frame_to_another_one(inspector: Inspector) -> None:
    mine, other = CompileCounter(), CompileCounter()
    inspector.on_frame = lambda frame: _torch.set_backend(frame, other)
    torch.compile(lambda x: x + 1, backend=mine)(X)
    inspector.on_frame = None
    torch.compile(lambda x: x + 2, backend=mine)(X)
    assert (mine.frame_count, other.frame_count) == (1, 1)


def test_current_backend_is_the_frames() -> None:
    counter = CompileCounter()
    INSPECTOR.examine = lambda frame, *args: _torch.unwrapped_backend(_torch.current_backend(frame))[0]
    torch.compile(lambda x: look(x), backend=counter)(X)
    assert INSPECTOR.found == [counter]


def test_frame_code_is_that_of_the_function_that_calls() -> None:
    def function(x: torch.Tensor) -> torch.Tensor:
        return look(x)

    assert inspected(function, X, examine=lambda frame, *args: _torch.frame_code(frame)) is function.__code__


def test_frame_and_callers_go_up_to_the_compiled_frame() -> None:
    def inner(x: torch.Tensor) -> torch.Tensor:
        return look(x) + 1

    def outer(x: torch.Tensor) -> torch.Tensor:
        return inner(x)

    codes = inspected(outer, X, examine=lambda frame, *args: [_torch.frame_code(caller) for caller in _torch.frame_and_callers(frame)])
    assert codes == [inner.__code__, outer.__code__]


def test_frame_closure_is_that_of_the_compiled_function(inspector: Inspector) -> None:
    found: list[Any] = []

    def around(value: int) -> Any:
        return lambda x: x + value

    function = around(1)
    inspector.on_frame = lambda frame: found.append(_torch.frame_closure(frame))
    torch.compile(function, backend="eager")(X)
    torch.compile(lambda x: x + 1, backend="eager")(X)
    assert [list(map(id, cells)) for cells in found] == [list(map(id, function.__closure__)), []]


def test_local_variable_finds_arguments() -> None:
    def function(x: torch.Tensor, number: int) -> torch.Tensor:
        return look(x)

    found = inspected(function, X, 7, examine=lambda frame, *args: _torch.constant(_torch.local_variable(frame, "number")))
    assert found == 7


def test_local_variable_finds_what_an_inner_function_closes_over() -> None:
    def function(x: torch.Tensor, number: int) -> torch.Tensor:
        def inner() -> int:
            return number

        look(x)
        return x + inner()

    assert inspected(function, X, 7, examine=lambda frame, *args: _torch.constant(_torch.local_variable(frame, "number"))) == 7


def test_local_variable_is_none_without_a_value() -> None:
    def function(x: torch.Tensor) -> torch.Tensor:
        look(x)
        later = x + 1
        return later

    assert inspected(function, X, examine=lambda frame, *args: _torch.local_variable(frame, "later")) is None


def graphs_for_any_settings(examine: Callable[..., Any]) -> int:
    """How many graphs a function gets that ignores its second argument, called with three kinds of it."""

    def function(x: torch.Tensor, settings: Any) -> torch.Tensor:
        look()
        return x + 1

    counter = CompileCounter()
    INSPECTOR.examine = examine
    compiled = torch.compile(function, backend=counter)
    for settings in (SimpleNamespace(a=1), {"b": 2}, [3]):
        compiled(X, settings)
    return counter.frame_count


def test_local_variable_installs_no_guard() -> None:
    assert graphs_for_any_settings(lambda frame: _torch.local_variable(frame, "settings")) == 1


def test_module_stack_names_the_modules_around() -> None:
    stack = inspected(Outer(), X, examine=lambda frame, *args: _torch.module_stack(frame))
    assert stack[-1][1] is Layer
    assert stack[-1][0] in ("L['self'].layers.0", "L['self'].layers[0]", "L['self']._modules['layers']._modules['0']")


# --- variables --------------------------------------------------------------------------------------------------------------------------


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
