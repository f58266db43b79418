"""Runs a model with a hazardous kernel as a user would, and says what came out and what the report says of it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from hazard_cases import Case, first_layer_call
from kernel_repositories import repository
from tolerances import tolerance
from torch import nn

import fxkernels
from fxkernels.admission import Verify

Way = Literal["kernelize", "backend"]
Inner = Literal["eager", "inductor"]


@dataclass(frozen=True)
class Finding:
    """What a user gets.

    Args:
        wrong: What differs from the plain model, as sentences; empty if nothing does.
        status: The layer call's, in the report.
        code: Of the miss; None if the kernel runs.
        message: The miss's sentence; the notes of the probe if the kernel runs.
    """

    wrong: tuple[str, ...]
    status: str
    code: str | None
    message: str

    @property
    def verdict(self) -> str:
        """``caught``, ``repaired``, ``admitted`` (nothing was wrong), or ``missed the hazard``."""
        if self.wrong:
            return "missed the hazard"
        if self.status == "missed":
            return "caught"
        return "repaired" if "gets copies" in self.message else "admitted"


def finding(case: Case, way: Way, inner: Inner, verify: Verify = "probe") -> Finding:
    """Run a case's model plainly and with the kernel.

    Args:
        case: The case.
        way: Through which door.
        inner: The compiler behind it. `kernelize` has none of its own: with ``"inductor"`` the kernelized copy is compiled.
        verify: How much the kernel has to show.
    """
    model, x = case.make()
    expected = _observed(model, model, x)
    model, x = case.make()
    before = copy.deepcopy(model.state_dict())
    run, report_of = _kernelized(case, model, way, inner, verify)
    found = _observed(run, model, x)
    found["the parameters"] = [*model.state_dict().values()]
    expected["the parameters"] = [*before.values()]
    call = first_layer_call(report_of())
    decision = call.decisions[-1]
    miss = call.miss
    return Finding(
        tuple(_differences(found, expected, case.dtype)),
        call.status,
        miss.code if miss else None,
        miss.message if miss else decision.evidence.reason,
    )


def _kernelized(case: Case, model: nn.Module, way: Way, inner: Inner, verify: Verify) -> tuple[Callable[..., Any], Callable[[], Any]]:
    mapping: Any = {case.layer_name: {"cpu": repository(case.repository, case.layer)}}
    if way == "kernelize":
        fast: Any = fxkernels.kernelize(model, mapping=mapping, verify=verify, opaque=inner == "inductor")
        run = fast if inner == "eager" else torch.compile(fast, backend="inductor", fullgraph=True)
        return run, lambda: fast.report
    backend = fxkernels.hubkernels(inner=inner, mapping=mapping, verify=verify)
    return torch.compile(model, backend=backend, fullgraph=True), lambda: backend.report


def _observed(run: Callable[..., Any], model: nn.Module, x: torch.Tensor) -> dict[str, list[torch.Tensor]]:
    """Outputs, gradients and gradients of a second backward, of two steps."""
    seen: dict[str, list[torch.Tensor]] = {"the output": [], "the gradients": [], "the gradients of a second backward": []}
    for step in range(2):
        given = (x * (1 + step)).requires_grad_()
        output = run(given)
        seen["the output"].append(output.detach().clone())
        incoming = torch.linspace(-1, 1, output.numel()).view_as(output).to(output.dtype)
        for name in ("the gradients", "the gradients of a second backward"):
            model.zero_grad()
            wanted = [given, *model.parameters()]
            found = torch.autograd.grad(output, wanted, incoming.clone(), retain_graph=True, allow_unused=True)
            seen[name] += [torch.zeros_like(tensor) if grad is None else grad.clone() for tensor, grad in zip(wanted, found, strict=True)]
    return seen


def _differences(found: dict[str, list[torch.Tensor]], expected: dict[str, list[torch.Tensor]], dtype: torch.dtype) -> list[str]:
    wrong = []
    for name, values in expected.items():
        for ours, theirs in zip(found[name], values, strict=True):
            message = _difference(ours, theirs, None if name == "the parameters" else dtype)
            if message is not None:
                wrong.append(f"{name}: {message}")
    return wrong


def _difference(ours: torch.Tensor, theirs: torch.Tensor, dtype: torch.dtype | None) -> str | None:
    """What is different; None if nothing is beyond the rounding of a dtype, or at all if that is None."""
    if ours.dtype is not theirs.dtype or ours.shape != theirs.shape:
        return f"{ours.dtype} {tuple(ours.shape)} instead of {theirs.dtype} {tuple(theirs.shape)}"
    # A gradient is a sum over all rows, so it is measured in parts of its size.
    size = max(float(theirs.abs().max()), 1.0)
    allowed = tolerance(dtype, depth=2)["rtol"] * size if dtype is not None else 0.0
    off = float((ours.double() - theirs.double()).abs().max())
    return None if off <= allowed else f"off by {off:.2g}, at most {allowed:.2g}"
