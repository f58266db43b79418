"""Fresh random tensors with the dtypes, sizes, strides and shared storages of a call's inputs. The user's tensors are never among them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from .memory import Fenced
from .request import Inputs, TensorSpec

LIMIT = 256 << 20
"""How many bytes the tensors of a probe may have."""

_ALIGNED = 64
"""In elements: a view that begins at a multiple of it in the call begins so in the probe."""


@dataclass(frozen=True, slots=True)
class Style:
    """What random values look like.

    Args:
        name: For the evidence.
        scale: What the layer's arguments are multiplied with. Its own tensors keep their size.
        shape: From standard normal values to others.
    """

    name: str
    scale: float = 1.0
    shape: Callable[[torch.Tensor], torch.Tensor] | None = None


def _with_zeros_of_both_signs(values: torch.Tensor) -> torch.Tensor:
    return torch.copysign(torch.zeros_like(values), values)


NORMAL = (
    Style("normal"),
    Style("small", 0.1),
    Style("between 0 and 1", shape=torch.sigmoid),
    Style("negative", shape=lambda values: -values.abs()),
)
"""Ordinary values, in the order of preference: a layer may take a logarithm, or sum up exponentials, and be finite for one of them only."""
ZEROS = Style("zeros", shape=_with_zeros_of_both_signs)
TINY = Style("tiny", 1e-3)  # squares are then as large as the epsilons of norms
LARGER = Style("larger", 4.0)
FAR = Style("far from zero", shape=lambda values: values + 100)  # a difference of squares then has few digits left
LARGE = (Style("large", 1e4), Style("large", 600.0), Style("large", 40.0))
"""As large as the layer bears: float16 ends at 65504."""


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


@dataclass(frozen=True, eq=False)
class Sample:
    """Real tensors like the inputs of a call.

    Args:
        specs: What the inputs are.
        storages: The memory under them, one flat tensor for each storage.
        starts: Where each storage begins, in the offsets of the specs.
        handed_out: The memory of the inputs that were handed out last.
    """

    specs: Inputs
    storages: Mapping[int, torch.Tensor]
    starts: Mapping[int, int]
    handed_out: dict[int, Fenced] = field(default_factory=dict)

    @staticmethod
    def of(specs: Inputs, shift: int = 0) -> Sample:
        """Make memory for the inputs.

        Args:
            specs: What they are.
            shift: By how many elements they begin later in their storages. No graph is made anew for that.
        """
        starts: dict[int, int] = {}
        ends: dict[int, int] = {}
        kinds: dict[int, TensorSpec] = {}
        for spec in specs:
            if isinstance(spec, TensorSpec):
                start = spec.offset // _ALIGNED * _ALIGNED
                starts[spec.storage] = min(starts.get(spec.storage, start - shift), start - shift)
                ends[spec.storage] = max(ends.get(spec.storage, 0), spec.offset + spec.span)
                kinds.setdefault(spec.storage, spec)
        storages = {
            number: torch.zeros(ends[number] - starts[number], dtype=spec.dtype, device=spec.device) for number, spec in kinds.items()
        }
        return Sample(specs, storages, starts)

    def fill(self, seed: int, style: Style, highs: Mapping[int, int]) -> Sample:
        """Write random values into the memory, whatever is there, and return self.

        Args:
            seed: Other seeds give other values.
            style: What they look like.
            highs: For each position of an integer input the number below which its values have to stay.
        """
        with torch.no_grad():
            for number, storage in self.storages.items():
                mine = [(n, spec) for n, spec in enumerate(self.specs) if isinstance(spec, TensorSpec) and spec.storage == number]
                of_layer = all(spec.of_layer for _, spec in mine)
                generator = torch.Generator(storage.device).manual_seed(1000 * seed + number)
                high = min((highs[n] for n, _ in mine if n in highs), default=2)
                values = _values(storage.shape, storage.dtype, generator, high, NORMAL[0] if of_layer else style)
                scale = _fan_in(mine[0][1]) if of_layer else 1.0
                storage.copy_(values * scale if scale != 1.0 else values)
        return self

    def inputs(self, *, gradient: bool) -> list[Any]:
        """Return the inputs as views of a copy of the memory: a parameter as a leaf, other tensors as somebody's results, as in a model."""
        self.handed_out.clear()
        made: dict[int, torch.Tensor] = {}
        for number, storage in self.storages.items():
            wanted = gradient and any(isinstance(s, TensorSpec) and s.storage == number and s.requires_grad for s in self.specs)
            copy = self.handed_out[number] = Fenced.copy_of(storage)
            made[number] = _as_result(storage, copy) if wanted else copy.values
        return [self._input(spec, made, gradient, leaf=False) for spec in self.specs]

    def changed_besides(self) -> list[int]:
        """Return positions of inputs around which memory has changed, though it is in none of them."""
        changed = {number for number, memory in self.handed_out.items() if memory.is_changed_besides(self._covered(number))}
        return [n for n, spec in enumerate(self.specs) if isinstance(spec, TensorSpec) and spec.storage in changed]

    def _covered(self, number: int) -> list[tuple[tuple[int, ...], tuple[int, ...], int]]:
        mine = [spec for spec in self.specs if isinstance(spec, TensorSpec) and spec.storage == number]
        return [(spec.sizes, spec.strides, spec.offset - self.starts[number]) for spec in mine]

    def views(self, *, gradient: bool = False) -> list[Any]:
        """Return the inputs as views of the memory itself: they change when it is filled again."""
        return [self._input(spec, self.storages, gradient, leaf=True) for spec in self.specs]

    def _input(self, spec: Any, storages: Mapping[int, torch.Tensor], gradient: bool, leaf: bool) -> Any:
        if not isinstance(spec, TensorSpec):
            return spec
        storage, offset = storages[spec.storage], spec.offset - self.starts[spec.storage]
        if storage.dtype is not spec.dtype:  # somebody reads its bits as another dtype: values of its own will do
            return torch.zeros(spec.span, dtype=spec.dtype, device=spec.device).as_strided(spec.sizes, spec.strides, 0)
        view = storage.as_strided(spec.sizes, spec.strides, offset)
        if not (gradient and spec.requires_grad):
            return view.detach()
        return view.detach().requires_grad_() if leaf or spec.of_layer else view


class _Result(torch.autograd.Function):
    """Memory of ours as the result of a computation."""

    @staticmethod
    def forward(ctx: Any, leaf: torch.Tensor, memory: Fenced) -> torch.Tensor:
        return memory.values

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        return *gradients, None


def _as_result(storage: torch.Tensor, memory: Fenced) -> torch.Tensor:
    result: torch.Tensor = _Result.apply(storage.detach().requires_grad_(), memory)  # type: ignore[no-untyped-call]
    return result


def random_like(tensor: torch.Tensor, seed: int) -> torch.Tensor:
    """Return a dense random tensor with the sizes, dtype and device of another."""
    generator = torch.Generator(tensor.device).manual_seed(seed)
    return _values(tensor.shape, tensor.dtype, generator, 2, NORMAL[0])


def moved(inputs: Sequence[Any], seed: int, by: float = 1.0) -> list[Any]:
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


def _values(sizes: Sequence[int], dtype: torch.dtype, generator: torch.Generator, high: int, style: Style) -> torch.Tensor:
    device = generator.device
    if dtype is torch.bool:
        return torch.rand(sizes, generator=generator, device=device) < 0.5
    if not (dtype.is_floating_point or dtype.is_complex):
        return torch.randint(0, max(high, 1), tuple(sizes), generator=generator, device=device).to(dtype)
    wide = torch.complex128 if dtype is torch.complex128 else torch.complex64 if dtype.is_complex else torch.float32
    wide = torch.float64 if dtype is torch.float64 else wide
    values = torch.randn(tuple(sizes), generator=generator, dtype=wide, device=device)
    if style.shape is not None and not dtype.is_complex:
        values = style.shape(values)
    return (values * style.scale if style.scale != 1.0 else values).to(dtype)


def _fan_in(spec: TensorSpec) -> float:
    """What keeps a product with a matrix of the layer as large as the other factor."""
    return float(spec.sizes[-1] ** -0.5) if len(spec.sizes) > 1 and spec.dtype.is_floating_point else 1.0
