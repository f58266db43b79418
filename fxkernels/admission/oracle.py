"""What a call computes, exactly: the reference in float64, its gradients, and beside them what the layer makes of it in its own dtype.

The reference in float64 is the layer's own graph, with every floating dtype in it replaced by the widest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import torch
from torch import fx
from torch.fx.node import map_aggregate

from ..kernels.lowering.autocast import autocast_to

Cotangents = Sequence[torch.Tensor | None]

_FEW = 64
"""Up to this many values, one sample does not tell how far a layer is off."""
_CASTS = {"float": torch.float64, "half": torch.float64, "bfloat16": torch.float64, "cfloat": torch.complex128, "chalf": torch.complex128}


class Oracle:
    """The exact results for one sample. What is not asked for is not computed.

    Args:
        reference: From the inputs to a tuple of the outputs.
        inputs: The inputs, in their own dtypes. They are not written, and must not change while results are asked for.
        wanted: Positions of the inputs whose gradients are wanted; none if no gradient flows.
        widest: The dtype that counts as exact.
        autocast: The dtype to which autocast is set.
        device: The type of the device.
    """

    def __init__(
        self,
        reference: fx.GraphModule,
        inputs: Sequence[Any],
        wanted: Sequence[int],
        *,
        widest: torch.dtype = torch.float64,
        autocast: torch.dtype | None = None,
        device: str = "cpu",
    ) -> None:
        self._reference, self._widest, self._autocast, self._device = reference, widest, autocast, device
        self._inputs = tuple(inputs)
        self._wanted = tuple(wanted)
        self.why_not_wide: str | None = None

    @cached_property
    def own(self) -> _Evaluation:
        """What the layer computes in its own dtype."""
        return _Evaluation(self._in_own_dtype, [_copy(value) for value in self._inputs], self._wanted)

    @cached_property
    def _exact(self) -> _Evaluation:
        try:
            return _Evaluation(self._wide, [widened(value, self._widest) for value in self._inputs], self._wanted)
        except NotWidened as error:
            self.why_not_wide = str(error)
            return self.own

    @cached_property
    def _moved(self) -> _Evaluation:
        inputs = [widened(value, self._widest) for value in _moved(self._inputs, seed=1)]
        return _Evaluation(self._wide, inputs, self._wanted)

    @property
    def outputs(self) -> tuple[Any, ...]:
        """The exact outputs."""
        return self._exact.outputs

    def output_of_layer(self, number: int) -> list[torch.Tensor]:
        """Return an output as the layer computes it, and the exact one for inputs that were moved by one rounding.

        Of few values each may be right by chance: then it is also looked at what the layer is off by for inputs nearby.
        """
        found = [evaluation.outputs[number].detach() for evaluation in self._others()]
        exact = self.outputs[number].detach()
        return found + [exact + (own.outputs[number] - wide.outputs[number]).detach() for own, wide in self._nearby(exact)]

    def gradients(self, cotangents: Cotangents) -> list[torch.Tensor | None]:
        """Return the exact gradients of the wanted inputs."""
        return self._exact.gradients(cotangents)

    def bears_writes(self, cotangents: Cotangents, arguments: Sequence[int] | None) -> bool:
        """Return whether the layer's own gradients can be had after its inputs or outputs were written to.

        Args:
            cotangents: The incoming gradients.
            arguments: Positions of the inputs that are written; None for the outputs.
        """
        inputs = [_copy(value) for value in self._inputs]
        evaluation = _Evaluation(self._in_own_dtype, inputs, self._wanted)
        for tensor in evaluation.outputs if arguments is None else [inputs[position] for position in arguments]:
            tensor.detach().zero_()
        try:
            evaluation.gradients(cotangents)
        except RuntimeError:  # autograd says that what it needs was overwritten
            return False
        return True

    def gradient_of_layer(self, number: int, cotangents: Cotangents) -> list[torch.Tensor | None]:
        """Return one gradient as `output_of_layer` does an output."""
        found = [evaluation.gradients(cotangents)[number] for evaluation in self._others()]
        exact = self.gradients(cotangents)[number]
        if exact is None:
            return found
        for own, wide in self._nearby(exact):
            one, other = own.gradients(cotangents)[number], wide.gradients(cotangents)[number]
            if one is not None and other is not None:
                found.append(exact + (one - other))
        return found

    def _nearby(self, exact: torch.Tensor) -> list[tuple[_Evaluation, _Evaluation]]:
        return self._neighbours if exact.numel() <= _FEW and exact.is_floating_point() and self.why_not_wide is None else []

    @cached_property
    def _neighbours(self) -> list[tuple[_Evaluation, _Evaluation]]:
        """For some inputs nearby what the layer computes in its own dtype, and the exact results."""
        found = []
        for seed in range(2, 6):
            near = _moved(self._inputs, seed, by=4.0)
            rounded = [new.to(old.dtype) if isinstance(old, torch.Tensor) else new for new, old in zip(near, self._inputs, strict=True)]
            own = _Evaluation(self._in_own_dtype, [_copy(value) for value in rounded], self._wanted)
            found.append((own, _Evaluation(self._wide, [widened(value, self._widest) for value in rounded], self._wanted)))
        return found

    def _others(self) -> list[_Evaluation]:
        return [self.own, self._moved] if self.why_not_wide is None else [self.own]

    def _wide(self, *inputs: Any) -> tuple[Any, ...]:
        return run_wide(self._reference, inputs, self._widest)

    def _in_own_dtype(self, *inputs: Any) -> tuple[Any, ...]:
        with autocast_to(self._autocast, self._device):
            return tuple(self._reference(*inputs))


class _Evaluation:
    """Outputs of a function for some inputs, and their gradients for as many cotangents as one likes."""

    def __init__(self, function: Callable[..., tuple[Any, ...]], inputs: list[Any], wanted: tuple[int, ...]) -> None:
        with torch.set_grad_enabled(bool(wanted)):
            for position in wanted:
                inputs[position].requires_grad_()
            # A layer may hand an input through, or write to a copy: what it differentiates is no leaf.
            self._leaves = [inputs[position] for position in wanted]
            self.outputs = function(*inputs)

    def gradients(self, cotangents: Cotangents) -> list[torch.Tensor | None]:
        pairs = [
            (output, cotangent.to(output.dtype))
            for output, cotangent in zip(self.outputs, cotangents, strict=True)
            if cotangent is not None and isinstance(output, torch.Tensor) and output.requires_grad
        ]
        if not pairs:
            return [None] * len(self._leaves)
        outputs, given = zip(*pairs, strict=True)
        return list(torch.autograd.grad(outputs, self._leaves, given, retain_graph=True, allow_unused=True))


def _copy(value: Any) -> Any:
    return value.detach().clone() if isinstance(value, torch.Tensor) else value


def _moved(inputs: Sequence[Any], seed: int, by: float = 1.0) -> list[Any]:
    """Return copies of the inputs in float64, floating-point values moved by up to that many roundings."""
    generator = torch.Generator("cpu").manual_seed(seed)
    results = []
    for value in inputs:
        if isinstance(value, torch.Tensor) and value.is_floating_point():
            eps = by * torch.finfo(value.dtype).eps / 2
            noise = torch.rand(value.shape, generator=generator, dtype=torch.float32).mul_(2).sub_(1).to(value.device, torch.float64)
            results.append(value.detach().to(torch.float64) * (1 + eps * noise))
        else:
            results.append(value.detach().clone() if isinstance(value, torch.Tensor) else value)
    return results


class NotWidened(Exception):
    """The reference cannot be run in a wider dtype."""


def wide_dtype(dtype: torch.dtype, widest: torch.dtype = torch.float64) -> torch.dtype:
    """Return the dtype in which the reference computes what is of this dtype in the layer."""
    if dtype.is_complex:
        return torch.complex128
    return widest if dtype.is_floating_point else dtype


def widened(value: Any, widest: torch.dtype = torch.float64) -> Any:
    """Return a copy of a tensor in the wide dtype, and anything else as it is."""
    if not isinstance(value, torch.Tensor):
        return value
    return value.detach().to(wide_dtype(value.dtype, widest), copy=True)


def run_wide(reference: fx.GraphModule, inputs: Sequence[Any], widest: torch.dtype = torch.float64) -> tuple[Any, ...]:
    """Return the reference's outputs for wide inputs; with autograd, if grad mode is on.

    Raises:
        NotWidened: If an operation of it cannot be done in the wide dtype, or reads the bits of its argument.
    """
    try:
        with _default_dtype(widest):
            outputs: tuple[Any, ...] = _Wide(reference, widest).run(*inputs)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        raise NotWidened(f"{type(error).__name__}: {error}") from error
    return tuple(outputs)


def rounding_dtype(reference: fx.GraphModule, inputs: Sequence[Any]) -> tuple[tuple[Any, ...], torch.dtype | None]:
    """Return the reference's outputs for these inputs, and the coarsest floating dtype to which it rounds on the way; None if none."""
    watching = _Watching(reference)
    outputs = watching.run(*inputs)
    coarsest = max(watching.dtypes, key=lambda dtype: torch.finfo(dtype).eps, default=None)
    return tuple(outputs), coarsest


class _Wide(fx.Interpreter):
    def __init__(self, module: fx.GraphModule, widest: torch.dtype) -> None:
        super().__init__(module, garbage_collect_values=True)
        self.widest = widest
        self.extra_traceback = False

    def get_attr(self, target: Any, args: Any, kwargs: Any) -> Any:
        value = super().get_attr(target, args, kwargs)
        return widened(value, self.widest) if isinstance(value, torch.Tensor) else value

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        args, kwargs = self._mapped(args, kwargs)
        return super().call_function(target, args, kwargs)

    def call_method(self, target: Any, args: Any, kwargs: Any) -> Any:
        if target == "view" and any(isinstance(arg, torch.dtype) for arg in (*args[1:], *kwargs.values())):
            raise NotWidened("it reads the bits of a tensor as another dtype")
        if target in _CASTS:
            return args[0].to(wide_dtype(_CASTS[target], self.widest))
        args, kwargs = self._mapped(args, kwargs)
        return super().call_method(target, args, kwargs)

    def _mapped(self, args: Any, kwargs: Any) -> Any:
        return map_aggregate(
            (tuple(args), dict(kwargs)), lambda value: wide_dtype(value, self.widest) if isinstance(value, torch.dtype) else value
        )


class _Watching(fx.Interpreter):
    """Notes the floating dtypes of what is computed."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module, garbage_collect_values=True)
        self.extra_traceback = False
        self.dtypes: set[torch.dtype] = set()

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if n.op in ("call_function", "call_method") and isinstance(value, torch.Tensor) and value.is_floating_point():
            # A view or a copy rounds nothing: what it is of was there before.
            if any(
                argument is not n and _dtype_of(self.env.get(argument)) is value.dtype for argument in n.all_input_nodes
            ) and _only_moves(n):
                return value
            self.dtypes.add(value.dtype)
        return value


_MOVES = frozenset(
    """unsqueeze squeeze view reshape transpose permute contiguous chunk split getitem expand flatten unflatten t narrow clone detach
    cat""".split()
)


def _only_moves(node: fx.Node) -> bool:
    return (node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")) in _MOVES


def _dtype_of(value: Any) -> torch.dtype | None:
    return value.dtype if isinstance(value, torch.Tensor) else None


@contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
