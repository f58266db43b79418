"""A kernel tried on fake tensors: can a compiler follow its Python, forward and backward?"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from .kernel_case import KernelCase, Run, Tools
from .repairs import Repairs
from .triton import Launches, call_routed


@dataclass(frozen=True)
class Trial:
    """Its result.

    Args:
        outputs: The fake outputs; None if the forward cannot be followed.
        problem: Why it cannot be followed, as a phrase.
        repairs: The inputs that it overwrites, as far as operators say so, and why its gradient is none of the layer's.
        foreign: Names of the operators that are not torch's own.
        launches: Names of the Triton kernels that it launches by itself.
    """

    outputs: tuple[Any, ...] | None
    problem: str | None = None
    repairs: Repairs = Repairs()
    foreign: tuple[str, ...] = ()
    launches: tuple[str, ...] = ()


def try_on_fakes(case: KernelCase, gradient: bool, tools: Tools) -> Trial:
    """Run the kernel on the call's example values, and its backward if it is asked for.

    Args:
        case: The kernel and the form of call.
        gradient: Whether the kernel's own backward would be used.
        tools: The private torch APIs.
    """
    launches = Launches()

    def watch(function: Callable[..., Any]) -> Any:
        return tools.watch_on_fakes(lambda *inputs: call_routed(function, inputs, launches), case.inputs)

    seen = watch(case.runner())
    repairs = Repairs(tuple(sorted(seen.written)))
    if seen.error is not None:
        return Trial(None, f"cannot be traced: {_words(seen)}", repairs, seen.foreign)
    foreign = seen.foreign
    if gradient:
        run = case.runner(repairs)
        joint = watch(lambda *inputs: _missing_gradients(case, run, inputs, tools))
        foreign = tuple(dict.fromkeys((*seen.foreign, *joint.foreign)))
        if joint.error is not None:
            return Trial(None, f"cannot be traced in its backward: {_words(joint)}", repairs, foreign)
        repairs |= Repairs(recompute=joint.result)
    return Trial(seen.result, None, repairs, foreign, tuple(dict.fromkeys(launches.names)))


def _missing_gradients(case: KernelCase, run: Run, inputs: tuple[Any, ...], tools: Tools) -> str | None:
    """Run forward and backward; return why its gradient is not a gradient of the layer."""
    found = _gradients(case, run, inputs, tools)
    if found is None:
        return "it returns a detached output"
    if isinstance(found, str):
        return found
    if all(gradient is not None for gradient in found):
        return None
    theirs = _gradients(case, case.reference_outputs, inputs, tools)
    if not isinstance(theirs, list):
        return None
    names = [case.names[n] for n, own, other in zip(case.wanted, found, theirs, strict=True) if own is None and other is not None]
    return f"it gives no gradient for {', '.join(names)}" if names else None


def _gradients(case: KernelCase, run: Run, inputs: tuple[Any, ...], tools: Tools) -> list[Any] | str | None:
    values = [value.detach() if isinstance(value, torch.Tensor) else value for value in inputs]
    leaves = [values[n].requires_grad_() for n in case.wanted]
    with torch.enable_grad():
        outputs = run(*values)
        tape = tools.Tape(outputs, leaves)
    if not all(outputs[n].requires_grad for n in case.differentiable):
        return None
    if tape.is_cut():
        return "its operators have no backward"
    incoming = [torch.empty_like(output) if n in case.differentiable else None for n, output in enumerate(outputs)]
    found: list[Any] = tape.backward(incoming)
    return found


def _words(seen: Any) -> str:
    cause = seen.error.__cause__ or seen.error
    if type(cause).__name__ == "UnsupportedOperatorException" and seen.foreign:
        return f"operator {seen.foreign[-1]} has no fake implementation"
    return f"{type(cause).__name__}: {(str(cause).strip().splitlines() or [''])[0]}"
