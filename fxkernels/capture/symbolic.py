"""Symbolic capture: a model as one `torch.fx` graph in which every call of an annotated layer is one node with its exact arguments."""

from __future__ import annotations

import inspect
import sys
import threading
from collections.abc import Callable, Collection
from typing import Any

import torch
from torch import fx, nn

from ..annotate import annotated_forward
from ..errors import CaptureError
from .annotated_functions import AnnotatedFunction, functions_recorded
from .captured_module import CapturedModule
from .clone import clone_module
from .side_effects import Snapshot

# torch.fx exchanges `nn.Module.__call__` while it traces, and we exchange functions; two traces at once would take each other's stand-ins
# for the originals.
_tracing = threading.RLock()


def trace_symbolically(model: nn.Module, opened: Collection[str] = ()) -> CapturedModule:
    """Return `model` as a graph module in which each call of an annotated layer or function is one node; `model` itself is untouched.

    The graph module is over a clone of the model: it has the same submodules, state-dict keys, parameters and buffers, and stays in step
    with them when either is moved, loaded or reassigned. Training flags are its own, per submodule. It can be pickled and deep-copied.

    Args:
        model: Any module. Whether the graph does all that the model does is what `why_not_exact` says.
        opened: Paths of annotated layers that are to be traced through, so that annotated calls inside them are seen.

    Raises:
        CaptureError: If the model cannot be traced; the message says where and why.
    """
    if annotated_forward(model) is not None:
        raise CaptureError(f"{type(model).__name__} is itself an annotated layer: there is no call of it in a graph of its own operations")
    if "forward" in vars(model):
        raise CaptureError(f"{type(model).__name__} has a forward set on the instance, which torch.fx does not trace")
    clone = clone_module(model).module
    tracer = LayerTracer(opened)
    trace_clone(clone, tracer)
    return CapturedModule.over(clone, tracer.graph)


class LayerTracer(fx.Tracer):
    """Traces through everything but annotated layers and the layers of torch, and notes what a graph cannot hold.

    Args:
        opened: Paths of annotated layers that are traced through.
        objection: Asked about every called module, and whether it is to be traced through, before its code runs. An answer ends tracing.
    """

    # Otherwise what is computed from buffers alone would be computed once, while tracing.
    proxy_buffer_attributes = True

    def __init__(self, opened: Collection[str] = (), objection: Callable[[nn.Module, bool], str | None] | None = None) -> None:
        super().__init__()
        self.created: list[str] = []
        """Attributes that stand for objects made while tracing, which the graph uses as constants."""
        self.obstacles: list[str] = []
        """What happened while tracing and does not happen in the graph, each as the end of a sentence about a module."""
        self.given: list[tuple[str, Callable[..., Any], frozenset[str]]] = []
        """Per forward that was traced: its path, and which of its parameters received an argument of the model as it was given."""
        self.changed: str | None = None
        """The first attribute that the model's code changed."""
        self._opened = frozenset(opened)
        self._objection = objection
        self._entered = {""}
        self._functions: dict[Callable[..., Any], Any] = {}
        self._state = _state()
        self._thread = threading.get_ident()

    @property
    def location(self) -> str:
        """Where tracing is, or where it stopped: the path of the module, or "the model"."""
        return next((path for path, _ in reversed(self.module_stack.values()) if path in self._entered), "") or "the model"

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        if module_qualified_name in self._opened:
            return False
        if annotated_forward(m) is not None:
            return True
        if not super().is_leaf_module(m, module_qualified_name):
            return False
        # A layer of torch may hold annotated ones: nn.TransformerEncoder is made of whatever layer it is given.
        return not any(annotated_forward(child) is not None for child in m.modules())

    def call_module(self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if threading.get_ident() != self._thread:
            return forward(*args, **kwargs)  # some other model at work while torch.fx has `nn.Module.__call__` exchanged
        path = (self.submodule_paths or {}).get(m)
        if path is None:
            if annotated_forward(m) is None:
                raise NameError(f"it calls a {type(m).__name__} that is not among its submodules")
            return self._record_function(AnnotatedFunction(m), args, kwargs)
        enters = not self.is_leaf_module(m, path)
        objection = self._objection(m, enters) if self._objection is not None else None
        if objection is not None:
            raise CaptureError(f"{path} {objection}")
        if enters:
            self._entered.add(path)
            self.given.append((path, type(m).forward, _given(type(m).forward, (m, *args), kwargs)))
        return super().call_module(m, forward, args, kwargs)

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, fx.Proxy]) -> Any:
        if threading.get_ident() != self._thread:
            return attr_val  # that model may share its parameters with the one being traced
        return super().getattr(attr, attr_val, parameter_proxy_cache)

    def create_node(self, kind: str, target: Any, *args: Any, **kwargs: Any) -> fx.Node:
        if _state() != self._state:
            self._note("switches grad mode, inference mode or autocast")
        if kind == "call_function":
            target = self._functions.get(target, target)  # torch.fx.wrap may have got hold of a stand-in
        return super().create_node(kind, target, *args, **kwargs)

    def create_arg(self, a: Any) -> Any:
        if isinstance(a, dict | list) and type(a) not in (dict, list) and not type(a).__module__.startswith("torch.fx"):
            self._note(f"passes a {type(a).__name__}, which a graph turns into a plain {'dict' if isinstance(a, dict) else 'list'}")
        return super().create_arg(a)

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _AskedForType(node, self)

    def get_fresh_qualname(self, prefix: str) -> str:
        name = super().get_fresh_qualname(prefix)
        self.created.append(name)
        return name

    def trace(self, root: Any, concrete_args: dict[str, Any] | None = None) -> fx.Graph:
        """Trace the root; see `fx.Tracer.trace`. Whatever its code changed in Python objects is put back."""
        snapshot = Snapshot(dict(root.named_modules()))
        self._state = _state()
        self.given.append(("", type(root).forward, frozenset(inspect.signature(type(root).forward).parameters)))
        try:
            with functions_recorded(self._record_function, root.modules()) as self._functions:
                return super().trace(root, concrete_args)
        finally:
            self.changed = snapshot.restore(keep=self.created)

    def _record_function(self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if threading.get_ident() != self._thread:
            return function(*args, **kwargs)
        return self.create_proxy("call_function", function, args, kwargs)

    def _note(self, what: str) -> None:
        self.obstacles.append(f"{self.location} {what}")

    def note_type_question(self) -> None:
        """Note that the model's code asked for the type of a value, which is not the one it has when the model runs."""
        self._note("asks for the type of a value (isinstance), and while tracing no value is a tensor")


def trace_clone(clone: nn.Module, tracer: LayerTracer) -> None:
    """Trace a clone; the graph is the tracer's.

    Raises:
        CaptureError: If it cannot be traced.
    """
    with _tracing:
        try:
            tracer.trace(clone)
        except CaptureError:
            raise
        except Exception as error:  # the model's own code runs on values that are no tensors: anything can come out of it
            raise CaptureError(f"{tracer.location} cannot be traced: {_in_one_line(error)}") from error


class _AskedForType(fx.Proxy):
    """A traced value that notices `isinstance`."""

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        frame: Any = sys._getframe(1)
        while frame.f_code.co_name == "__instancecheck__" or frame.f_globals.get("__name__") in _ASKS_FOR_OTHERS:
            frame = frame.f_back
        # torch.fx itself asks all the time; what it does does not depend on the model.
        if not str(frame.f_globals.get("__name__", "")).startswith(("torch.", "fxkernels.")):
            self.tracer.note_type_question()  # type: ignore[attr-defined]
        return type(self)


_ASKS_FOR_OTHERS = ("abc", "dataclasses", "inspect", "typing")


def _state() -> tuple[Any, ...]:
    """The modes that Python code can switch without any trace of it in a graph."""
    devices = ("cpu", "cuda")
    autocast = tuple((torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)) for device in devices)
    return torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.is_autocast_cache_enabled(), autocast


def _given(forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> frozenset[str]:
    try:
        arguments = inspect.signature(forward).bind(*args, **kwargs).arguments
    except (TypeError, ValueError):
        return frozenset()  # the call itself will say what is wrong with it
    return frozenset(name for name, value in arguments.items() if isinstance(value, fx.Proxy) and value.node.op == "placeholder")


def _in_one_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
