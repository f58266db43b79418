"""Decides the calls of a symbolically kernelized model when they happen: only then it is known what they are called with.

Each form of call is captured once, by itself, on fake tensors, as Dynamo would capture it in a model; so it goes through the same gates as
every other call. Dynamo's own guards say for which further calls the answer holds, whichever layer of the class they are of.
"""

from __future__ import annotations

import copy
import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import fx, nn

from .backend import HubKernels, Session, check_fallback
from .candidates import Chooser, Request
from .capture import _torch, dynamo
from .capture.call_gate import Ruling
from .capture.kernel_forward import path_of
from .capture.rewritten_layer import without_rewriting
from .capture.tensor_tree import tensors_in, with_tensors
from .errors import FxKernelsError
from .fuel import Fuel
from .options import Options
from .passes.layer_call import LayerCall
from .passes.miss import Miss
from .passes.plan import Decision
from .report.model import CallReport, GraphDecision, Report
from .report.recorder import graph_decision

_log = logging.getLogger("fxkernels")


@dataclass(frozen=True, slots=True, eq=False)
class _Answer:
    """What was decided about a captured call: what the report says of it, and what runs."""

    decision: GraphDecision
    ruling: Ruling


class _Answered(Exception):
    """Ends the captured call before anything of it runs."""

    def __init__(self, answer: _Answer) -> None:
        super().__init__()
        self.answer = answer


class _Asking(HubKernels):
    """The backend of calls that are captured by themselves: decides, and raises the answer when the call is run."""

    entries: Sequence[tuple[LayerCall, Decision]] = ()

    def __init__(self, options: Options, chooser: Chooser) -> None:
        # What depends on dynamic sizes is a guard, whatever was asked for: the sizes of each call are known here.
        # Fuel was spent when the model was planned: by a call, which a captured layer does not know of itself.
        options = replace(options, inner=self._answering, on_depends="guard", fuel=None, calls=None)
        super().__init__(options, Session(chooser=replace(chooser, fuel=Fuel())))

    def request(self, mode: str | None = None) -> Request:
        return replace(super().request(mode), compiled=False)

    def conclude(self, gm: fx.GraphModule, entries: list[tuple[LayerCall, Decision]]) -> None:
        self.entries = entries

    def _answering(self, gm: fx.GraphModule, example_inputs: list[Any]) -> Callable[..., Any]:
        answer = _answer(self.entries)
        self.entries = ()

        def run(*inputs: Any) -> Any:
            raise _Answered(answer)

        return run


def _answer(entries: Sequence[tuple[LayerCall, Decision]]) -> _Answer:
    outermost = next((entry for entry in entries if entry[0].parent is None), None)
    if outermost is None:
        return _missed("not_captured", "Dynamo captures no operation of it")
    call, decision = outermost
    ruling = Ruling(None)
    if decision.replacement is not None:
        target: Any = decision.replacement.target
        ruling = Ruling(decision.kernel, target.recomputes, target.copied, tuple(target.orders.items()))
    return _Answer(graph_decision(call.site, decision, 0), ruling)


def _missed(code: str, message: str, **data: Any) -> _Answer:
    return _Answer(GraphDecision(0, "missed", misses=(Miss(code, message, data),)), Ruling(None))


class Gatekeeper:
    """Decides the calls of one model's rewritten layers, and tells its report. A copy or an unpickled one decides anew.

    Args:
        options: What the user asked for.
        planned: The report of the model before any of its layers was called.
        chooser: What is known of kernels already.
    """

    def __init__(self, options: Options, planned: Report | None = None, chooser: Chooser | None = None) -> None:
        self._options = options
        self._planned = self.report = Report(pending=True, capture="symbolic") if planned is None else planned
        self._chooser = chooser if chooser is not None else options.chooser()
        self.only_decides = False
        self._lock = threading.RLock()
        self._asking: _Asking | None = None
        self._backend: HubKernels | None = None
        self._functions: dict[Any, Callable[..., Any]] = {}
        self._seen: set[str] = set()
        dynamo.install()  # somebody may compile the model before anything is decided here

    @property
    def backend(self) -> HubKernels:
        """The backend that decides calls where somebody compiles the model. Its captures come after the planned decisions in the report."""
        with self._lock:
            if self._backend is None:
                self._backend = HubKernels(self._options, Session(chooser=self._chooser))
                self._backend.session.recorder.listeners.append(self._show_captured)
            return self._backend

    def plan(self, report: Report) -> None:
        """Take the report of what is planned."""
        self.report = self._planned = report

    def decide(self, keys: tuple[str, ...], layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Ruling:
        """Return what runs for calls like this one, and show it in the report.

        Raises:
            NoKernelError, RepositoryError: If the original layer would run and `use_fallback` does not permit that.
        """
        with self._lock:
            answer = self._ask(layer, args, kwargs)
            self._show(keys, answer.decision)
        decision = answer.decision
        if decision.status == "missed":
            names = {call.key: call.layer_name for call in self._planned.calls}
            check_fallback(self._options.use_fallback, [(key, names.get(key, ""), decision.misses) for key in keys])
        return answer.ruling

    def decide_for(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Decide all calls that happen when the model is called with these arguments. No kernel runs, and nothing is computed.

        Raises:
            Exception: What the model raises, and as `decide`.
        """
        given = tensors_in((args, kwargs))
        self.only_decides = True
        try:
            with _torch.by_itself(), (mode := _torch.fake_mode()):
                args, kwargs = with_tensors((args, kwargs), _torch.fakes_of(mode, given))
                module(*args, **kwargs)
        finally:
            self.only_decides = False

    # --- asking ---------------------------------------------------------------------------------------------------------------------------

    def _ask(self, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> _Answer:
        plain = without_rewriting(layer)
        if self._asking is None:
            self._asking = _Asking(self._options, self._chooser)
        self._asking.paths.put(plain, path_of(layer) or "")
        cls = getattr(plain, "function", type(plain))
        if cls not in self._functions:
            self._functions[cls] = _torch.compiled_alone(f"call_{cls.__qualname__}", self._asking)
        try:
            with _torch.by_itself():
                args, kwargs = _on_fakes(plain, args, kwargs)
                self._functions[cls](plain, args, kwargs)
        except _Answered as answered:
            return answered.answer
        except Exception as error:
            cause = _torch.cause_of(error)
            if isinstance(cause, FxKernelsError):
                raise cause from cause.__cause__
            line = next(iter(str(cause).strip().splitlines()), "")
            return _missed("not_captured", "it cannot be captured by itself: {kind}: {line}", kind=type(cause).__name__, line=line)
        return _missed("not_captured", "Dynamo is switched off, so nothing is known of it")

    # --- telling --------------------------------------------------------------------------------------------------------------------------

    def _show(self, keys: tuple[str, ...], decision: GraphDecision) -> None:
        self._warn(keys, decision)
        calls = [_decided(call, decision) if call.key in keys else _no_more_covered(call, keys, decision) for call in self.report.calls]
        self.report = replace(self.report, calls=tuple(calls))

    def _show_captured(self, report: Report) -> None:
        """Take in what was captured while somebody compiled the model."""
        found = {call.key: call for call in report.calls if call.decisions[0].graph >= 0}
        calls = [_captured_too(call, found.get(call.key)) for call in self.report.calls]
        self.report = replace(self.report, calls=tuple(calls), graphs=(*self._planned.graphs, *report.graphs))

    def _warn(self, keys: tuple[str, ...], decision: GraphDecision) -> None:
        if decision.status != "missed" or not decision.misses:
            return
        for key in keys:
            said = f"{key} keeps its original layer: {decision.misses[0]}"
            if said not in self._seen:
                self._seen.add(said)
                _log.warning("%s", said)

    def __deepcopy__(self, memo: dict[int, Any]) -> Gatekeeper:
        return Gatekeeper(copy.deepcopy(self._options, memo), self._planned)

    def __reduce__(self) -> tuple[Any, ...]:
        return Gatekeeper, (self._options, self._planned)


def _decided(call: CallReport, decision: GraphDecision) -> CallReport:
    """The call with a decision that was made when it happened, in the place of what was planned for the same training flag."""
    others = [old for old in call.decisions if old != decision and (old.gates or old.training not in (None, decision.training))]
    return replace(call, decisions=(*others, decision))


def _no_more_covered(call: CallReport, keys: tuple[str, ...], decision: GraphDecision) -> CallReport:
    """A call inside of one that was to run a kernel, and does not: its layer is a part of an original, of which there is no graph."""
    inside = call.miss is not None and call.status == "covered" and call.miss.data.get("key") in keys
    if not inside or decision.status == "rewritten":
        return call
    key = next(iter(keys))
    miss = Miss("covered", "it happens inside {key}, which keeps its original; capture='dynamo' gives it a turn", {"key": key})
    return replace(call, decisions=(GraphDecision(0, "missed", misses=(miss,)),))


def _captured_too(call: CallReport, captured: CallReport | None) -> CallReport:
    if captured is None:
        return call
    own = [each for each in call.decisions if each.graph == 0 and (each.gates or each.status != "rewritten")]
    return replace(call, decisions=(*own, *[replace(each, graph=each.graph + 1) for each in captured.decisions]))


def _on_fakes(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments, and the tensors of the module, as fake ones. The module is a clone: its dictionaries become its own."""
    stores = [(part, name, dict(vars(part)[name])) for part in module.modules() for name in ("_parameters", "_buffers")]
    own = [tensor for _, _, store in stores for tensor in store.values() if tensor is not None]
    given = tensors_in((args, kwargs))
    fakes = iter(_torch.fakes_of(_torch.fake_mode(), [*given, *own]))
    args, kwargs = with_tensors((args, kwargs), [next(fakes) for _ in given])
    for part, name, store in stores:
        vars(part)[name] = {key: next(fakes) if tensor is not None else None for key, tensor in store.items()}
    return args, kwargs
