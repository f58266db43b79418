"""Every private torch API that fxkernels touches, each behind a function with a plain name.

Seen working on torch 2.11 and 2.13; `tests/capture/test_torch_private.py` has a canary for each. Nobody else imports from `torch._dynamo`
or its neighbours. Importing this module imports Dynamo, so it is imported when our backend is first used and not before.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
import logging
import sys
import threading
from collections.abc import Callable, Iterator
from types import FunctionType
from typing import Any, Protocol

import torch
from torch import fx, nn
from torch._C._dynamo.eval_frame import get_eval_frame_callback
from torch._dynamo import variables as vt
from torch._dynamo.backends.registry import lookup_backend
from torch._dynamo.eval_frame import skip_code
from torch._dynamo.exc import BackendCompilerFailed
from torch._dynamo.symbolic_convert import InliningInstructionTranslator, InstructionTranslator
from torch._guards import CompileContext
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import is_traceable_wrapper_subclass
from torch.utils._pytree import tree_map

Frame = Any
"""One frame that Dynamo is tracing (an instruction translator)."""

Variable = Any
"""Dynamo's stand-in for a Python value of the traced program."""


class Observer(Protocol):
    """Who is told when Dynamo begins and ends to trace a frame."""

    def frame_begins(self, frame: Frame) -> Any:
        """A frame is compiled on its own; what is returned goes to `frame_ends`."""

    def frame_ends(self, frame: Frame, token: Any, result: Variable) -> None:
        """That frame returns a value, its graph being complete."""

    def call_begins(self, frame: Frame, function: FunctionType, args: list[Variable], kwargs: dict[str, Variable]) -> Any:
        """A call is about to be inlined; None means that nobody is interested in its end."""

    def call_ends(self, frame: Frame, token: Any, result: Variable | None) -> None:
        """That call was inlined; None if it raised or broke the graph."""


_install_lock = threading.Lock()


@functools.cache
def install(observer: Observer) -> None:
    """Have the observer told of frames and inlined calls. Done once per process; frames of other backends pass through unchanged.

    Wraps `InliningInstructionTranslator.inline_call`, `InstructionTranslator.run` and `InstructionTranslator._return`.
    """
    with _install_lock:
        _wrap_inline_call(observer)
        _wrap_root_frame(observer)
        logging.getLogger("torch._dynamo.convert_frame").addFilter(_note_recompile_limit)


def _wrap_inline_call(observer: Observer) -> None:
    original: Any = vars(InliningInstructionTranslator)["inline_call"].__func__

    def inline_call(
        cls: Any, parent: Frame, func: Variable, args: list[Variable], kwargs: dict[str, Variable], *rest: Any, **more: Any
    ) -> Any:
        function = getattr(func, "fn", None)
        token = observer.call_begins(parent, function, args, kwargs) if isinstance(function, FunctionType) else None
        if token is None:
            return original(cls, parent, func, args, kwargs, *rest, **more)
        result = None
        try:
            result = original(cls, parent, func, args, kwargs, *rest, **more)
        finally:
            observer.call_ends(parent, token, None if parent.output.should_exit else result)
        return result

    InliningInstructionTranslator.inline_call = classmethod(inline_call)  # type: ignore[method-assign,assignment]


def _wrap_root_frame(observer: Observer) -> None:
    run, return_ = InstructionTranslator.run, InstructionTranslator._return
    attribute = f"_fxkernels_token_{id(observer)}"

    def observed_run(self: Frame) -> None:
        setattr(self, attribute, observer.frame_begins(self))
        run(self)

    def observed_return(self: Frame, inst: Any) -> None:
        token = getattr(self, attribute, None)
        if token is not None and inst.opname == "RETURN_VALUE":
            observer.frame_ends(self, token, self.stack[-1])
        return_(self, inst)

    InstructionTranslator.run = observed_run  # type: ignore[method-assign]
    InstructionTranslator._return = observed_return  # type: ignore[method-assign]


# --- frames -----------------------------------------------------------------------------------------------------------------------------


def unwrapped_backend(backend: Any) -> tuple[Any, Any]:
    """Return the backend that somebody passed to `torch.compile`, and the object that torch wrapped around it (or the backend itself)."""
    wrapper = backend
    while True:
        for attribute in ("_torchdynamo_orig_backend", "compiler_fn"):
            if hasattr(backend, attribute):
                wrapper, backend = backend, getattr(backend, attribute)
                break
        else:
            return backend, wrapper


def set_backend(frame: Frame, backend: Any) -> None:
    """Let another backend compile this frame, and only this one."""
    frame.output.compiler_fn = backend


def current_backend(frame: Frame) -> Any:
    """Return the backend of the frame as Dynamo will call it."""
    return frame.output.compiler_fn


def frame_code(frame: Frame) -> Any:
    """Return the code object that the frame runs."""
    return frame.f_code


def frame_graph(frame: Frame) -> fx.Graph:
    """Return the graph into which the frame is being traced (that of the innermost higher-order operator)."""
    graph: fx.Graph = frame.output.graph
    return graph


def frame_and_callers(frame: Frame) -> Iterator[Frame]:
    """Yield the frame and those that called it, up to the one that is compiled."""
    while frame is not None:
        yield frame
        frame = getattr(frame, "parent", None)


def local_variable(frame: Frame, name: str) -> Variable | None:
    """Return one of the frame's local variables, also if an inner function has closed over it; None if it has no value."""
    variable = frame.symbolic_locals.get(name)
    if type(variable) is not vt.CellVariable:  # isinstance() would look behind a lazy variable, and so install guards
        return variable
    if variable.pre_existing_contents is None and not frame.output.side_effects.has_pending_mutation_of_attr(variable, "cell_contents"):
        return None
    return frame.output.side_effects.load_cell(variable)


def module_stack(frame: Frame) -> tuple[str, ...]:
    """Return Dynamo's names for the modules whose forward is being traced, outermost first."""
    return tuple(name for name, _ in frame.nn_module_stack.values())


# --- variables --------------------------------------------------------------------------------------------------------------------------


def realized(variable: Variable) -> Variable:
    """Return the real variable behind a lazy one. This installs the guards of its value."""
    return variable.realize() if hasattr(variable, "realize") else variable


def peek(frame: Frame, variable: Variable) -> Any:
    """Return the Python object behind a variable without installing a guard, or None if there is none."""
    if isinstance_lazy(variable):
        return variable.peek_value()
    variable = realized(variable)
    if isinstance(variable, vt.NNModuleVariable):
        return frame.output.get_submodule(variable.module_key)
    return variable.value if isinstance(variable, vt.UserDefinedObjectVariable) else None


def type_name(variable: Variable) -> str:
    """Return the name of the Python type that the variable stands for."""
    try:
        return str(realized(variable).python_type().__name__)
    except NotImplementedError:
        return type(variable).__name__


def isinstance_lazy(variable: Variable) -> bool:
    """Whether nobody has looked at the variable yet."""
    return hasattr(variable, "is_realized") and not variable.is_realized()


def attribute(frame: Frame, variable: Variable, dotted: str) -> Variable:
    """Return the variable of an attribute. This installs its guards."""
    variable = realized(variable)
    for name in dotted.split("."):
        variable = realized(variable.var_getattr(frame, name))
    return variable


def constant(variable: Variable) -> Any:
    """Return the Python constant that the variable stands for.

    Raises:
        ValueError: If it is not a constant in this graph.
    """
    variable = realized(variable)
    if not variable.is_python_constant():
        raise ValueError(f"{variable} is no constant")
    return variable.as_python_constant()


def unpacked(frame: Frame, variable: Variable) -> list[Variable]:
    """Return the variables in a tuple of positional arguments."""
    return list(realized(variable).unpack_var_sequence(frame))


def unpacked_keywords(variable: Variable) -> dict[str, Variable]:
    """Return the variables in a dict of keyword arguments."""
    items = realized(variable).items.items()
    return {(key.vt if hasattr(key, "vt") else key).as_python_constant(): value for key, value in items}


_LEAVES = (
    fx.Proxy,
    bool,
    int,
    float,
    complex,
    str,
    torch.dtype,
    torch.device,
    torch.layout,
    torch.memory_format,
    torch.Size,
    type(None),
    type(...),
)


def graph_argument(variable: Variable) -> Any:
    """Return the variable as an argument of a graph node (proxies and constants, in containers if need be).

    Raises:
        ValueError: If it is no graph value, such as a cache object.
    """
    try:
        value = realized(variable).as_proxy()
    except Exception as error:  # what it raises differs by kind of variable and by torch version (2.11, 2.13)
        raise ValueError("no graph value") from error
    if not _is_argument(value):
        raise ValueError("no graph value")
    return value


def _is_argument(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(map(_is_argument, value))
    if isinstance(value, dict):
        return all(isinstance(key, str) and _is_argument(item) for key, item in value.items())
    if isinstance(value, slice):
        return _is_argument((value.start, value.stop, value.step))
    return isinstance(value, _LEAVES)


def output_proxies(frame: Frame, variable: Variable) -> list[fx.Proxy]:
    """Return the tensors in a call's result in the order in which they stand in it: a tensor, a list or tuple, a dict, or a dataclass."""
    variable = realized(variable)
    if isinstance(variable, vt.TensorVariable):
        return [variable.as_proxy()]
    return list(itertools.chain.from_iterable(output_proxies(frame, item) for item in _contents(frame, variable)))


def _contents(frame: Frame, variable: Variable) -> list[Variable]:
    if variable.is_python_constant():
        return []
    for inner in ("_base_vt", "_dict_vt", "_tuple_vt", "_list_vt"):  # user-defined subclasses of containers; the names differ by version
        container = getattr(variable, inner, None)
        if container is not None:
            return _contents(frame, container)
    items = getattr(variable, "items", None)
    if isinstance(items, dict):
        return list(items.values())
    if isinstance(items, list | tuple):
        return list(items)
    fields = getattr(variable, "fields", None)
    if isinstance(fields, dict):  # frozen dataclasses
        return list(fields.values())
    if dataclasses.is_dataclass(getattr(variable, "value_type", None)):
        written = frame.output.side_effects.store_attr_mutations.get(variable, {})
        return [written[field.name] for field in dataclasses.fields(variable.value_type) if field.name in written]
    return []


# --- graphs -----------------------------------------------------------------------------------------------------------------------------


def add_marker(frame: Frame, marker: Callable[..., None], args: tuple[Any, ...]) -> fx.Node:
    """Append a marker node to the graph that is being traced; graph values of outer graphs are lifted into it."""
    node: fx.Node = frame.output.create_proxy("call_function", marker, args, {}).node
    return node


def graph_break_reason(gm: fx.GraphModule) -> str | None:
    """Return why Dynamo ended this graph before its frame was over, in one line, or None if the frame returned."""
    reason = getattr(gm, "compile_subgraph_reason", None)
    if reason is None or not reason.graph_break:
        return None
    line: str = str(reason.reason).strip().splitlines()[0]
    where = reason.user_stack[-1] if reason.user_stack else None
    return f"{line} ({where.filename}:{where.lineno})" if where is not None else line


def compile_key() -> tuple[int | None, int | None] | None:
    """Return what identifies the graph being compiled: equal for two calls of a backend for one graph."""
    compile_id = CompileContext.current_compile_id()
    return None if compile_id is None else (compile_id.frame_id, compile_id.frame_compile_id)


# --- calls of compiled modules ------------------------------------------------------------------------------------------------------------


def entry(call: Callable[..., Any], traced: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that runs `call`; where Dynamo meets it, it traces `traced` instead, as for what `torch.compile` returns."""

    def enter(*args: Any, **kwargs: Any) -> Any:
        return call(*args, **kwargs)

    enter._torchdynamo_inline = traced  # type: ignore[attr-defined]
    skip_code(enter.__code__)
    skip_code(call.__code__)
    return enter


def compiling_around() -> bool:
    """Whether an outer `torch.compile` is in force for the frames that this thread calls."""
    return callable(get_eval_frame_callback())


def cause_of(error: Exception) -> BaseException:
    """Return the exception that a backend raised, without the one that Dynamo wraps around it."""
    return error.inner_exception if isinstance(error, BackendCompilerFailed) else error


_recompile_limit_listeners: list[Callable[[Any, str], None]] = []


def on_recompile_limit(listener: Callable[[Any, str], None]) -> None:
    """Call the listener with the backend and the function's name whenever Dynamo gives up recompiling a frame."""
    _recompile_limit_listeners.append(listener)


def _note_recompile_limit(record: logging.LogRecord) -> bool:
    """Log filter: Dynamo tells of the limit by a warning only, so the backend is taken from the frame that logs it (torch 2.11, 2.13)."""
    if isinstance(record.msg, str) and record.msg.startswith("torch._dynamo hit config.") and isinstance(record.args, tuple):
        frame = sys._getframe()
        while frame is not None and not (frame.f_code.co_name == "_compile" and "compiler_fn" in frame.f_locals):
            frame = frame.f_back  # type: ignore[assignment]
        if frame is not None:
            for listener in _recompile_limit_listeners:
                listener(frame.f_locals["compiler_fn"], str(record.args[2]))
    return True


def run_on_fakes(function: Callable[..., Any], inputs: tuple[Any, ...]) -> Any:
    """Call a function on a graph's example values: nothing is computed, and no guard is added for what it asks of symbolic sizes."""
    mode = next((value.fake_mode for value in inputs if isinstance(value, FakeTensor)), None)
    if mode is None:
        raise ValueError("no input is a fake tensor")
    quiet = mode.shape_env.suppress_guards() if mode.shape_env is not None else contextlib.nullcontext()
    with mode, quiet, torch.no_grad():
        return function(*inputs)


def call_on_fakes(module: nn.Module, backend: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Compile and call a module with a fake tensor in the place of every tensor of the module and of the arguments: shapes and devices,
    no data.

    The module's parameters and buffers are exchanged for the time of the call only, in dictionaries of its own.
    """
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    memo: dict[int, Any] = {}

    def fake(value: Any) -> Any:
        if not isinstance(value, torch.Tensor):
            return value
        if id(value) not in memo:
            memo[id(value)] = mode.from_tensor(value, static_shapes=True)
        return memo[id(value)]

    for submodule in module.modules():
        for store in ("_parameters", "_buffers"):
            submodule.__dict__[store] = {name: fake(value) for name, value in submodule.__dict__[store].items()}
    args, kwargs = tree_map(fake, (args, kwargs))
    with mode:
        torch.compile(module._call_impl, backend=backend)(*args, **kwargs)


def inner_compiler(inner: str | Callable[..., Any], mode: str | None, options: dict[str, Any] | None) -> Callable[..., Any]:
    """Return the compiler that `torch.compile(backend=inner, mode=mode, options=options)` would call with a graph and its inputs.

    Raises:
        torch._dynamo.exc.InvalidBackend: If no backend has this name.
    """
    if inner == "inductor":
        return torch._TorchCompileInductorWrapper(mode, options, None)  # type: ignore[no-untyped-call]
    return torch._TorchCompileWrapper(inner, mode, options, None)  # type: ignore[no-untyped-call]


def is_eager(inner: str | Callable[..., Any]) -> bool:
    """Whether a compiler is the one that runs graphs as they are."""
    return inner == "eager" or unwrapped_backend(inner)[0] is lookup_backend("eager")


def is_wrapper_subclass(value: Any) -> bool:
    """Whether a tensor is a wrapper around others, such as a DTensor."""
    return isinstance(value, torch.Tensor) and is_traceable_wrapper_subclass(value) and not isinstance(value, FakeTensor)
