"""One canary for each function of `_torch.py`: the first to fall over when a version of torch changes what it relies on."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import fx, nn
from torch._dynamo.backends.registry import lookup_backend
from torch._dynamo.testing import CompileCounter
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.testing._internal.two_tensor import TwoTensor

from fxkernels.capture import _torch

def look(*values: Any) -> Any:
    """While a frame is traced, a call of this lets the test look at the frame and at the arguments."""
    return values[0] if values else None


class Inspector:
    """An observer that does nothing outside of `inspected`."""

    def __init__(self) -> None:
        self.examine: Callable[..., Any] | None = None
        self.on_frame: Callable[[_torch.Frame], None] | None = None
        self.found: list[Any] = []
        self.log: list[tuple[Any, ...]] = []

    def frame_begins(self, frame: _torch.Frame) -> Any:
        if self.on_frame is not None:
            self.on_frame(frame)
        return "frame"

    def frame_ends(self, frame: _torch.Frame, token: Any, result: _torch.Variable) -> None:
        self.log.append(("frame", token, result is not None))

    def call_begins(self, frame: _torch.Frame, function: Any, args: list[Any], kwargs: dict[str, Any]) -> Any:
        if function is not look:
            return None
        if self.examine is not None:
            try:
                self.found.append(self.examine(frame, *args))
            except Exception as error:  # Dynamo would take it for a reason to fall back
                self.found.append(error)
        return "call"

    def call_ends(self, frame: _torch.Frame, token: Any, result: _torch.Variable | None) -> None:
        self.log.append(("call", token, result is not None))


INSPECTOR = Inspector()


@pytest.fixture(autouse=True)
def inspector() -> Iterator[Inspector]:
    _torch.install(INSPECTOR)
    INSPECTOR.__init__()  # type: ignore[misc]
    yield INSPECTOR
    INSPECTOR.__init__()  # type: ignore[misc]


def inspected(function: Callable[..., Any], *inputs: Any, examine: Callable[..., Any], **options: Any) -> Any:
    """Compile and call a function that calls `look`; return what `examine` makes of the frame and the arguments of the (last) call."""
    INSPECTOR.examine = examine
    torch.compile(function, backend="eager", **options)(*inputs)
    found = INSPECTOR.found[-1]
    if isinstance(found, Exception):
        raise found
    return found


def graphs_of(function: Callable[..., Any], *inputs: Any) -> list[fx.GraphModule]:
    graphs = []

    def backend(gm: fx.GraphModule, example_inputs: list[Any]) -> Any:
        graphs.append(gm)
        return gm.forward

    torch.compile(function, backend=backend)(*inputs)
    return graphs


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 3)
        self.eps = 1e-6
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
    functions = [name for name, value in vars(_torch).items() if inspect.isfunction(inspect.unwrap(value)) and not name.startswith("_")]
    own = [name for name in functions if inspect.unwrap(getattr(_torch, name)).__module__ == _torch.__name__]
    assert [name for name in own if not any(test.startswith(f"test_{name}_") for test in globals())] == []


# --- install ----------------------------------------------------------------------------------------------------------------------------


def test_install_tells_of_inlined_calls(inspector: Inspector) -> None:
    torch.compile(lambda x: look(x) + 1, backend="eager")(X)
    assert ("call", "call", True) in inspector.log


def test_install_tells_of_frames(inspector: Inspector) -> None:
    torch.compile(lambda x: x + 1, backend="eager")(X)
    assert inspector.log == [("frame", "frame", True)]


def test_install_tells_of_a_call_that_broke_the_graph(inspector: Inspector, monkeypatch: pytest.MonkeyPatch) -> None:
    def breaking(*values: Any) -> Any:
        torch._dynamo.graph_break()
        return values[0]

    monkeypatch.setitem(globals(), "look", breaking)
    torch.compile(lambda x: look(x.sin()).cos(), backend="eager")(X)
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


def test_frame_graph_holds_what_was_traced_so_far() -> None:
    def function(x: torch.Tensor) -> torch.Tensor:
        return look(x.sin())

    targets = inspected(function, X, examine=lambda frame, *args: [node.target for node in _torch.frame_graph(frame).nodes])
    assert targets[-1] == "sin"


def test_frame_and_callers_go_up_to_the_compiled_frame() -> None:
    def inner(x: torch.Tensor) -> torch.Tensor:
        return look(x)

    def outer(x: torch.Tensor) -> torch.Tensor:
        return inner(x)

    codes = inspected(outer, X, examine=lambda frame, *args: [_torch.frame_code(caller) for caller in _torch.frame_and_callers(frame)])
    assert codes == [inner.__code__, outer.__code__]


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


def test_module_stack_names_the_modules_around() -> None:
    stack = inspected(Outer(), X, examine=lambda frame, *args: _torch.module_stack(frame))
    assert stack[-1] in ("L['self'].layers.0", "L['self'].layers[0]", "L['self']._modules['layers']._modules['0']")


# --- variables --------------------------------------------------------------------------------------------------------------------------


def test_realized_is_no_longer_lazy() -> None:
    found = inspected(lambda x: look(x), X, examine=lambda frame, x: _torch.isinstance_lazy(_torch.realized(x)))
    assert found is False


def test_peek_finds_the_module() -> None:
    model = Outer()
    assert inspected(model, X, examine=lambda frame, layer: _torch.peek(frame, layer)) is model.layers[0]


def test_peek_installs_no_guard() -> None:
    def function(x: torch.Tensor, settings: Any) -> torch.Tensor:
        look(settings)
        return x + 1

    counter = CompileCounter()
    INSPECTOR.examine = lambda frame, settings: _torch.peek(frame, settings)
    compiled = torch.compile(function, backend=counter)
    for settings in (SimpleNamespace(a=1), SimpleNamespace(b=2), [3]):
        compiled(X, settings)
    assert counter.frame_count == 1


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
    INSPECTOR.examine = lambda frame, layer: _torch.constant(_torch.attribute(frame, layer, "eps"))
    layer = Layer()
    compiled = torch.compile(layer, backend=counter)
    compiled(X)
    layer.eps = 1e-5
    compiled(X)
    assert (counter.frame_count, INSPECTOR.found) == (2, [1e-6, 1e-5])


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


# --- graphs -----------------------------------------------------------------------------------------------------------------------------


def a_marker(values: tuple[Any, ...]) -> None:
    """Computes nothing."""


def test_add_marker_puts_a_node_into_the_graph() -> None:
    INSPECTOR.examine = lambda frame, x: _torch.add_marker(frame, a_marker, ((_torch.graph_argument(x),),))
    (graph,) = graphs_of(lambda x: look(x.sin()).cos(), X)
    (marker,) = (node for node in graph.graph.nodes if node.target is a_marker)
    assert [node.target for node in marker.args[0]] == ["sin"]


def test_graph_break_reason_says_why_and_where() -> None:
    def function(x: torch.Tensor) -> torch.Tensor:
        x = x.sin()
        print(end="")
        return x.cos()

    reasons = [_torch.graph_break_reason(graph) for graph in graphs_of(function, X)]
    assert len(reasons) == 2
    assert reasons[0] is not None
    assert "\n" not in reasons[0]
    assert f"{__file__}:{function.__code__.co_firstlineno + 2}" in reasons[0]


def test_graph_break_reason_is_none_where_the_frame_returned() -> None:
    (graph,) = graphs_of(lambda x: x.sin(), X)
    assert _torch.graph_break_reason(graph) is None


def test_compile_key_tells_graphs_apart() -> None:
    keys = []

    def backend(gm: fx.GraphModule, example_inputs: list[Any]) -> Any:
        keys.append((_torch.compile_key(), _torch.compile_key()))
        return gm.forward

    compiled = torch.compile(lambda x: x.sin(), backend=backend, dynamic=False)
    compiled(X)
    compiled(torch.ones(4))
    assert all(first == again for first, again in keys)
    assert len({first for first, _ in keys}) == 2
    assert _torch.compile_key() is None


# --- calls of compiled modules ------------------------------------------------------------------------------------------------------------


def test_entry_runs_one_function_and_is_traced_as_the_other() -> None:
    def call(x: torch.Tensor) -> torch.Tensor:
        return x + 1

    def traced(x: torch.Tensor) -> torch.Tensor:
        return x - 1

    both = _torch.entry(call, traced)
    compiled = torch.compile(lambda x: both(x), backend="eager", fullgraph=True)
    assert (both(X)[0].item(), compiled(X)[0].item()) == (2, 0)


def test_compiling_around_is_true_while_an_outer_compile_is_in_force() -> None:
    seen = []

    @torch.compiler.disable(recursive=False)
    def call(x: torch.Tensor) -> torch.Tensor:
        seen.append(_torch.compiling_around())
        return x

    torch.compile(lambda x: call(x.sin()).cos(), backend="eager")(X)
    assert (seen, _torch.compiling_around()) == ([True], False)


def test_cause_of_is_what_the_backend_raised() -> None:
    def backend(gm: fx.GraphModule, example_inputs: list[Any]) -> Any:
        raise KeyError("mine")

    with pytest.raises(Exception) as caught:  # noqa: PT011  which one it is, is the point
        torch.compile(lambda x: x.sin(), backend=backend)(X)
    assert isinstance(_torch.cause_of(caught.value), KeyError)
    error = ValueError("no backend around it")
    assert _torch.cause_of(error) is error


def test_on_recompile_limit_tells_the_backend_and_the_function(monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[tuple[Any, str]] = []
    monkeypatch.setattr(_torch, "_recompile_limit_listeners", [])
    _torch.on_recompile_limit(lambda backend, function: heard.append((_torch.unwrapped_backend(backend)[0], function)))
    counter = CompileCounter()

    def grows(x: torch.Tensor, number: int) -> torch.Tensor:
        return x + number

    compiled = torch.compile(grows, backend=counter, dynamic=False)
    with torch._dynamo.config.patch(recompile_limit=2):
        for number in range(4):
            compiled(X, number)
    assert [(backend is counter, "grows" in function) for backend, function in heard[:1]] == [(True, True)]


# --- fake tensors and inner compilers -----------------------------------------------------------------------------------------------------


def test_run_on_fakes_computes_nothing() -> None:
    with FakeTensorMode():
        x = torch.empty(3, 4, requires_grad=True)
    y = _torch.run_on_fakes(lambda x: x @ x.t(), (x,))
    assert (isinstance(y, FakeTensor), y.shape, y.requires_grad) == (True, (3, 3), False)


def test_run_on_fakes_adds_no_guard() -> None:
    found = []

    def backend(gm: fx.GraphModule, example_inputs: list[Any]) -> Any:
        x = next(node.meta["example_value"] for node in gm.graph.nodes if isinstance(node.meta.get("example_value"), torch.Tensor))
        guards = len(x.fake_mode.shape_env.guards)
        _torch.run_on_fakes(lambda x: x if x.shape[0] == 17 else -x, (x,))
        found.append(len(x.fake_mode.shape_env.guards) - guards)
        return gm.forward

    torch.compile(lambda x: x.sin(), backend=backend, dynamic=True)(torch.ones(5))
    assert found == [0]


def test_run_on_fakes_without_a_fake_tensor_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="no input is a fake tensor"):
        _torch.run_on_fakes(lambda x: x, (X,))


def test_call_on_fakes_compiles_without_data() -> None:
    class Big(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(1 << 20, 1 << 20, bias=False, device="meta")  # 4 TiB

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.linear(x)

    counter = CompileCounter()
    _torch.call_on_fakes(Big(), counter, (torch.empty(1, 1 << 20, device="meta"),), {})
    assert counter.frame_count == 1


def test_inner_compiler_is_the_one_that_compile_would_call() -> None:
    counter = CompileCounter()
    (graph,) = graphs_of(lambda x: x.sin(), X)
    compiled = _torch.inner_compiler(counter, None, None)(graph, [X])
    assert torch.equal(compiled(X)[0], X.sin())
    assert counter.frame_count == 1


def test_inner_compiler_takes_the_mode_and_options_of_inductor() -> None:
    compiler = _torch.inner_compiler("inductor", None, {"epilogue_fusion": False})
    assert compiler.config["epilogue_fusion"] is False


def test_is_eager_is_true_of_the_eager_backend_only() -> None:
    assert [_torch.is_eager(inner) for inner in ("eager", lookup_backend("eager"), "aot_eager", CompileCounter())] == [
        True,
        True,
        False,
        False,
    ]


def test_is_wrapper_subclass_is_true_of_tensors_around_tensors_only() -> None:
    with FakeTensorMode() as mode:
        fake = mode.from_tensor(X)
    assert [_torch.is_wrapper_subclass(value) for value in (TwoTensor(X, X), X, nn.Parameter(X), fake, 3)] == [
        True,
        False,
        False,
        False,
        False,
    ]
