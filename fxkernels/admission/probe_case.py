"""The input of a probe: a kernel, how it is called, the reference, and the call's inputs without their values, for several sizes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import fx
from torch.fx.node import map_aggregate

from ..constraints.sizes import fitting_sizes
from ..kernels.layer import KernelLayer
from ..kernels.lowering.kernel_case import KernelCase
from ..kernels.samples import Inputs, Sample, TensorSpec, at_choice, hints_of, sizes_in, specs_of
from ..kernels.stand_in import LayerState

_STEP = 16
_ANY = 1 << 20
_ODD, _LARGE = 13, 512
"""Dynamic sizes that every kernel has to show: one that is no multiple of 8, and a large one."""


@dataclass(frozen=True, eq=False)
class ProbeCase:
    """One kernel in the place of one form of call.

    Args:
        kernel: The kernel layer.
        args: Its positional arguments; a `Slot` where an input goes.
        kwargs: The same by keyword.
        tensors: What stands for the layer's tensors, by their dotted names.
        state: What else the kernel may know of the layer.
        training: The layer's training flag.
        reference: From the inputs to a tuple of the outputs, as the original layer computes them.
        inputs: The inputs of the call; where it has dynamic sizes, for several values of these. The first are the call's own.
        ranges: For each dynamic size the smallest and the largest value in `inputs`.
        passed: Outputs that are inputs, handed through: position of the output -> position of the input.
        gradient: Whether a gradient will flow through the call, and be the kernel's own.
        autocast: The dtype to which autocast is set where the call stands; None if it is off.
        names: What the kernel calls its inputs.
    """

    kernel: KernelLayer
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    tensors: dict[str, Any]
    state: LayerState
    training: bool
    reference: fx.GraphModule
    inputs: tuple[Inputs, ...]
    passed: Mapping[int, int]
    gradient: bool
    names: tuple[str, ...]
    ranges: tuple[tuple[int, int], ...] = ()
    autocast: torch.dtype | None = None

    @staticmethod
    def of(case: KernelCase, *, gradient: bool) -> ProbeCase | str:
        """Return the case of a kernel and a form of call; a phrase that says why it cannot be probed, if a size is known only at run time.

        Args:
            case: The kernel and the form of call, with fake tensors as example values.
            gradient: Whether grad mode is on where the call runs.
        """
        # A kernel is not probed with sizes that its constraints exclude.
        found = _choices(case.inputs, fitting_sizes(case.kernel, case.binding, case.inputs))
        if isinstance(found, str):
            return found
        choices, ranges = found
        binding = case.binding
        own = frozenset(slot.position for slot in binding.tensors.values() if hasattr(slot, "position"))
        wanted = gradient and bool(case.differentiable) and bool(case.wanted)
        specs = tuple(specs_of(case.inputs, choice, own, wanted) for choice in choices)
        return ProbeCase(
            kernel=case.kernel,
            args=binding.args,
            kwargs=binding.kwargs,
            tensors=dict(binding.tensors),
            state=binding.state,
            training=binding.training,
            reference=case.reference,
            inputs=specs,
            ranges=ranges,
            passed=dict(case.passed),
            gradient=wanted and case.kernel.has_backward,
            autocast=case.autocast,
            names=case.names,
        )

    @property
    def device(self) -> torch.device:
        """The device of the call."""
        return next((torch.device(value.device) for value in self.inputs[0] if isinstance(value, TensorSpec)), torch.device("cpu"))


def _choices(
    inputs: Sequence[Any], fitting: Callable[[Mapping[Any, Any]], Mapping[Any, Any] | None]
) -> tuple[list[Mapping[Any, Any]], tuple[tuple[int, int], ...]] | str:
    """Values for the symbols in the inputs: those of the call, the smallest, one that is no multiple of 8, and each of them large."""
    sizes: dict[Any, tuple[int, int, int]] = {}
    numbers: dict[Any, float] = {}
    present = hints_of(inputs)
    if present is None:
        return "a size of its inputs is known only when it runs"
    for found in sizes_in(inputs):
        for symbol in found.node.expr.free_symbols:
            value = present[symbol]
            allowed = found.node.shape_env.var_to_range.get(symbol)
            if isinstance(found, torch.SymFloat):
                numbers[symbol] = float(value)
            else:
                low, high = (_bound(allowed.lower, 0), _bound(allowed.upper, 1 << 40)) if allowed is not None else (2, 1 << 40)
                sizes[symbol] = (int(value), max(low, 1), high)
    own = {**{symbol: value for symbol, (value, _, _) in sizes.items()}, **numbers}
    smallest = {**{symbol: low for symbol, (_, low, _) in sizes.items()}, **numbers}
    others = {symbol: 3 * value for symbol, value in numbers.items()}
    odd = {**{symbol: min(max(_ODD + 2 * n, low), high) for n, (symbol, (_, low, high)) in enumerate(sizes.items())}, **others}
    # One large size at a time: all together would take too long to probe.
    large = [{**own, symbol: min(max(_LARGE, 2 * value), high)} for symbol, (value, _, high) in sizes.items()]
    choices: list[Mapping[Any, Any]] = []
    for choice in map(fitting, (own, smallest, odd, *large)):
        if choice is not None and choice not in choices and _is_possible(inputs, choice):
            choices.append(choice)
    ranges = [[choice[symbol] for choice in choices if choice[symbol]] for symbol in sizes]
    return choices, tuple((min(values), max(values)) for values in ranges)


def _is_possible(inputs: Sequence[Any], choice: Mapping[Any, Any]) -> bool:
    """Whether sizes that are computed from these symbols exist: a size that was divided may have become a divisor of zero."""
    try:
        return all(at_choice(size, choice) >= 0 for size in sizes_in(inputs) if isinstance(size, torch.SymInt))
    except ZeroDivisionError:
        return False


def _bound(value: Any, otherwise: int) -> int:
    try:
        return int(value)
    except (TypeError, ValueError, OverflowError, AttributeError):
        return otherwise  # infinity


# --- sizes that can be afforded, and integers that the reference takes


def bytes_of(inputs: Inputs) -> int:
    """Return how many bytes the inputs have; views of one storage share theirs."""
    storages: dict[int, int] = {}
    for spec in inputs:
        if isinstance(spec, TensorSpec):
            storages[spec.storage] = max(storages.get(spec.storage, 0), spec.span * spec.dtype.itemsize)
    return sum(storages.values())


def elements_of(inputs: Inputs) -> int:
    """Return how many elements the inputs have."""
    return sum(spec.span for spec in inputs if isinstance(spec, TensorSpec))


def shrunk(reference: fx.GraphModule, specs: Inputs, limit: int) -> tuple[fx.GraphModule, Inputs] | None:
    """Return the reference and inputs with fewer elements; None if there are none that the reference takes.

    Sizes that stand in a tensor of the layer stay. Of the others the largest shrinks, wherever it occurs, also in the reference. The
    smaller sizes keep the remainder by 16.

    Args:
        reference: The reference.
        specs: Its inputs.
        limit: How many elements they may have.
    """
    fixed = {size for spec in specs if isinstance(spec, TensorSpec) and spec.of_layer for size in spec.sizes}
    smaller: dict[int, int] = {}
    found = specs
    while elements_of(found) > limit:
        sizes = {size for spec in found if isinstance(spec, TensorSpec) for size in spec.sizes}
        free = [size for size in sizes - fixed if size > 2 * _STEP and size not in smaller.values()]
        if not free:
            break
        size = max(free)
        wanted = max(int(size * limit / elements_of(found)), _STEP)
        smaller[size] = wanted // _STEP * _STEP + size % _STEP
        found = tuple(_resized(spec, smaller) for spec in specs)
    if not smaller:
        return _with_fewer_rows(reference, specs, limit)
    changed = _with_sizes(reference, smaller)
    # A number in the reference may have been no size: then the kernel will differ, and the call's own sizes decide.
    return (changed, found) if _runs(_on_cpu(changed), _here(found), {}) else None


def _with_fewer_rows(reference: fx.GraphModule, specs: Inputs, limit: int) -> tuple[fx.GraphModule, Inputs] | None:
    """Where every size is one of the layer's, as with 1024 rows of 1024 numbers: shrink the largest dimension before the last one."""
    tensors = [spec for spec in specs if isinstance(spec, TensorSpec) and not spec.of_layer and len(spec.sizes) > 1]
    if not tensors:
        return None
    place, size = max(enumerate(tensors[0].sizes[:-1]), key=lambda found: found[1])
    wanted = max(int(size * limit / elements_of(specs)), _STEP) // _STEP * _STEP + size % _STEP
    if size <= 2 * _STEP or wanted >= size:
        return None

    def resized(spec: Any) -> Any:
        if not isinstance(spec, TensorSpec) or spec.of_layer or len(spec.sizes) <= place + 1 or spec.sizes[place] != size:
            return spec
        sizes = (*spec.sizes[:place], wanted, *spec.sizes[place + 1 :])
        return replace(spec, sizes=sizes, strides=_dense_like(spec, sizes) or spec.strides)

    found = tuple([resized(spec) for spec in specs])
    return (reference, found) if _runs(_on_cpu(reference), _here(found), {}) else None


def integer_highs(reference: fx.GraphModule, specs: Inputs) -> dict[int, int] | str:
    """Return, for each integer input, the number below which its values have to stay so that the reference runs.

    That is tried out: an index beyond the end of what it indexes is an error of the reference. Where any number will do, it is a small one.
    A phrase comes back where the reference takes none.
    """
    places = [n for n, spec in enumerate(specs) if isinstance(spec, TensorSpec) and _is_integer(spec.dtype)]
    if not places:
        return {}
    here = _here(specs)
    function = _on_cpu(reference)
    sizes = sorted({size for spec in here if isinstance(spec, TensorSpec) for size in spec.sizes if size > 1}, reverse=True)
    highs = dict.fromkeys(places, 1)
    if not _runs(function, here, highs):
        return "the layer takes no integers that were tried"
    for place in places:
        most = torch.iinfo(here[place].dtype).max
        if _runs(function, here, {**highs, place: min(_ANY, most)}):
            highs[place] = min([most, *sizes], default=2) if most > 255 else most
            continue
        highs[place] = next((size for size in sizes if size <= most and _runs(function, here, {**highs, place: size})), 1)
    return highs


def _here(specs: Inputs) -> Inputs:
    return tuple(replace(spec, device="cpu", requires_grad=False) if isinstance(spec, TensorSpec) else spec for spec in specs)


def _is_integer(dtype: torch.dtype) -> bool:
    return not (dtype.is_floating_point or dtype.is_complex or dtype is torch.bool)


def _runs(function: fx.GraphModule, specs: Inputs, highs: dict[int, int]) -> bool:
    inputs = Sample.of(specs).fill().views()
    for place, high in highs.items():
        inputs[place] = torch.full_like(inputs[place], high - 1)
    try:
        with torch.no_grad():
            function(*inputs)
    except Exception:  # an index out of range, and whatever else a layer objects to
        return False
    return True


def _on_cpu(reference: fx.GraphModule) -> fx.GraphModule:
    """The reference for inputs on the CPU: an index out of range kills a GPU's context."""
    graph = fx.Graph()
    nodes: dict[fx.Node, fx.Node] = {}
    for node in reference.graph.nodes:
        copy = nodes[node] = graph.node_copy(node, nodes.__getitem__)
        copy.args, copy.kwargs = map_aggregate(
            (tuple(copy.args), dict(copy.kwargs)), lambda value: torch.device("cpu") if isinstance(value, torch.device) else value
        )
        if node.op == "call_method" and node.target == "cuda":
            copy.target = "cpu"
            copy.args = copy.args[:1]
    return fx.GraphModule(reference, graph)


def _resized(spec: Any, smaller: dict[int, int]) -> Any:
    if not isinstance(spec, TensorSpec):
        return smaller.get(spec, spec) if type(spec) is int else spec
    sizes = tuple(smaller.get(size, size) for size in spec.sizes)
    return replace(spec, sizes=sizes, strides=_dense_like(spec, sizes) or spec.strides)


def _dense_like(spec: TensorSpec, sizes: tuple[int, ...]) -> tuple[int, ...] | None:
    """Strides in the same order without gaps, if there were none before."""
    order = sorted(range(len(sizes)), key=lambda dimension: (spec.strides[dimension], dimension == 0))
    before, after = 1, 1
    strides = [0] * len(sizes)
    for dimension in order:
        if spec.sizes[dimension] != 1 and spec.strides[dimension] != before:
            return None
        strides[dimension] = after
        before, after = before * spec.sizes[dimension], after * sizes[dimension]
    return tuple(strides)


def _with_sizes(reference: fx.GraphModule, smaller: dict[int, int]) -> fx.GraphModule:
    graph = fx.Graph()
    nodes: dict[fx.Node, fx.Node] = {}
    for node in reference.graph.nodes:
        copy = nodes[node] = graph.node_copy(node, nodes.__getitem__)
        if node.op in ("call_function", "call_method"):
            copy.args, copy.kwargs = map_aggregate(
                (tuple(copy.args), dict(copy.kwargs)), lambda n: smaller.get(n, n) if type(n) is int else n
            )
    return fx.GraphModule(reference, graph)
