"""Compiled graphs and compiled calls: what a backend needs to know of its graph, and how a module is compiled."""

from __future__ import annotations

import contextlib
import functools
import inspect
import logging
import sys
from collections.abc import Callable, Iterator
from types import FunctionType
from typing import Any

import torch
from torch import fx, nn
from torch._C._dynamo.eval_frame import get_eval_frame_callback
from torch._dynamo import compiled_autograd, config, output_graph
from torch._dynamo.backends.registry import lookup_backend
from torch._dynamo.eval_frame import skip_code
from torch._dynamo.exc import BackendCompilerFailed
from torch._guards import CompileContext
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.autograd import forward_ad
from torch.fx import _symbolic_trace
from torch.utils._python_dispatch import is_traceable_wrapper_subclass
from torch.utils._pytree import tree_map

ISOLATED: dict[str, Any] = {"isolate_recompiles": True} if "isolate_recompiles" in inspect.signature(torch.compile).parameters else {}
"""Arguments of `torch.compile` by which its frames are counted by themselves: else the ninth model of a class, each with a backend of its
own, meets the recompile limit. Torch 2.11 has no such thing."""

INITIALIZES_BACKENDS: bool = hasattr(torch._TorchCompileWrapper, "_dynamo_backend_init")
"""Whether `torch.compile` calls the `_dynamo_backend_init` of a backend whenever it resolves one, as torch 2.15 does."""

_MANY = 1 << 16


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


def graph_break_reason(gm: fx.GraphModule) -> str | None:
    """Return why Dynamo ended this graph before its frame was over, in one line, or None if the frame returned."""
    reason = getattr(gm, "compile_subgraph_reason", None)
    if reason is None or not reason.graph_break:
        return None
    line: str = str(reason.reason).strip().splitlines()[0]
    where = reason.user_stack[-1] if reason.user_stack else None
    return f"{line} ({where.filename}:{where.lineno})" if where is not None else line


def in_canonical_order(graph: fx.Graph) -> bool:
    """Give a captured graph the order and the names of nodes that Dynamo gives to graphs, if it was asked to; return whether it was.

    With `torch._dynamo.config.canonicalize_output_graph_node_order` (torch 2.14 and later), the ranks of a job whose traces differ only in
    order have one graph.
    """
    if not getattr(config, "canonicalize_output_graph_node_order", False) or compiled_autograd.in_compiled_autograd_region:
        return False
    graphs: Any = output_graph
    graphs._canonicalize_graph(graph)
    return True


def compile_key() -> tuple[int | None, int | None] | None:
    """Return what identifies the graph being compiled: equal for two calls of a backend for one graph."""
    compile_id = CompileContext.current_compile_id()
    return None if compile_id is None else (compile_id.frame_id, compile_id.frame_compile_id)


_recompile_limit_listeners: list[Callable[[Any, str], None]] = []


def on_recompile_limit(listener: Callable[[Any, str], None]) -> None:
    """Call the listener with the backend and the function's name whenever Dynamo gives up recompiling a frame."""
    _recompile_limit_listeners.append(listener)


def note_recompile_limit(record: logging.LogRecord) -> bool:
    """Log filter: Dynamo tells of the limit by a warning only, so the backend is taken from the frame that logs it (torch 2.11, 2.13)."""
    if isinstance(record.msg, str) and record.msg.startswith("torch._dynamo hit config.") and isinstance(record.args, tuple):
        frame = sys._getframe()
        while frame is not None and not (frame.f_code.co_name == "_compile" and "compiler_fn" in frame.f_locals):
            frame = frame.f_back  # type: ignore[assignment]
        if frame is not None:
            for listener in _recompile_limit_listeners:
                listener(frame.f_locals["compiler_fn"], str(record.args[2]))
    return True


def compiled_apart(function: Callable[..., Any], backend: Any) -> Callable[..., Any]:
    """Return what `torch.compile` gives, with compiled frames of its own: it uses none that were compiled for another call of this
    function, and none of its are used there.
    """
    if not ISOLATED:  # Dynamo looks for frames that an equal backend has compiled (torch 2.11)
        equal = backend
        backend = functools.partial(equal)
        backend._torchdynamo_orig_backend = equal
    return torch.compile(function, backend=backend, **ISOLATED)


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


def operations_are_watched() -> bool:
    """Whether something around this thread's calls has to see each operation of a model, where Dynamo would raise or stay away for good: a
    trace of torch.jit or torch.fx, forward-mode AD, a dispatch mode such as `FlopCounterMode` (torch 2.11, 2.13, 2.15).
    """
    return (
        _symbolic_trace.is_fx_symbolic_tracing()
        or torch._C._get_tracing_state() is not None
        or forward_ad._current_level >= 0
        or torch._C._len_torch_dispatch_stack() > 0
    )


@contextlib.contextmanager
def as_if_compiling() -> Iterator[None]:
    """`torch.compiler.is_compiling()` says yes meanwhile, as it does where AOTAutograd traces the Python of a kernel."""
    before = torch.compiler._is_compiling_flag
    torch.compiler._is_compiling_flag = True
    try:
        yield
    finally:
        torch.compiler._is_compiling_flag = before


def cause_of(error: Exception) -> BaseException:
    """Return the exception that a backend raised, without the one that Dynamo wraps around it."""
    return error.inner_exception if isinstance(error, BackendCompilerFailed) else error


def run_on_fakes(function: Callable[..., Any], inputs: tuple[Any, ...]) -> Any:
    """Call a function on a graph's example values: nothing is computed, and no guard is added for what it asks of symbolic sizes."""
    mode = next((value.fake_mode for value in inputs if isinstance(value, FakeTensor)), None)
    if mode is None:
        raise ValueError("no input is a fake tensor")
    quiet = mode.shape_env.suppress_guards() if mode.shape_env is not None else contextlib.nullcontext()
    with mode, quiet, torch.no_grad():
        return function(*inputs)


@contextlib.contextmanager
def unlogged_fakes() -> Iterator[None]:
    """Within, torch does not log the stack of an operator that raises on fake tensors (2.13, 2.15): the error itself tells of it."""
    log = logging.getLogger("torch._subclasses.fake_tensor")
    before = log.disabled
    log.disabled = True
    try:
        yield
    finally:
        log.disabled = before


def call_on_fakes(module: nn.Module, backend: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Compile and call a module with a fake tensor in the place of every tensor of the module and of the arguments: shapes and devices,
    no data. A tensor on the meta device counts as one on the CPU: models mix it with tensors that they make there.

    The module's parameters and buffers are exchanged for the time of the call only, in dictionaries of its own.
    """
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    memo: dict[int, Any] = {}

    def fake(value: Any) -> Any:
        if not isinstance(value, torch.Tensor):
            return value
        if id(value) not in memo:
            memo[id(value)] = _on_cpu(value, mode) if value.is_meta else mode.from_tensor(value, static_shapes=True)
        return memo[id(value)]

    for submodule in module.modules():
        for store in ("_parameters", "_buffers"):
            submodule.__dict__[store] = {name: fake(value) for name, value in submodule.__dict__[store].items()}
    args, kwargs = tree_map(fake, (args, kwargs))
    # Frames that Dynamo compiles are remembered with their code, and few of one code: those that are compiled here are not to count among
    # the user's. So the outermost frame has a code of its own, and those after a graph break, where torch can do that, an isolated count.
    code = _call.__code__.replace(co_consts=_call.__code__.co_consts)
    with mode, unlogged_fakes(), config.patch(recompile_limit=_MANY, accumulated_recompile_limit=_MANY):
        torch.compile(FunctionType(code, globals()), backend=backend, **ISOLATED)(module, args, kwargs)


def _call(module: Any, args: Any, kwargs: Any) -> Any:
    return module._call_impl(*args, **kwargs)


def _on_cpu(value: torch.Tensor, mode: FakeTensorMode) -> torch.Tensor:
    with mode:
        fake = torch.empty_strided(value.size(), value.stride(), dtype=value.dtype, device="cpu")
        return nn.Parameter(fake, value.requires_grad) if isinstance(value, nn.Parameter) else fake.requires_grad_(value.requires_grad)


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
