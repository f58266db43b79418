"""Compiled graphs and compiled calls: what a backend needs to know of its graph, how a module is compiled, and by which inner compiler."""

from __future__ import annotations

import contextlib
import functools
import inspect
import logging
import sys
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import fx, nn
from torch._C._dynamo.eval_frame import get_eval_frame_callback
from torch._dynamo import compiled_autograd, config, output_graph
from torch._dynamo.backends.registry import lookup_backend
from torch._dynamo.eval_frame import OptimizedModule, skip_code
from torch._dynamo.exc import BackendCompilerFailed
from torch._guards import CompileContext
from torch._inductor import config as inductor_config
from torch._logging._internal import trace_structured
from torch._subclasses.fake_tensor import FakeTensor
from torch.autograd import forward_ad
from torch.fx import _symbolic_trace
from torch.fx.experimental.symbolic_shapes import StrictMinMaxConstraint
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

ISOLATED: dict[str, Any] = {"isolate_recompiles": True} if "isolate_recompiles" in inspect.signature(torch.compile).parameters else {}
"""Arguments of `torch.compile` by which its frames are counted by themselves: else the ninth model of a class, each with a backend of its
own, meets the recompile limit. Torch 2.11 has no such thing."""

_CUDA_GRAPHS = "triton.cudagraphs"

INITIALIZES_BACKENDS: bool = hasattr(torch._TorchCompileWrapper, "_dynamo_backend_init")
"""Whether `torch.compile` calls the `_dynamo_backend_init` of a backend whenever it resolves one, as torch 2.15 does."""


def unwrapped_backend(backend: Any) -> tuple[Any, Any]:
    """Return the backend that was passed to `torch.compile`, and the object that torch wrapped around it (or the backend itself)."""
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
    """Log filter: Dynamo only warns of the limit, so the backend is taken from the frame that logs the warning (torch 2.11, 2.13)."""
    if isinstance(record.msg, str) and record.msg.startswith("torch._dynamo hit config.") and isinstance(record.args, tuple):
        frame = sys._getframe()
        while frame is not None and not (frame.f_code.co_name == "_compile" and "compiler_fn" in frame.f_locals):
            frame = frame.f_back  # type: ignore[assignment]
        if frame is not None:
            for listener in _recompile_limit_listeners:
                listener(frame.f_locals["compiler_fn"], str(record.args[2]))
    return True


def compiled_with_own_frames(function: Callable[..., Any], backend: Any) -> Callable[..., Any]:
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


def compiled_module(module: nn.Module) -> tuple[nn.Module, Any] | None:
    """Return the module that was given to `torch.compile`, and the compiler as Dynamo will call it; None for any other module."""
    if not isinstance(module, OptimizedModule):
        return None
    original: nn.Module = module._orig_mod
    return original, module.dynamo_ctx.callback


@contextlib.contextmanager
def cacheable(gm: fx.GraphModule) -> Iterator[None]:
    """While a graph is compiled, let AOTAutograd's cache take it, if all our functions in it have a `cache_key`.

    The key of a graph has the import statements of its functions in it: module and qualified name, under which the very function must be
    found (torch 2.11 and 2.13). So a function gets its `cache_key` for a qualified name, and is in its module under that name
    meanwhile. Inductor's list of functions that may be cached is part of the key too; it gets those of this graph only.

    Args:
        gm: A graph. Functions with an attribute `cache_key` are ours; one whose key is None rules the cache out.
    """
    ours = {
        node.target: None
        for owner in gm.modules()
        if isinstance(owner, fx.GraphModule)
        for node in owner.graph.nodes
        if node.op == "call_function" and hasattr(node.target, "cache_key")
    }
    functions: list[Any] = list(ours)
    if not functions or any(function.cache_key is None for function in functions):
        yield
        return
    allowed = {f"{function.__module__}.{function.__name__}": "" for function in functions}
    with contextlib.ExitStack() as stack:
        for function in functions:
            stack.callback(setattr, function, "__qualname__", function.__qualname__)
            function.__qualname__ = f"{function.__name__}_{function.cache_key}"
            names = vars(sys.modules[function.__module__])
            names[function.__qualname__] = function
            stack.callback(names.pop, function.__qualname__, None)
        stack.enter_context(
            inductor_config.patch(unsafe_marked_cacheable_functions={**inductor_config.unsafe_marked_cacheable_functions, **allowed})
        )
        yield


def sizes_marked_dynamic(environment: Any) -> dict[Any, bool]:
    """Return the symbols of sizes that `mark_dynamic` promises to be dynamic; whether no guard but the promised range is allowed at all.

    A guard that fixes such a size is an error of the compilation (a constraint violation). If torch keeps no list of its inputs any more,
    nothing is found, and that error is what the user sees.

    Args:
        environment: The shape environment of a capture.
    """
    promised: dict[Any, bool] = {}
    for tracked in getattr(environment, "tracked_fakes", None) or ():
        constraints = getattr(tracked.symbolic_context, "constraint_sizes", None)
        for size, constraint in zip(getattr(tracked.fake, "shape", ()), constraints or (), strict=False):
            if constraint is None or constraint.warn_only or not hasattr(size, "node"):
                continue
            for symbol in size.node.expr.free_symbols:
                promised[symbol] = promised.get(symbol, False) or isinstance(constraint, StrictMinMaxConstraint)
    return promised


def trace_artifact(name: str, encoding: str, content: Callable[[], str]) -> None:
    """Hand a text to TORCH_TRACE, which files it under the compilation that is going on.

    Nothing is computed where no trace is written; torch finds that out at its first event, which Dynamo's own is (torch 2.11, 2.13, 2.14).

    Args:
        name: Name of the file that tlparse makes of it.
        encoding: ``"string"`` or ``"json"``.
        content: Returns the text, with line breaks: the log's readers do not like long lines.
    """
    # Outside of a compilation there is no id to file it under; it is written all the same then.
    trace_structured("artifact", metadata_fn=lambda: {"name": name, "encoding": encoding}, payload_fn=content, expect_trace_id=False)


def is_inductor(inner: str | Callable[..., Any]) -> bool:
    """Whether a compiler is Inductor, also where torch has wrapped it."""
    return inner == "inductor" or getattr(unwrapped_backend(inner)[0], "compiler_name", None) == "inductor"


def replays_cuda_graphs(inner: str | Callable[..., Any], mode: str | None, options: dict[str, Any] | None) -> bool:
    """Whether a compiler's code is run by replaying CUDA graphs, so that the device does not wait for the host."""
    if not is_inductor(inner):
        return False
    settings = _settings(inner, mode, options)
    return bool(settings.get(_CUDA_GRAPHS, inductor_config.triton.cudagraphs))


def timed_compiler(inner: str | Callable[..., Any], mode: str | None, options: dict[str, Any] | None) -> Callable[..., Any]:
    """Return a compiler as `inner_compiler` does, but one whose code uses no CUDA graphs: a contest captures its own."""
    if is_inductor(inner):
        return inner_compiler("inductor", None, {**timed_settings(inner, mode, options), _CUDA_GRAPHS: False})
    return inner_compiler(inner, mode, options) if isinstance(inner, str) else inner


def timed_settings(inner: str | Callable[..., Any], mode: str | None, options: dict[str, Any] | None) -> dict[str, Any]:
    """Return the settings that Inductor's mode and options stand for, without that of CUDA graphs, in the order of their names."""
    return {name: value for name, value in sorted(_settings(inner, mode, options).items()) if name != _CUDA_GRAPHS}


def _settings(inner: str | Callable[..., Any], mode: str | None, options: dict[str, Any] | None) -> dict[str, Any]:
    wrapper: Any = inner_compiler("inductor", mode, options) if isinstance(inner, str) else unwrapped_backend(inner)[0]
    return dict(wrapper.config)
