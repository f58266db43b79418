"""A tuned plan: a file that says for each layer call which kernel runs, measured end to end, to be committed and reviewed."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from ..cache_directory import write_atomically
from .benchmark import Inner
from .results import device_name, versions_of_compilers

FORMAT = 2
"""Raised when a plan says something else than before."""

_KIND = "fxkernels tuned plan"


@dataclass(frozen=True, slots=True)
class PlannedCalls:
    """What a plan says of calls that are alike.

    Args:
        calls: Their keys, e.g. ``model.layers.3.norm#0``.
        layer_name: Their annotation's name.
        training: Whether the layers are in training mode.
        inputs: What goes in, e.g. ``hidden_states: bf16[2, 8, 64]``, for reviewers of the plan.
        form: The key of their form, see `kernels.call_form.key_in_plans`.
        kernel: The repository and layer that runs, e.g. ``acme/norms:RMSNorm``; None leaves the calls to the compiler.
        state: The kernel's commit, or a hash of its build where there is none.
        why: What was measured, or why no kernel fits, for reviewers of the plan.
    """

    calls: tuple[str, ...]
    layer_name: str
    training: bool
    inputs: tuple[str, ...]
    form: str
    kernel: str | None = None
    state: str | None = None
    why: str = ""


@dataclass(frozen=True)
class TunedPlan:
    """Which kernel runs where, and what that was measured on.

    Args:
        model: Name of the model's class.
        device: The kind of device, e.g. ``NVIDIA H200``.
        versions: Of the libraries on which times depend.
        inner: The inner compiler with its mode.
        calls: What is said of the calls.
        milliseconds: Of a whole step: ``compiler``, without kernels, and ``plan``, measured in turns.
        source: What messages call it: the name of its file.
    """

    model: str
    device: str
    versions: Mapping[str, str]
    inner: str
    calls: tuple[PlannedCalls, ...]
    milliseconds: Mapping[str, float] = field(default_factory=dict)
    source: str = "the plan"

    @staticmethod
    def on(device: torch.device, inner: Inner, model: str, calls: Iterable[PlannedCalls]) -> TunedPlan:
        """Return a plan for this machine."""
        return TunedPlan(model, device_name(device), versions_of_compilers(), str(inner), tuple(calls))

    def misfit(self, device: torch.device, inner: Inner) -> str:
        """Return why the plan is not for this machine and compiler, as a sentence; empty if it is."""
        here = {"device": device_name(device), "inner compiler": str(inner), **versions_of_compilers()}
        measured = {"device": self.device, "inner compiler": self.inner, **self.versions}
        other = [f"{what} {was}, here it is {here.get(what)}" for what, was in measured.items() if here.get(what) != was]
        return f"{self.source} was measured with {'; '.join(other)}: tune again, until then no kernel runs" if other else ""

    def entry_for(self, key: str, form: str) -> PlannedCalls | None:
        """Return what the plan says of a call; None if it does not know it.

        Args:
            key: The call, e.g. ``model.layers.3.norm#0``.
            form: The key of its form.
        """
        return next((entry for entry in self._by_call.get(key, ()) if entry.form == form), None)

    def unknown(self, key: str, layer_name: str, training: bool, inputs: tuple[str, ...]) -> str:
        """Return the sentence that says of a call, and what it is called with, that the plan does not know it."""
        planned = self._by_call.get(key, ())
        mode = "training" if training else "eval"
        known = "; ".join(f"({', '.join(entry.inputs)}) in {'training' if entry.training else 'eval'} mode" for entry in planned)
        had = f"only with {known}" if known else "a call of that path with nothing"
        return f"{self.source} does not know {layer_name} with ({', '.join(inputs)}) in {mode} mode, {had}: tune again with such inputs"

    @cached_property
    def _by_call(self) -> dict[str, list[PlannedCalls]]:
        found: dict[str, list[PlannedCalls]] = {}
        for entry in self.calls:
            for key in entry.calls:
                found.setdefault(key, []).append(entry)
        return found

    def write(self, path: Path) -> None:
        """Write it to a file, in the place of what was there.

        Raises:
            OSError: If it cannot be written.
        """
        content = {
            "what": _KIND,
            "format": FORMAT,
            "model": self.model,
            "device": self.device,
            "versions": dict(self.versions),
            "inner": self.inner,
            "milliseconds": {name: round(value, 4) for name, value in self.milliseconds.items()},
            "calls": [_as_dict(entry) for entry in self.calls],
        }
        write_atomically(path, json.dumps(content, indent=2) + "\n")

    @staticmethod
    def read(path: str | Path) -> TunedPlan:
        """Return the plan in a file.

        Raises:
            ValueError: If there is none that can be read, saying why.
        """
        where, hint = Path(path), "`fxkernels tune TARGET -o FILE` writes one"
        try:
            content = json.loads(where.read_text())
        except OSError as error:
            raise ValueError(f"the plan {where} cannot be read: {error.strerror}; {hint}") from error
        except ValueError as error:
            raise ValueError(f"{where} is no plan: it is not JSON ({error}); {hint}") from error
        if not isinstance(content, dict) or content.get("what") != _KIND:
            what = "a report" if isinstance(content, dict) and "schema" in content else "something else"
            raise ValueError(f"{where} is {what}, not a tuned plan; {hint}")
        if content.get("format") != FORMAT:
            raise ValueError(f"{where} has format {content.get('format')!r}, this version reads {FORMAT}: tune again")
        try:
            calls = tuple(_entry(row) for row in content["calls"])
            model, device, inner = (str(content[name]) for name in ("model", "device", "inner"))
            return TunedPlan(model, device, dict(content["versions"]), inner, calls, dict(content["milliseconds"]), where.name)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{where} is damaged: {error!r}; tune again") from error


def plan_of(value: str | Path | TunedPlan) -> TunedPlan:
    """Return the plan that a user's value stands for.

    Raises:
        TypeError: If it is neither a plan nor a path.
        ValueError: If there is no plan at the path.
    """
    if isinstance(value, TunedPlan):
        return value
    if not isinstance(value, str | Path):
        raise TypeError(f"plan= is the path of a file that `fxkernels tune` has written, not {value!r}")
    return TunedPlan.read(value)


def _as_dict(entry: PlannedCalls) -> dict[str, Any]:
    kernel = {"kernel": entry.kernel, "state": entry.state} if entry.kernel is not None else {"kernel": None}
    mode = "training" if entry.training else "eval"
    row = {
        "layer_name": entry.layer_name,
        **kernel,
        "why": entry.why,
        "mode": mode,
        "inputs": list(entry.inputs),
        "form": entry.form,
        "calls": list(entry.calls),
    }
    return row


def _entry(row: Mapping[str, Any]) -> PlannedCalls:
    if row["mode"] not in ("training", "eval"):
        raise TypeError(f"mode {row['mode']!r}")
    kernel, state = (None, None) if row["kernel"] is None else (str(row["kernel"]), str(row["state"]))
    calls, inputs = tuple(map(str, row["calls"])), tuple(map(str, row["inputs"]))
    return PlannedCalls(calls, str(row["layer_name"]), row["mode"] == "training", inputs, str(row["form"]), kernel, state, str(row["why"]))
