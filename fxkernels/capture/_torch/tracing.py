"""An observer of the frames and calls that Dynamo traces, and what can be read of such a frame."""

from __future__ import annotations

import functools
import logging
import threading
from collections.abc import Callable, Iterator
from types import CellType, FunctionType
from typing import Any, Protocol

from torch import fx
from torch._dynamo import variables as vt
from torch._dynamo.source import LocalSource
from torch._dynamo.symbolic_convert import InliningInstructionTranslator, InstructionTranslator

from .compiling import note_recompile_limit
from .missing_api import explains_missing_api, is_missing_api, missing_api_message
from .variables import Frame, Variable


class Observer(Protocol):
    """Is called when Dynamo begins and ends to trace a frame."""

    def frame_begins(self, frame: Frame) -> Any:
        """A frame is compiled on its own; what is returned goes to `frame_ends`."""

    def frame_ends(self, frame: Frame, token: Any, result: Variable) -> None:
        """That frame returns a value, its graph being complete."""

    def call_begins(self, frame: Frame, function: FunctionType, args: list[Variable], kwargs: dict[str, Variable]) -> Any:
        """A call is about to be inlined; None: `call_ends` is not called for it."""

    def call_ends(self, frame: Frame, token: Any, result: Variable | None) -> None:
        """That call was inlined; None if it raised or broke the graph."""


class _Cautious:
    """Calls an observer until torch turns out to lack an API that it uses; from then on models run without kernels."""

    def __init__(self, observer: Observer) -> None:
        self._observer = observer
        self._gone = False

    def frame_begins(self, frame: Frame) -> Any:
        return self._ask(self._observer.frame_begins, frame)

    def frame_ends(self, frame: Frame, token: Any, result: Variable) -> None:
        self._ask(self._observer.frame_ends, frame, token, result)

    def call_begins(self, frame: Frame, function: FunctionType, args: list[Variable], kwargs: dict[str, Variable]) -> Any:
        return self._ask(self._observer.call_begins, frame, function, args, kwargs)

    def call_ends(self, frame: Frame, token: Any, result: Variable | None) -> None:
        self._ask(self._observer.call_ends, frame, token, result)

    def _ask(self, question: Callable[..., Any], *about: Any) -> Any:
        if self._gone:
            return None
        try:
            return question(*about)
        except (AttributeError, ImportError) as error:
            if not is_missing_api(error):
                raise
            self._gone = True
            _log.warning("models run without kernels: %s", missing_api_message(error))
            return None


_log = logging.getLogger("fxkernels")
_install_lock = threading.Lock()


@functools.cache
def install(observer: Observer) -> None:
    """Call the observer for frames and inlined calls. Done once per process; frames of other backends pass through unchanged.

    Wraps `InliningInstructionTranslator.inline_call`, `InstructionTranslator.run` and `InstructionTranslator._return`.
    """
    with explains_missing_api(), _install_lock:
        observer = _Cautious(observer)
        _wrap_inline_call(observer)
        _wrap_root_frame(observer)
        logging.getLogger("torch._dynamo.convert_frame").addFilter(note_recompile_limit)


def _wrap_inline_call(observer: Observer) -> None:
    original: Any = InliningInstructionTranslator.inline_call.__func__  # type: ignore[attr-defined]

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


def set_backend(frame: Frame, backend: Any) -> None:
    """Let another backend compile this frame, and only this one."""
    frame.output.compiler_fn = backend


def current_backend(frame: Frame) -> Any:
    """Return the backend of the frame as Dynamo will call it."""
    return frame.output.compiler_fn


def frame_code(frame: Frame) -> Any:
    """Return the code object that the frame runs."""
    return frame.f_code


def frame_closure(frame: Frame) -> tuple[CellType, ...]:
    """Return the closure of the function that the compiled frame runs. Looking into its cells installs no guard."""
    return tuple(frame.closure or ())


def frame_and_callers(frame: Frame) -> Iterator[Frame]:
    """Yield the frame and those that called it, up to the one that is compiled."""
    while frame is not None:
        yield frame
        frame = getattr(frame, "parent", None)


def local_variable(frame: Frame, name: str) -> Variable | None:
    """Return one of the frame's local variables, also if an inner function has closed over it; None if it has no value."""
    variable = frame.symbolic_locals.get(name)
    if variable is None and getattr(frame, "parent", None) is None and name in frame.f_locals:
        # torch 2.14 forgets the arguments that the compiled frame never reads
        return vt.LazyVariableTracker.create(frame.f_locals[name], LocalSource(name, is_input=True))
    if type(variable) is not vt.CellVariable:  # isinstance() would look behind a lazy variable, and so install guards
        return variable
    if variable.pre_existing_contents is None and not frame.output.side_effects.has_pending_mutation_of_attr(variable, "cell_contents"):
        return None
    return frame.output.side_effects.load_cell(variable)


def module_stack(frame: Frame) -> tuple[tuple[str, type], ...]:
    """Return Dynamo's names for the modules whose forward is being traced, and their classes, outermost first."""
    return tuple(frame.nn_module_stack.values())


def add_marker(frame: Frame, marker: Callable[..., None], args: tuple[Any, ...]) -> fx.Node:
    """Append a marker node to the graph that is being traced; graph values of outer graphs are lifted into it."""
    node: fx.Node = frame.output.create_proxy("call_function", marker, args, {}).node
    return node
