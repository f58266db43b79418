"""Raw Triton launches inside a traced kernel: `kernel[grid](...)` goes through `torch.library.wrap_triton`, so that torch sees it.

A launch on tensors without data fails, and one that goes unseen would be missing from the graph. While a kernel layer is traced, its
launches in this thread are routed to the launcher that torch can trace, in the forward and in the backwards of its autograd functions. No
kernel object is modified: what is exchanged, once, is the method that `kernel[grid]` calls on the base class of all Triton kernels, and
the new one is the old one for everybody who is not routed, and for every launch on tensors with data.

Relied upon in Triton (3.6, 3.7): `KernelInterface.__getitem__`, which JITFunction, Autotuner and Heuristics inherit, and `fn`, `values` and
`arg_names` of Heuristics. Should one be gone, launches fail on tensors without data as they did before. Triton is never imported here: a
kernel that launches it has imported it.
"""

from __future__ import annotations

import functools
import sys
import threading
import warnings
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.autograd.function import BackwardCFunction

__all__ = ["Launches", "call_routed"]


@dataclass
class Launches:
    """The Triton kernels that were launched while routed: their names, in order, each time."""

    names: list[str] = field(default_factory=list)


def call_routed(function: Callable[..., Any], inputs: Sequence[Any], launches: Launches | None = None) -> Any:
    """Return ``function(*inputs)``; raw Triton launches on tensors without data are traced, in the function and in its backward.

    Args:
        function: Runs a kernel layer, or its backward too; the graph behind the tensors that it returns is routed when it is run.
        inputs: Its arguments.
        launches: Where to note the launches.

    Raises:
        TypeError: From the launch, if a Triton kernel takes something that torch cannot trace.

    Example:
        >>> launches = Launches()
        >>> with FakeTensorMode():
        ...     call_routed(fused_norm, (torch.empty(4, 8, device="cuda"), 1e-6), launches)
        >>> launches.names
        ['_fused_norm_kernel']
    """
    _install()
    launches = Launches() if launches is None else launches
    with _routed(launches):
        outputs = function(*inputs)
    _follow(outputs, inputs, launches)
    return outputs


# --- who is routed -----------------------------------------------------------------------------------------------------------------------


class _Thread(threading.local):
    """What is routed in this thread: to where, and for which autograd node (None: for the caller of `call_routed`)."""

    launches: Launches | None = None
    node: weakref.ref[Any] | None = None


_THREAD = _Thread()


@contextmanager
def _routed(launches: Launches) -> Iterator[None]:
    before = _THREAD.launches, _THREAD.node
    _THREAD.launches, _THREAD.node = launches, None
    try:
        yield
    finally:
        _THREAD.launches, _THREAD.node = before


def _follow(outputs: Any, inputs: Sequence[Any], launches: Launches) -> None:
    """Route the backwards of the autograd functions between the inputs and the outputs."""
    tensors = [value for value in (outputs if isinstance(outputs, tuple | list) else (outputs,)) if isinstance(value, torch.Tensor)]
    seen: set[Any] = {value.grad_fn for value in inputs if isinstance(value, torch.Tensor)} | {None}
    waiting: list[Any] = [tensor.grad_fn for tensor in tensors]
    while waiting:
        node = waiting.pop()
        if node in seen:
            continue
        seen.add(node)
        waiting += [following for following, _ in node.next_functions]
        if isinstance(node, BackwardCFunction):  # the other nodes are torch's own, and launch nothing
            _route_node(node, launches)


def _route_node(node: Any, launches: Launches) -> None:
    own = weakref.ref(node)
    before: list[Any] = []

    def enter(grad_outputs: Any) -> None:
        before.append((_THREAD.launches, _THREAD.node))
        _THREAD.launches, _THREAD.node = launches, own

    def leave(grad_inputs: Any, grad_outputs: Any) -> None:
        _THREAD.launches, _THREAD.node = before.pop()

    node.register_prehook(enter)
    # Does not run if the backward raises. What is left in the thread then counts for nothing as soon as the node is gone.
    node.register_hook(leave)


def _destination() -> Launches | None:
    if _THREAD.launches is None or (_THREAD.node is not None and _THREAD.node() is None):
        return None
    return _THREAD.launches


# --- how a launch is routed --------------------------------------------------------------------------------------------------------------

_LOCK = threading.Lock()
_ORIGINAL = "_fxkernels_original"


def _install() -> None:
    jit = sys.modules.get("triton.runtime.jit")
    interface = getattr(jit, "KernelInterface", None)
    original = getattr(interface, "__getitem__", None)
    if interface is None or original is None or hasattr(original, _ORIGINAL):
        return
    with _LOCK:
        if not hasattr(interface.__getitem__, _ORIGINAL):
            interface.__getitem__ = _routing(original)


def _routing(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def __getitem__(kernel: Any, grid: Any) -> Any:
        launches = _destination()
        plain = original(kernel, grid)
        return plain if launches is None else _launcher(kernel, grid, plain, launches)

    setattr(__getitem__, _ORIGINAL, original)
    return __getitem__


def _launcher(kernel: Any, grid: Any, plain: Callable[..., Any], launches: Launches) -> Callable[..., Any]:
    """Return what launches the kernel on that grid: `plain` where there is data."""

    def launch(*args: Any, **kwargs: Any) -> Any:
        values = (*args, *kwargs.values())
        if not any(isinstance(value, torch.Tensor) and type(value) not in (torch.Tensor, torch.nn.Parameter) for value in values):
            return plain(*args, **kwargs)
        from triton.runtime.autotuner import Heuristics

        if isinstance(kernel, Heuristics):
            # wrap_triton takes a heuristic inside of an autotuner only. Outside of all it is no more than this.
            for name, heuristic in kernel.values.items():
                kwargs[name] = heuristic({**dict(zip(kernel.arg_names, args, strict=False)), **kwargs})
            return kernel.fn[grid](*args, **kwargs)
        traceable = torch.library.wrap_triton(kernel)
        if traceable is kernel:  # torch's own switch for a launch inside of a triton_op, or Triton's interpreter
            return plain(*args, **kwargs)
        for value in values:
            _require_traceable(kernel, value)
        launches.names.append(_name(kernel))
        with _warnings_do_not_raise():
            return traceable[grid](*args, **kwargs)

    return launch


@contextmanager
def _warnings_do_not_raise() -> Iterator[None]:
    """Within, a warning is shown and not raised.

    While a launch is traced, torch has Triton compile the kernel, to see what it writes. Whatever that raises counts as "all it is given"
    (torch 2.11 to 2.15), which means copies of its inputs, and graphs that cannot be partitioned. Triton 3.9 warns when it first compiles.
    """
    with warnings.catch_warnings():
        if any(action == "error" for action, *_ in warnings.filters):
            warnings.simplefilter("default")
        yield


_TRACEABLE = (torch.Tensor, int, float, bool, str, torch.SymInt, torch.SymFloat, torch.SymBool, torch.dtype, type(None))


def _require_traceable(kernel: Any, value: Any) -> None:
    """torch keeps what it does not know beside the graph, as a constant; a tensor in it would be the one without data (2.11, 2.13)."""
    if isinstance(value, _TRACEABLE) or type(value).__module__.startswith(("triton.language", "triton.runtime.jit")):
        return
    if isinstance(value, tuple | list) and all(isinstance(item, int | float | str | None) for item in value):
        return
    raise TypeError(f"Triton kernel {_name(kernel)} takes a {type(value).__name__}, which torch.library.wrap_triton cannot trace")


def _name(kernel: Any) -> str:
    while hasattr(kernel, "fn"):
        kernel = kernel.fn
    return str(getattr(kernel, "__name__", kernel))
