"""The backward of one run: its gradients, and what it leaves as it was."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.autograd.graph import get_gradient_edge

from ..kernels.samples import Style, random_like
from .guarded_memory import uncleared_memory
from .oracle import Oracle
from .runner import Context, Refused, changed_positions, copies, described, leaving_everything_as_it_was, quietly, refused, synchronize
from .tolerances import compare


class Run:
    """One run of the kernel.

    Args:
        context: What it has in common with others.
        inputs: What the kernel got.
        outputs: What it returned.
        oracle: The exact results for the same inputs.
        style: What the values were like.
    """

    def __init__(self, context: Context, inputs: Sequence[Any], outputs: Sequence[torch.Tensor], oracle: Oracle, style: Style) -> None:
        self._context, self._inputs, self._outputs, self._oracle, self._style = context, inputs, outputs, oracle, style

    def is_detached(self) -> bool:
        """Whether no gradient flows through the kernel at all, although one does through the layer."""
        ours, theirs = self._outputs, self._oracle.own.outputs
        places = [n for n in self._context.computed if theirs[n].requires_grad]
        # An operator without a backward hands out an output that seems to have a gradient.
        flows = [ours[n].requires_grad and type(ours[n].grad_fn).__name__ != "WarnNotImplemented" for n in places]
        return bool(places) and not any(flows)

    def backward(self) -> None:
        """Compare the gradients for random cotangents."""
        self._backward([random_like(output, 17 + n) for n, output in enumerate(self._outputs)], "")

    def finite_backward(self) -> None:
        """Look for gradients that are not finite where the layer's are."""
        places, context = self._places(), self._context
        given = [random_like(output, 17 + n) for n, output in enumerate(self._outputs)]
        found = self._gradients_of([self._outputs[place] for place in places], [given[place] for place in places], "")
        theirs = self._oracle.own.gradients([tensor if n in places else None for n, tensor in enumerate(given)])
        for position, ours, wanted in zip(context.wanted, found, theirs, strict=True):
            if ours is not None and wanted is not None and bool((wanted.isfinite() & ~ours.isfinite()).any()):
                name = context.case.names[position]
                raise refused("gradient", "its gradient of {name} is not finite, for {values} values", name=name, values=self._style.name)

    def several_backwards(self) -> None:
        """Compare the gradients for one cotangent after the other, through one forward."""
        given = [random_like(output, 17 + n) for n, output in enumerate(self._outputs)]
        self._backward(given, "")
        self._backward(copies(given), "in a second backward, ")
        ones = [torch.ones((), dtype=output.dtype, device=output.device).expand_as(output) for output in self._outputs]
        self._backward(ones, "for an expanded incoming gradient, ")
        self._backward(
            [tensor[:1].expand_as(tensor) if tensor.dim() else tensor for tensor in given], "for an expanded incoming gradient, "
        )
        if not all(tensor.is_contiguous() for tensor in given):
            self._backward([tensor.contiguous() for tensor in given], "for a contiguous incoming gradient, ")
        self._backward([_transposed(tensor) for tensor in given], "for a strided incoming gradient, ")
        self._backward([_within_larger(tensor) for tensor in given], "for an incoming gradient that is part of a larger tensor, ")
        for factor in (_LOSS_SCALE, 1 / _LOSS_SCALE):  # a gradient is linear in the incoming one
            self._backward([tensor * factor for tensor in given], f"for an incoming gradient of size {factor:g}, ")
        if len(self._context.computed) > 1:
            for number in self._context.computed:
                alone = [tensor if n == number else None for n, tensor in enumerate(given)]
                self._backward(alone, f"where only output {number} is used, ")

    def backward_among_others(self) -> None:
        """Compare the gradients where outputs have two readers, and are added to what they came from; other inputs are read as well."""
        context, outputs, places = self._context, self._outputs, self._places()
        factors = [[random_like(output, seed + n) for n, output in enumerate(outputs)] for seed in (23, 29)]
        results = [outputs[place] * factors[0][place] + outputs[place] * factors[1][place] for place in places]
        given = [torch.ones_like(result) for result in results]
        total: list[torch.Tensor | None] = [None] * len(outputs)
        for place in places:
            total[place] = factors[0][place].double() + factors[1][place].double()
        added: dict[int, torch.Tensor] = {}
        for number, position in enumerate(context.wanted):
            alike = [place for place in places if _alike(self._inputs[position], outputs[place])]
            added[number] = random_like(self._inputs[position], 31 + number)
            given.append(added[number])
            if not alike:
                results.append(self._inputs[position] * 1)
                continue
            place = alike[0]
            results.append(self._inputs[position] + outputs[place])
            total[place] = total[place] + added[number].double()  # type: ignore[operator]
        found = self._gradients_of(results, given, "among other readers, ")
        self._compare_gradients(found, total, "among other readers, ", added)

    def backward_after_writes(self, *, inputs: bool) -> None:
        """Compare the gradients where inputs or outputs of the call are written to before its backward.

        Only if the layer bears that. If autograd notices, and raises, it is as good.
        """
        given: list[torch.Tensor | None] = [random_like(output, 17 + n) for n, output in enumerate(self._outputs)]
        arguments = self._context.arguments
        if not self._oracle.bears_writes(given, arguments if inputs else None):
            return
        places = self._places()
        results, cotangents = [self._outputs[place] for place in places], [given[place] for place in places]
        edges = [get_gradient_edge(self._inputs[n]) for n in self._context.wanted]  # a view that was written to gets another
        for tensor in [self._inputs[n] for n in arguments] if inputs else self._outputs:
            tensor.detach().zero_()
        try:
            with quietly():
                found = torch.autograd.grad(results, edges, cotangents, allow_unused=True)
        except RuntimeError:
            return
        used = [tensor if place in places else None for place, tensor in enumerate(given)]
        self._compare_gradients(found, used, f"after a later write to its {'inputs' if inputs else 'outputs'}, ", {})

    def _backward(self, given: Sequence[torch.Tensor | None], when: str) -> None:
        places = [place for place in self._places() if given[place] is not None]
        if not places:
            return
        cotangents: list[Any] = [given[place] for place in places]
        found = self._gradients_of([self._outputs[place] for place in places], cotangents, when)
        used = [tensor if place in places else None for place, tensor in enumerate(given)]
        self._compare_gradients(found, used, when, {})

    def _places(self) -> list[int]:
        """The outputs through which the layer lets a gradient flow."""
        theirs = self._oracle.outputs
        places = [n for n in self._context.computed if theirs[n].requires_grad]
        for place in places:
            if not self._outputs[place].requires_grad:
                raise refused("gradient", "output {place} is detached, and the layer's is not", place=place)
        return places

    def _gradients_of(self, results: list[torch.Tensor], given: list[torch.Tensor], when: str) -> Sequence[torch.Tensor | None]:
        """The gradients of the wanted inputs. What the backward had no business to change is looked at."""
        context = self._context
        before = [copies(values) for values in (given, self._inputs, self._outputs)]
        wanted = [self._inputs[n] for n in context.wanted]
        try:
            with quietly(), leaving_everything_as_it_was("its backward"), uncleared_memory(context.case.device):
                found = list(torch.autograd.grad(results, wanted, given, retain_graph=True, allow_unused=True))
                synchronize(context.case.device)
        except (torch.OutOfMemoryError, Refused):
            raise
        except Exception as error:  # whatever a kernel raises
            raise refused("gradient", "{when}its backward raises {error}", when=when, error=described(error)) from error
        changed = [changed_positions(*pair) for pair in zip(before, (given, self._inputs, self._outputs), strict=True)]
        if changed[0]:
            raise refused("gradient", "its backward overwrites the incoming gradient")
        if changed[1]:
            raise refused("gradient", "its backward overwrites {name}", name=context.case.names[changed[1][0]])
        if changed[2]:
            raise refused("gradient", "its backward overwrites output {number}", number=changed[2][0])
        for position, tensor in zip(context.wanted, wanted, strict=True):
            if tensor.is_leaf and tensor.grad is not None:
                raise refused("gradient", "its backward writes {name}.grad", name=context.case.names[position])
        context.check_kept()
        context.keep(found, "an earlier gradient of {name}", [context.case.names[n] for n in context.wanted])
        return found

    def _compare_gradients(
        self, found: Sequence[torch.Tensor | None], given: Sequence[torch.Tensor | None], when: str, added: dict[int, torch.Tensor]
    ) -> None:
        context = self._context
        exact = self._oracle.gradients(given)
        for number, (position, ours) in enumerate(zip(context.wanted, found, strict=True)):
            name, theirs = context.case.names[position], exact[number]
            extra = added.get(number)
            zero = torch.zeros_like(self._inputs[position], dtype=torch.float64)
            wanted = (zero if theirs is None else theirs) + (0 if extra is None else extra)
            if ours is None:
                if bool(wanted.any()):
                    raise refused("gradient", "{when}it gives no gradient for {name}", when=when, name=name)
                continue

            def of_layer(number: int = number, extra: Any = 0 if extra is None else extra, zero: torch.Tensor = zero) -> list[torch.Tensor]:
                found = self._oracle.gradient_of_layer(number, given)
                return [(zero if tensor is None else tensor) + extra for tensor in found]

            comparison = compare(ours, wanted, context.bounds(ours.dtype), of_layer)
            context.evidence.compared(f"gradient of {name}", comparison, self._style.name)
            if not comparison.agrees:
                data = {"error": comparison.error, "tolerance": comparison.tolerance, "values": self._style.name, "by": comparison.by}
                template = "{when}its gradient of {name} is off by {error:.2g} of the exact one ({by}), " + _MAY_BE
                raise refused("gradient", template, when=when, name=name, **data)


_MAY_BE = "and may be by {tolerance:.2g}, for {values} values"


def _alike(one: Any, other: torch.Tensor) -> bool:
    return isinstance(one, torch.Tensor) and one.shape == other.shape and one.dtype is other.dtype


_LOSS_SCALE = 4096.0


def _within_larger(tensor: torch.Tensor) -> torch.Tensor:
    """The same values in the middle of others: their rows lie apart, and do not begin where their storage does."""
    size = tensor.shape[-1] if tensor.dim() else 1
    around = random_like(tensor.new_empty((*tensor.shape[:-1], 3 * size)), 37)
    part = around[..., size : 2 * size]
    part.copy_(tensor.unsqueeze(-1) if not tensor.dim() else tensor)
    return part.view(tensor.shape) if not tensor.dim() else part


def _transposed(tensor: torch.Tensor | None) -> torch.Tensor:
    """The same values, with the dimensions the other way round in memory, or with gaps if there is but one."""
    assert tensor is not None
    if tensor.dim() < 2:
        return torch.stack((tensor, tensor), -1)[..., 0]
    order = list(range(tensor.dim()))[::-1]
    return tensor.permute(order).contiguous().permute(order)
