"""Symbolic capture: a model as a graph module of one `torch.fx` graph in which every call of an annotated layer is one node.

The graph module is over the modules of a clone of the model. `exactness` says where a graph would not do what the model does.
"""

from __future__ import annotations

import copy
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from types import FrameType, FunctionType
from typing import Any

import torch
from torch import fx, nn

from ..annotate import annotated_forward, annotated_functions
from ..errors import CaptureError
from .clone import clone_module
from .exactness import PythonState, difference, more_than_a_graph, not_traced, tested_for_none

# torch.fx exchanges `nn.Module.__call__` while it traces; two traces at once would take each other's for the original.
_tracing = threading.RLock()


def trace_exactly(model: nn.Module) -> LayerGraph:
    """Return `model` as a graph module that does exactly what the model does, whatever its training flags; `model` itself is untouched.

    The graph module is over a clone of the model: it has the same submodules, state-dict keys, parameters and buffers, and stays in step
    with them when either is moved, loaded or reassigned. Training flags are its own, per submodule. It can be pickled and deep-copied.

    Raises:
        CaptureError: If a graph does less than the model, or something else; the message says where and why.
    """
    reason = more_than_a_graph(model)
    if reason is not None:
        raise CaptureError(reason)
    in_training, in_inference = _traced(model, training=True), _traced(model, training=False)
    reason = difference(in_training.graph, in_inference.graph)
    if reason is not None:
        raise CaptureError(reason)
    return LayerGraph.over(clone_module(model), in_training.graph, in_training.functions)


def _traced(model: nn.Module, training: bool) -> LayerTracer:
    """The tracer that has traced a clone of the model with all flags set alike."""
    clone = clone_module(model)
    for module in clone.modules():
        vars(module)["training"] = training  # by hand: a `train` of the user's own may leave some out
    tracer = LayerTracer(_annotated_functions(clone))
    try:
        with torch.set_grad_enabled(training):
            tracer.trace(clone)
    except Exception as error:  # the model's own code runs on values that are no tensors: anything can come out of it
        if not tracer.objections:
            raise CaptureError(f"{tracer.path or 'the model'} cannot be traced: {_in_one_line(error)}") from error
    if tracer.objections:
        raise CaptureError(tracer.objections[0])
    return tracer


def _annotated_functions(model: nn.Module) -> tuple[FunctionType, ...]:
    """The functions that were marked, and those beside the model's classes whose decorator did nothing: their source says what they are."""
    beside = [vars(sys.modules[name]).values() for name in {type(module).__module__ for module in model.modules()} if name in sys.modules]
    found = [each for values in beside for each in values if isinstance(each, FunctionType) and annotated_forward(each) is not None]
    return tuple(dict.fromkeys((*annotated_functions(), *found)))


class LayerTracer(fx.Tracer):
    """Traces through everything but annotated layers and functions and the layers of torch, and notes what a graph cannot hold.

    Args:
        functions: The annotated functions that the model may call.
    """

    # Otherwise what is computed from buffers alone would be computed once, while tracing.
    proxy_buffer_attributes = True

    def __init__(self, functions: tuple[FunctionType, ...] = ()) -> None:
        super().__init__(autowrap_functions=functions)
        self.objections: list[str] = []
        """What a graph does not do, each as a sentence that names the module."""
        self.functions: dict[str, Callable[..., Any]] = {}
        """The annotated functions that the graph calls, by the paths under which it expects them as modules."""
        self._annotated = {function.__code__: function for function in functions}
        self._entered = {""}
        self._modes: tuple[Any, ...] = ()
        self._thread = threading.get_ident()

    @property
    def path(self) -> str:
        """The path of the module whose code is being traced."""
        return next((path for path, _ in reversed(self.module_stack.values()) if path in self._entered), "")

    def object(self, what: str) -> None:
        """Note that a graph would not do what the module does that is being traced: the end of a sentence about it."""
        self.objections.append(f"{self.path or 'the model'} {what}")

    # --- how torch.fx traces --------------------------------------------------------------------------------------------------------------

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return annotated_forward(m) is not None or super().is_leaf_module(m, module_qualified_name)

    def trace(self, root: Any, concrete_args: dict[str, Any] | None = None) -> fx.Graph:
        """Trace the root; see `fx.Tracer.trace`. Whatever its code changed in Python objects is put back."""
        with _tracing:
            state = PythonState(dict(root.named_modules()))
            self._modes = _modes()
            self._note_tests_for_none(root, None)
            try:
                return super().trace(root, concrete_args)
            finally:
                changed = state.restore()
                if changed is not None:
                    self.objections.append(f"{changed} was changed by running the model, and a graph would not change it")

    def call_module(self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if threading.get_ident() != self._thread:
            return forward(*args, **kwargs)  # some other model at work while torch.fx has `nn.Module.__call__` exchanged
        path = (self.submodule_paths or {}).get(m)
        if path is None:
            self.object(f"calls a {type(m).__name__} that is not among its submodules")
            return forward(*args, **kwargs)
        enters = not self.is_leaf_module(m, path)
        reason = not_traced(m, enters)
        if reason is not None:
            self.objections.append(f"{path} {reason}")
        if enters:
            self._entered.add(path)
            self._note_tests_for_none(m, (args, kwargs), path)
        return super().call_module(m, forward, args, kwargs)

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, fx.Proxy]) -> Any:
        if threading.get_ident() != self._thread:
            return attr_val  # that model may share its parameters with the one being traced
        return super().getattr(attr, attr_val, parameter_proxy_cache)

    def create_proxy(self, kind: str, target: Any, *args: Any, **kwargs: Any) -> fx.Proxy:
        if kind == "call_function" and getattr(target, "__code__", None) in self._annotated:
            kind, target = "call_module", self._path_of(target)
        return super().create_proxy(kind, target, *args, **kwargs)

    def create_node(self, kind: str, target: Any, *args: Any, **kwargs: Any) -> fx.Node:
        if _modes() != self._modes:
            self.object("switches grad mode, inference mode or autocast")
        for name in self._annotated_around():
            self.object(f"calls {name}, which is annotated, where torch.fx does not see the call")
        return super().create_node(kind, target, *args, **kwargs)

    def create_arg(self, a: Any) -> Any:
        if isinstance(a, dict | list) and type(a) not in (dict, list) and not type(a).__module__.startswith("torch.fx"):
            self.object(f"passes a {type(a).__name__}, which a graph turns into a plain {'dict' if isinstance(a, dict) else 'list'}")
        return super().create_arg(a)

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _AskedForType(node, self)

    def get_fresh_qualname(self, prefix: str) -> str:
        made = "a tensor" if "tensor" in prefix else "an object"
        self.objections.append(f"the model makes {made} while it runs, and a graph would keep the first one")
        return super().get_fresh_qualname(prefix)

    # --- what it notes --------------------------------------------------------------------------------------------------------------------

    def _path_of(self, function: Callable[..., Any]) -> str:
        """The path of the module by which the graph calls an annotated function."""
        caller = self.root.get_submodule(self.path)
        if isinstance(caller, nn.Sequential | nn.ModuleList | nn.ModuleDict):
            self.object(f"calls {function.__name__}, which is annotated, and a container has no place for the call")
        wanted = f"{self.path}.{function.__name__}".lstrip(".")
        path, number = wanted, 0
        while self.functions.get(path, function) is not function or hasattr(caller, path.rpartition(".")[2]):
            number += 1
            path = f"{wanted}_{number}"
        self.functions[path] = function
        return path

    def _annotated_around(self) -> Iterator[str]:
        """Names of the annotated functions and forwards whose operations are being traced: calls of theirs that are no nodes."""
        frame: FrameType | None = sys._getframe(2)
        while frame is not None and frame.f_code is not LayerTracer.trace.__code__:
            code = frame.f_code
            if code in self._annotated:
                yield self._annotated[code].__qualname__
            elif code.co_name == "forward":
                module = frame.f_locals.get("self")
                forward = annotated_forward(module) if isinstance(module, nn.Module) else None
                if forward is not None and forward.__code__ is code:
                    yield forward.__qualname__
            frame = frame.f_back

    def _note_tests_for_none(self, module: nn.Module, call: tuple[tuple[Any, ...], dict[str, Any]] | None, path: str = "") -> None:
        for name in tested_for_none(type(module), call):
            self.objections.append(f"{path or 'the model'} tests whether its argument {name} is None, and a graph keeps one answer")


class _AskedForType(fx.Proxy):
    """A traced value that notices `isinstance`."""

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        frame: Any = sys._getframe(1)
        while frame.f_code.co_name == "__instancecheck__" or frame.f_globals.get("__name__") in _ASKS_FOR_OTHERS:
            frame = frame.f_back
        # torch.fx itself asks all the time; what it does does not depend on the model.
        if not str(frame.f_globals.get("__name__", "")).startswith(("torch.", "fxkernels.")):
            tracer: Any = self.tracer
            tracer.object("asks for the type of a value (isinstance), and while tracing no value is a tensor")
        return type(self)


_ASKS_FOR_OTHERS = ("abc", "dataclasses", "inspect", "typing")


def _modes() -> tuple[Any, ...]:
    """The modes that Python code can switch without any trace of it in a graph."""
    devices = ("cpu", "cuda")
    autocast = tuple((torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)) for device in devices)
    return torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.is_autocast_cache_enabled(), autocast


def _in_one_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


_GRAPH = "_graph"


class FunctionCall(nn.Module):
    """An annotated function as a module below the one whose code calls it: its calls are nodes of the graph, and follow the training flag
    of that module.

    Args:
        function: The annotated function.
        training: The flag of the module that calls it.
    """

    def __init__(self, function: Callable[..., Any], training: bool) -> None:
        super().__init__()
        self.function = function
        self.training = training

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(*args, **kwargs)

    def extra_repr(self) -> str:
        return getattr(self.function, "__name__", repr(self.function))


class LayerGraph(fx.GraphModule):
    """A graph module that has the submodules, parameters, buffers, hooks and attributes of the module that was traced, object for object.

    A plain `fx.GraphModule` has the called submodules only, registers tensor attributes as buffers (new state-dict keys), and forgets on
    copying which buffers are not persistent.
    """

    @classmethod
    def over(cls, root: nn.Module, graph: fx.Graph, functions: Mapping[str, Callable[..., Any]]) -> LayerGraph:
        """Return the graph over `root`, whose state it takes over.

        Args:
            root: A module.
            graph: A graph of its calls.
            functions: By path, the annotated functions that the graph calls as modules.
        """
        for path, function in functions.items():
            owner, _, name = path.rpartition(".")
            caller = root.get_submodule(owner)
            vars(caller)["_modules"][name] = FunctionCall(function, caller.training)
        module = cls(root, graph, type(root).__name__)
        state, of_every_module = vars(module), vars(nn.Module())
        for name, value in vars(root).items():
            if name in of_every_module or name not in state:
                state[name] = value
        return module

    def _state(self) -> dict[str, Any]:
        state: dict[str, Any] = self.__getstate__()  # type: ignore[no-untyped-call]
        del state[_GRAPH]
        return state

    def __deepcopy__(self, memo: dict[int, Any]) -> LayerGraph:
        memo[id(self)] = module = _empty(type(self).__name__)
        vars(module).update(copy.deepcopy(self._state(), memo))
        module.graph = copy.deepcopy(self.graph)
        return module

    def __reduce__(self) -> tuple[Any, ...]:
        # torch pickles the generated code of a plain graph module, and traces that code where it is unpickled. Annotations must not be in
        # it: those that are strings, as with `from __future__ import annotations`, it cannot write (torch 2.13).
        graph = copy.deepcopy(self.graph)
        for node in graph.nodes:
            node.type = None
        return _empty, (type(self).__name__,), (self._state(), fx.GraphModule(self, graph))

    def __setstate__(self, state: tuple[dict[str, Any], fx.GraphModule]) -> None:
        attributes, plain = state
        vars(self).update(attributes)
        self.graph = plain.graph


def _empty(name: str) -> LayerGraph:
    module: LayerGraph = LayerGraph.__new__(LayerGraph)
    type(module).__name__ = name  # torch.fx gives each graph module a class of its own
    return module
