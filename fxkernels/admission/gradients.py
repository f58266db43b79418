"""The backward of one run: its gradients, and what it leaves as it was."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from .running import changed_positions, copies, described, quietly, refused, synchronize
from .samples import Style, random_like
from .tolerances import compare
from .truth import Truth

if TYPE_CHECKING:
    from .rounds import Rounds


class Run:
    """One run of the kernel.

    Args:
        rounds: The runs that it is one of.
        inputs: What the kernel got.
        outputs: What it returned.
        truth: The exact results for the same inputs.
        style: What the values were like.
    """

    def __init__(self, rounds: Rounds, inputs: Sequence[Any], outputs: Sequence[torch.Tensor], truth: Truth, style: Style) -> None:
        self._rounds, self._inputs, self._outputs, self._truth, self._style = rounds, inputs, outputs, truth, style

    def is_detached(self) -> bool:
        """Whether no gradient flows through the kernel at all, although one does through the layer."""
        ours, theirs = self._outputs, self._truth.own.outputs
        places = [n for n in self._rounds.computed if theirs[n].requires_grad]
        # An operator without a backward hands out an output that seems to have a gradient.
        flows = [ours[n].requires_grad and type(ours[n].grad_fn).__name__ != "WarnNotImplemented" for n in places]
        return bool(places) and not any(flows)

    def backward(self) -> None:
        """Compare the gradients for random cotangents."""
        self._backward([random_like(output, 17 + n) for n, output in enumerate(self._outputs)], "")

    def finite_backward(self) -> None:
        """Look for gradients that are not finite where the layer's are."""
        places, rounds = self._places(), self._rounds
        given = [random_like(output, 17 + n) for n, output in enumerate(self._outputs)]
        found = self._gradients_of([self._outputs[place] for place in places], [given[place] for place in places], "")
        theirs = self._truth.own.gradients([tensor if n in places else None for n, tensor in enumerate(given)])
        for position, ours, wanted in zip(rounds.wanted, found, theirs, strict=True):
            if ours is not None and wanted is not None and bool((wanted.isfinite() & ~ours.isfinite()).any()):
                name = rounds.request.names[position]
                raise refused("gradient", "its gradient of {name} is not finite, for {values} values", name=name, values=self._style.name)

    def several_backwards(self) -> None:
        """Compare the gradients for one cotangent after the other, through one forward."""
        given = [random_like(output, 17 + n) for n, output in enumerate(self._outputs)]
        self._backward(given, "")
        self._backward(copies(given), "in a second backward, ")
        ones = [torch.ones((), dtype=output.dtype, device=output.device).expand_as(output) for output in self._outputs]
        self._backward(ones, "for an expanded incoming gradient, ")
        self._backward([_transposed(tensor) for tensor in given], "for a strided incoming gradient, ")
        if len(self._rounds.computed) > 1:
            for number in self._rounds.computed:
                alone = [tensor if n == number else None for n, tensor in enumerate(given)]
                self._backward(alone, f"where only output {number} is used, ")

    def backward_among_others(self) -> None:
        """Compare the gradients where the outputs have two readers, and the first of them is added to what it came from."""
        rounds, outputs, places = self._rounds, self._outputs, self._places()
        factors = [[random_like(output, seed + n) for n, output in enumerate(outputs)] for seed in (23, 29)]
        results = [outputs[place] * factors[0][place] + outputs[place] * factors[1][place] for place in places]
        given = [torch.ones_like(result) for result in results]
        total: list[torch.Tensor | None] = [None] * len(outputs)
        for place in places:
            total[place] = factors[0][place].double() + factors[1][place].double()
        added: dict[int, torch.Tensor] = {}
        pairs = [
            (number, n, place) for number, n in enumerate(rounds.wanted) for place in places if _alike(self._inputs[n], outputs[place])
        ]
        if pairs:
            number, position, place = pairs[0]
            added[number] = random_like(outputs[place], 31)
            results.append(self._inputs[position] + outputs[place])
            given.append(added[number])
            total[place] = total[place] + added[number].double()  # type: ignore[operator]
        found = self._gradients_of(results, given, "among other readers, ")
        self._compare_gradients(found, total, "among other readers, ", added)

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
        theirs = self._truth.outputs
        places = [n for n in self._rounds.computed if theirs[n].requires_grad]
        for place in places:
            if not self._outputs[place].requires_grad:
                raise refused("gradient", "output {place} is detached, and the layer's is not", place=place)
        return places

    def _gradients_of(self, results: list[torch.Tensor], given: list[torch.Tensor], when: str) -> Sequence[torch.Tensor | None]:
        """The gradients of the wanted inputs. What the backward had no business to change is looked at."""
        rounds = self._rounds
        before = [copies(values) for values in (given, self._inputs, self._outputs)]
        wanted = [self._inputs[n] for n in rounds.wanted]
        try:
            with quietly():
                found = list(torch.autograd.grad(results, wanted, given, retain_graph=True, allow_unused=True))
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # whatever a kernel raises
            raise refused("gradient", "{when}its backward raises {error}", when=when, error=described(error)) from error
        synchronize(rounds.request.device)
        changed = [changed_positions(*pair) for pair in zip(before, (given, self._inputs, self._outputs), strict=True)]
        if changed[0]:
            raise refused("gradient", "its backward overwrites the incoming gradient")
        if changed[1]:
            raise refused("gradient", "its backward overwrites {name}", name=rounds.request.names[changed[1][0]])
        if changed[2]:
            raise refused("gradient", "its backward overwrites output {number}", number=changed[2][0])
        rounds.check_earlier()
        return found

    def _compare_gradients(
        self, found: Sequence[torch.Tensor | None], given: Sequence[torch.Tensor | None], when: str, added: dict[int, torch.Tensor]
    ) -> None:
        rounds = self._rounds
        exact = self._truth.gradients(given)
        for number, (position, ours) in enumerate(zip(rounds.wanted, found, strict=True)):
            name, theirs = rounds.request.names[position], exact[number]
            extra = added.get(number)
            if theirs is None and extra is None:
                continue  # the layer does not use it; what the kernel says of it is zero, or a bug that the next line sees
            zero = torch.zeros_like(self._inputs[position], dtype=torch.float64)
            wanted = (zero if theirs is None else theirs) + (0 if extra is None else extra)
            if ours is None:
                if bool(wanted.any()):
                    raise refused("gradient", "{when}it gives no gradient for {name}", when=when, name=name)
                continue

            def of_layer(number: int = number, extra: torch.Tensor | None = extra) -> list[torch.Tensor]:
                return [tensor + (0 if extra is None else extra) for tensor in self._truth.gradient_of_layer(number, given)]

            comparison = compare(ours, wanted, rounds.bounds(ours.dtype), of_layer)
            rounds.evidence.compared(f"gradient of {name}", comparison, self._style.name)
            if not comparison.agrees:
                data = {"error": comparison.error, "tolerance": comparison.tolerance, "values": self._style.name, "by": comparison.by}
                template = "{when}its gradient of {name} is off by {error:.2g} of the exact one ({by}), " + _MAY_BE
                raise refused("gradient", template, when=when, name=name, **data)


_MAY_BE = "and may be by {tolerance:.2g}, for {values} values"


def _alike(one: Any, other: torch.Tensor) -> bool:
    return isinstance(one, torch.Tensor) and one.shape == other.shape and one.dtype is other.dtype


def _transposed(tensor: torch.Tensor | None) -> torch.Tensor:
    """The same values, with the dimensions the other way round in memory, or with gaps if there is but one."""
    assert tensor is not None
    if tensor.dim() < 2:
        return torch.stack((tensor, tensor), -1)[..., 0]
    order = list(range(tensor.dim()))[::-1]
    return tensor.permute(order).contiguous().permute(order)
