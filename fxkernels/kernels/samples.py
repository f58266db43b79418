"""Random tensors like those of a call, with the dtypes, sizes, strides and shared storages of its inputs.

Whatever runs a kernel or a layer beside the user's model (a probe, a contest, a rehearsal) runs it on these, never on the user's tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

_ALIGNED = 64
"""In elements: a view that begins at a multiple of it in the call begins so in a sample."""


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """A tensor without its values.

    Args:
        dtype: Its dtype.
        sizes: Its sizes.
        strides: Its strides.
        offset: Where it begins in its storage, in elements.
        device: Where it is, e.g. ``"cuda:0"``.
        requires_grad: Whether a gradient is wanted for it.
        storage: A number that views of one storage have in common.
        of_layer: Whether it is one of the layer's own tensors.
    """

    dtype: torch.dtype
    sizes: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int = 0
    device: str = "cpu"
    requires_grad: bool = False
    storage: int = -1
    of_layer: bool = False

    @property
    def span(self) -> int:
        """How many elements lie between the first and the last, both included."""
        if 0 in self.sizes:
            return 0
        return 1 + sum((size - 1) * stride for size, stride in zip(self.sizes, self.strides, strict=True))

    def __str__(self) -> str:
        name = str(self.dtype).removeprefix("torch.")
        return f"{name}{list(self.sizes)} strides {list(self.strides)} on {self.device}{' with gradient' if self.requires_grad else ''}"


Inputs = tuple[Any, ...]
"""For each input of a call a `TensorSpec`, or a number."""


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


@dataclass(frozen=True, eq=False)
class Sample:
    """Memory for the inputs of a call, with random values: what are views of one storage in the call are so here.

    Args:
        specs: What the inputs are.
        storages: The memory, one flat tensor for each storage.
        starts: Where each storage begins, in the offsets of the specs.
    """

    specs: Inputs
    storages: Mapping[int, torch.Tensor]
    starts: Mapping[int, int]

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

    def fill(self, seed: int = 0, style: Style | None = None, highs: Mapping[int, int] | None = None) -> Sample:
        """Write random values into the memory, whatever is there, and return self.

        Args:
            seed: Other seeds give other values.
            style: What they look like; standard normal by default. The layer's own tensors always are.
            highs: For each position of an integer input the number below which its values have to stay. By default integers are zero, a
                place in every tensor and a class of every classification, and booleans are true.
        """
        with torch.no_grad():
            for number, storage in self.storages.items():
                mine = [(n, spec) for n, spec in enumerate(self.specs) if isinstance(spec, TensorSpec) and spec.storage == number]
                of_layer = all(spec.of_layer for _, spec in mine)
                generator = torch.Generator(storage.device).manual_seed(1000 * seed + number)
                high = 1 if highs is None else min((highs[n] for n, _ in mine if n in highs), default=2)
                values = _values(storage.shape, storage.dtype, generator, high, NORMAL[0] if of_layer or style is None else style)
                scale = _fan_in(mine[0][1]) if of_layer else 1.0
                storage.copy_(values * scale if scale != 1.0 else values)
        return self

    def views(self, *, gradient: bool = False) -> list[Any]:
        """Return the inputs as views of the memory itself, which change when it is filled again.

        Args:
            gradient: Whether inputs for which a gradient is wanted are leaves that want one.
        """
        views = [view.detach() if isinstance(view, torch.Tensor) else view for view in self.views_of(self.storages)]
        for view, spec in zip(views, self.specs, strict=True):
            if gradient and isinstance(spec, TensorSpec) and spec.requires_grad:
                view.requires_grad_()
        return views

    def views_of(self, storages: Mapping[int, torch.Tensor]) -> list[Any]:
        """Return the inputs as views of other memory of the same form."""
        return [self._view(spec, storages) for spec in self.specs]

    def _view(self, spec: Any, storages: Mapping[int, torch.Tensor]) -> Any:
        if not isinstance(spec, TensorSpec):
            return spec
        storage = storages[spec.storage]
        if storage.dtype is not spec.dtype:  # its bits are read as another dtype: values of its own will do
            return torch.zeros(spec.span, dtype=spec.dtype, device=spec.device).as_strided(spec.sizes, spec.strides, 0)
        return storage.as_strided(spec.sizes, spec.strides, spec.offset - self.starts[spec.storage])


def random_like(tensor: torch.Tensor, seed: int = 0) -> torch.Tensor:
    """Return a random tensor with the sizes, dtype and device of another; with its strides too, if no elements of it share memory."""
    generator = torch.Generator(tensor.device).manual_seed(seed)
    return torch.empty_like(tensor.detach()).copy_(_values(tensor.shape, tensor.dtype, generator, 2, NORMAL[0]))


def specs_of(inputs: Sequence[Any], choice: Mapping[Any, int], of_layer: frozenset[int] = frozenset(), gradient: bool = True) -> Inputs:
    """Return what example values are, without their values.

    Args:
        inputs: Tensors (fake ones will do) and numbers.
        choice: Values of the symbols in their sizes.
        of_layer: Positions of the layer's own tensors.
        gradient: Whether grad mode is on.
    """
    storages: dict[int, int] = {}
    specs: list[Any] = []
    for position, value in enumerate(inputs):
        if not isinstance(value, torch.Tensor):
            specs.append(at_choice(value, choice))
            continue
        storage = storages.setdefault(int(value.untyped_storage()._cdata), len(storages))
        sizes, strides = (tuple(int(at_choice(n, choice)) for n in numbers) for numbers in (value.shape, value.stride()))
        offset = int(at_choice(value.storage_offset(), choice))
        wanted = gradient and value.requires_grad
        specs.append(TensorSpec(value.dtype, sizes, strides, offset, str(value.device), wanted, storage, position in of_layer))
    return tuple(specs)


def hints_of(inputs: Sequence[Any]) -> dict[Any, Any] | None:
    """Return the hints of the symbols in example values, what they are in this capture; None if one is known only when the graph runs."""
    values: dict[Any, Any] = {}
    for found in sizes_in(inputs):
        for symbol in found.node.expr.free_symbols:
            value = found.node.shape_env.backed_var_to_val.get(symbol)
            if value is None or found.node.hint is None:
                return None
            values[symbol] = float(value) if isinstance(found, torch.SymFloat) else int(value)
    return values


def sizes_in(inputs: Sequence[Any]) -> Iterator[Any]:
    """Yield the dynamic sizes, strides, offsets and numbers among example values."""
    for value in inputs:
        for size in (*value.shape, *value.stride(), value.storage_offset()) if isinstance(value, torch.Tensor) else (value,):
            if isinstance(size, torch.SymInt | torch.SymFloat | torch.SymBool):
                yield size


def at_choice(value: Any, choice: Mapping[Any, Any]) -> Any:
    """Return a size, or another number, for values of its symbols."""
    if isinstance(value, torch.SymInt):
        return int(value.node.expr.xreplace(dict(choice)))
    if isinstance(value, torch.SymFloat):
        return float(value.node.expr.xreplace(dict(choice)))
    return bool(value.node.expr.xreplace(dict(choice))) if isinstance(value, torch.SymBool) else value


def _values(sizes: Sequence[int], dtype: torch.dtype, generator: torch.Generator, high: int, style: Style) -> torch.Tensor:
    device = generator.device
    if dtype is torch.bool:
        return torch.ones(sizes, dtype=dtype, device=device) if high <= 1 else torch.rand(sizes, generator=generator, device=device) < 0.5
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
