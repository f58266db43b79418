"""Capture by Dynamo: put markers around every annotated call while a frame is traced.

Dynamo goes on inlining the layer as always, with all its guards and side effects; the markers only remember where the call begins and
ends. No decision is made here. Names that no mapping serves are bracketed without their arguments: looking at an argument would install
guards that the frame would not have without us.
"""

from __future__ import annotations

import functools
import inspect
import operator
import weakref
from dataclasses import dataclass
from types import CellType, CodeType, FunctionType
from typing import Any, Protocol, TypeGuard

from torch import fx, nn
from torch.compiler import is_exporting

from ..annotate import annotated_forward, annotation_of, condition_of, layer_name_of
from ..kernels.origin import LayerOrigin
from ..kernels.stand_in import LayerState
from ..passes.layer_call import CallSite
from ..passes.markers import SITE, enter, leave
from ..versions import warn_of_untested
from . import _torch
from .paths import ModulePaths, without_root
from .symbolic import FunctionCall

KERNELIZED = "_fxkernels"
"""Attribute of a module that belongs to a kernelized model: its `backend` decides the module's calls."""


class CapturingBackend(Protocol):
    """What capture asks of the backend for which it puts markers."""

    paths: ModulePaths

    parts_only: bool
    """Whether it serves only the kernelized parts of a model that the user compiles with another backend."""

    def serves(self, layer_name: str) -> bool:
        """Whether the mapping has this name, so that the call's arguments are wanted."""


@dataclass(slots=True)
class _Token:
    """An open call: its site, and its `enter` node."""

    site: CallSite
    enter: fx.Node


class Brackets:
    """Dynamo's observer: recognises annotated calls by the identity of the annotated forward, and marks them."""

    def frame_begins(self, frame: _torch.Frame) -> _Token | None:
        """Learn the root's paths; mark the frame if it is an annotated forward (a layer compiled alone, or called after a graph break)."""
        root = _frame_module(frame)
        backend = backend_in_charge(frame, root)
        if backend is None:
            return None
        if root is not None:
            backend.paths.add_root(root)
        function = _annotated_frame(frame, root)
        if function is None:
            return None
        args, kwargs = _frame_arguments(frame)
        return self._open(
            frame,
            backend,
            function,
            root,
            args[1:] if root is not None else args,
            kwargs,
            self_variable=args[0] if root is not None else None,
        )

    def frame_ends(self, frame: _torch.Frame, token: _Token, result: _torch.Variable) -> None:
        """Mark the end of a frame that is itself an annotated call."""
        _close(frame, token, result)

    def call_begins(
        self, frame: _torch.Frame, function: FunctionType, args: list[_torch.Variable], kwargs: dict[str, _torch.Variable]
    ) -> _Token | None:
        """Mark the beginning of an annotated call."""
        module = _called_layer(frame, function, args)
        if module is None and annotated_forward(function) is None:
            return None
        backend = backend_in_charge(frame, module)
        if backend is None:
            return None
        if module is None:
            return self._open(frame, backend, function, None, args, kwargs, self_variable=None)
        return self._open(frame, backend, function, module, args[1:], kwargs, self_variable=args[0])

    def call_ends(self, frame: _torch.Frame, token: _Token, result: _torch.Variable | None) -> None:
        """Mark the end of an annotated call, or take its beginning back if it did not come to an end."""
        if result is None:
            token.enter.graph.erase_node(token.enter)
            return
        _close(frame, token, result)

    def _open(
        self,
        frame: _torch.Frame,
        backend: CapturingBackend,
        function: FunctionType,
        module: nn.Module | None,
        args: list[_torch.Variable],
        kwargs: dict[str, _torch.Variable],
        *,
        self_variable: _torch.Variable | None,
    ) -> _Token:
        annotation = annotation_of(function if module is None else module)
        assert annotation is not None
        layer_name = annotation.layer_name
        serves = backend.serves(layer_name)
        caller = _enclosing(frame, module)
        path = _path(frame, backend.paths, module, caller, layer_name)
        is_function = module is None or (backend.paths.get(module) is None and _is_function_module(module))
        marked: tuple[Any, ...] = ((), {}, {})
        opaque: dict[int | str, str] = {}
        state = training = None
        if serves:
            marked_args, marked_kwargs = _arguments(frame, args, kwargs, opaque)
            state, tensors = (None, {}) if is_function or module is None else _layer_state(frame, module, self_variable)
            marked = (marked_args, marked_kwargs, tensors)
            training = _training(frame, caller[1] if is_function and caller is not None else self_variable)
        written = (_wrapped_function(module) if is_function and module is not None else None) or function
        site = CallSite(
            path=path,
            layer_name=layer_name,
            layer=(type(module) if module is not None and not is_function else written).__qualname__,
            location=_location(written),
            annotation=annotation.source,
            training=training,
            arguments_known=serves,
            origin=_origin(function, module, is_function, state, opaque, serves),
            owner=backend,
        )
        node = _torch.add_marker(frame, enter, marked)
        node.meta[SITE] = site
        return _Token(site, node)


def _close(frame: _torch.Frame, token: _Token, result: _torch.Variable) -> None:
    outputs = _torch.output_proxies(frame, result)
    node = _torch.add_marker(frame, leave, (tuple(outputs),))
    node.meta[SITE] = token.site


# --- who compiles this frame ------------------------------------------------------------------------------------------------------------


def backend_in_charge(frame: _torch.Frame, module: nn.Module | None) -> Any | None:
    """Return the backend that decides a call of this module: that of the kernelized model to which it belongs, else the frame's own, if
    it is ours.

    Where another backend compiles a kernelized model, that one gets the frame's graph after ours has put the kernels into it. An exported
    program gets no kernels: it is meant to run where they are not.
    """
    if is_exporting():
        return None
    compiler = _torch.current_backend(frame)
    backend, wrapper = _torch.unwrapped_backend(compiler)
    resolve = getattr(backend, "hubkernels_for", None)
    ours = resolve(wrapper) if resolve is not None else None
    kernelized = _kernelized(frame, module)
    if kernelized is None:
        return None if ours is None or ours.parts_only else ours
    if kernelized.backend is ours:
        return ours
    part = kernelized.backend.around(compiler)
    if ours is None:
        _torch.set_backend(frame, part)
    return part


def _kernelized(frame: _torch.Frame, module: nn.Module | None) -> Any | None:
    """The kernelized state of the called module, or of the module whose code calls the function."""
    state = vars(module).get(KERNELIZED) if module is not None else None
    if state is not None:
        return state
    caller = _enclosing(frame, module)
    return vars(caller[0]).get(KERNELIZED) if caller is not None else None


# --- which call is this ---------------------------------------------------------------------------------------------------------------


def _called_layer(frame: _torch.Frame, function: FunctionType, args: list[_torch.Variable]) -> nn.Module | None:
    """The module, if this is a call of the forward of an annotated class (or of a subclass that overrides it)."""
    if not args:
        return None
    module = _torch.peek(frame, args[0])
    if not isinstance(module, nn.Module) or layer_name_of(module) is None:
        return None
    return module if inspect.getattr_static(type(module), "forward", None) is function else None


def _annotated_frame(frame: _torch.Frame, root: nn.Module | None) -> FunctionType | None:
    """The annotated function that the compiled frame runs, if it runs one."""
    code: CodeType = _torch.frame_code(frame)
    if root is not None and layer_name_of(root) is not None:
        forward: object = inspect.getattr_static(type(root), "forward", None)
        if _is_run(forward, frame):
            return forward
    # The code of a wrapper has a name of its own; that of the function that it wraps, and has closed over, is the wrapper's.
    wrapped = [cell.cell_contents for cell in _torch.frame_closure(frame) if cell != CellType()]  # which has no contents
    around = [each.__globals__.get(each.__name__) for each in wrapped if isinstance(each, FunctionType)]
    function: object
    for function in (frame.f_globals.get(code.co_name), *around):
        if _is_run(function, frame) and annotated_forward(function) is not None:
            return function
    return None


def _is_run(function: object, frame: _torch.Frame) -> TypeGuard[FunctionType]:
    """Whether this is the function that the compiled frame runs. All functions that one decorator has made have one code."""
    if not isinstance(function, FunctionType) or function.__code__ is not _torch.frame_code(frame):
        return False
    return all(map(operator.is_, function.__closure__ or (), _torch.frame_closure(frame)))


def _frame_module(frame: _torch.Frame) -> nn.Module | None:
    """The module whose method the frame runs."""

    def value_of(name: str) -> Any:
        variable = _torch.local_variable(frame, name)
        return _torch.peek(frame, variable) if variable is not None else None

    code: CodeType = _torch.frame_code(frame)
    first = value_of(code.co_varnames[0]) if code.co_argcount else None
    if not code.co_argcount and code.co_flags & inspect.CO_VARARGS:  # a wrapper has all arguments in one
        first = next(iter(value_of(code.co_varnames[code.co_kwonlyargcount]) or ()), None)
    module = first if isinstance(first, nn.Module) else value_of("self")  # a resumed frame begins with arguments of its own
    return module if isinstance(module, nn.Module) else None


def _frame_arguments(frame: _torch.Frame) -> tuple[list[_torch.Variable], dict[str, _torch.Variable]]:
    code: CodeType = _torch.frame_code(frame)
    names = code.co_varnames
    last = code.co_argcount + code.co_kwonlyargcount
    args = [_torch.local_variable(frame, name) for name in names[: code.co_argcount]]
    kwargs = {name: _torch.local_variable(frame, name) for name in names[code.co_argcount : last]}
    if code.co_flags & inspect.CO_VARARGS:
        args += _torch.unpacked(frame, _torch.local_variable(frame, names[last]))
        last += 1
    if code.co_flags & inspect.CO_VARKEYWORDS:
        kwargs |= _torch.unpacked_keywords(_torch.local_variable(frame, names[last]))
    return args, kwargs


def _enclosing(frame: _torch.Frame, module: nn.Module | None) -> tuple[nn.Module, _torch.Variable] | None:
    """The module, other than the called one, whose code makes the call. A function that was turned into a module is none."""
    for caller in _torch.frame_and_callers(frame):
        code: CodeType = _torch.frame_code(caller)
        if not code.co_argcount:
            continue
        variable = _torch.local_variable(caller, code.co_varnames[0])
        value = _torch.peek(caller, variable) if variable is not None else None
        if isinstance(value, nn.Module) and value is not module and not _is_function_module(value):
            return value, variable
    return None


def _path(
    frame: _torch.Frame, paths: ModulePaths, module: nn.Module | None, caller: tuple[nn.Module, _torch.Variable] | None, layer_name: str
) -> str:
    known = paths.get(module) if module is not None else None
    if known is not None:
        return known
    name, innermost = next(reversed(_torch.module_stack(frame)), ("", None))
    reached = without_root(name)
    # A layer that no module holds, and that is made anew for each call, is not on the stack: there is the module around it.
    if reached and module is not None and type(module) is innermost and not _is_function_module(module):
        return reached
    around = paths.get(caller[0]) if caller is not None else None
    if around is not None and caller is not None and isinstance(caller[0], FunctionCall):
        around = around.rpartition(".")[0]
    if around is None:
        around = reached
    return f"{around}.{layer_name}" if around else layer_name


def _is_function_module(module: nn.Module) -> bool:
    """Whether the module is a function that the `kernels` package has turned into one: a module without state that wraps a closure."""
    forward = type(module).forward
    return hasattr(forward, "__signature__") and forward.__closure__ is not None and not module._parameters and not module._modules


def _wrapped_function(module: nn.Module) -> FunctionType | None:
    """The plain function inside a function module of the `kernels` package (seen with 0.17): a free variable of its forward."""
    for cell in getattr(type(module).forward, "__closure__", None) or ():
        if isinstance(cell.cell_contents, FunctionType):
            return cell.cell_contents
    return None


# --- what the call's markers carry ------------------------------------------------------------------------------------------------------


def _arguments(
    frame: _torch.Frame, args: list[_torch.Variable], kwargs: dict[str, _torch.Variable], opaque: dict[int | str, str]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The call's arguments for the marker; those that are no graph values are noted in `opaque` and stand there as None."""
    values: dict[int | str, Any] = {}
    named: list[tuple[int | str, _torch.Variable]] = [*enumerate(args), *kwargs.items()]
    for key, variable in named:
        try:
            values[key] = _torch.graph_argument(variable)
        except ValueError:
            values[key] = None
            opaque[key] = _torch.type_name(variable)
    return tuple(values[i] for i in range(len(args))), {name: values[name] for name in kwargs}


def _layer_state(frame: _torch.Frame, module: nn.Module, variable: _torch.Variable) -> tuple[LayerState, dict[str, Any]]:
    """The layer's tensors (and numbers that Dynamo has made dynamic) as graph values, and its constants under guard."""

    def fixed(name: str) -> bool:
        try:
            _torch.constant(_torch.attribute(frame, variable, name))
        except ValueError:
            return False
        return True

    state = LayerState.of(module, fixed)
    return state, {name: _torch.graph_argument(_torch.attribute(frame, variable, name)) for name in state.tensor_names()}


def _training(frame: _torch.Frame, variable: _torch.Variable | None) -> bool:
    """The module's training flag, under guard."""
    return bool(_torch.constant(_torch.attribute(frame, variable, "training"))) if variable is not None else False


def _origin(
    function: FunctionType,
    module: nn.Module | None,
    is_function: bool,
    state: LayerState | None,
    opaque: dict[int | str, str],
    serves: bool,
) -> LayerOrigin:
    condition = condition_of(function if module is None else module) if serves else None
    return LayerOrigin(
        reference=function if module is None else type(module),
        signature=_signature(function, module is not None),
        is_function=is_function,
        overridden=module is not None and annotated_forward(module) is None,
        condition=None if condition is None else bool(condition(function if module is None else module)),
        state=state,
        opaque=opaque,
    )


_signatures: weakref.WeakKeyDictionary[FunctionType, inspect.Signature] = weakref.WeakKeyDictionary()


def _signature(function: FunctionType, is_method: bool) -> inspect.Signature:
    """The signature without ``self``."""
    if function not in _signatures:
        signature = inspect.signature(function)
        parameters = list(signature.parameters.values())
        _signatures[function] = signature.replace(parameters=parameters[1:] if is_method else parameters)
    return _signatures[function]


def _location(function: FunctionType) -> str:
    original = inspect.unwrap(function)
    return f"{original.__code__.co_filename}:{original.__code__.co_firstlineno}"


@functools.cache
def install() -> None:
    """Have Dynamo tell us of calls, once per process. Other backends see nothing of it. Every way into the library leads here first, so
    this is where a warning says that a library's version was not tested: before anything that such a version may lack is used."""
    warn_of_untested()
    _torch.install(Brackets())


def install_early() -> None:
    """The same, where torch does not say when a backend is about to be used: before 2.15 it calls no `_dynamo_backend_init`."""
    if not _torch.INITIALIZES_BACKENDS:
        install()
