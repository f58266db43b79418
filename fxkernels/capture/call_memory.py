"""What was decided for the calls of one layer, remembered by what the calls have in common: dtypes, sizes, constants and so on."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from itertools import chain
from operator import itemgetter
from typing import Any

import torch
from torch import nn

from . import _torch
from .tensor_tree import tensors_in

Run = Callable[..., Any]
Fits = Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], bool]

_RECENT = 4
"""So many forms of call are recognised at once; others are looked up by a key that takes a few microseconds to make."""

_MANY = 1024
_TENSORS = (torch.Tensor, nn.Parameter)


class CallMemory:
    """From forms of call to what runs for them. Looking one up takes about a microsecond."""

    def __init__(self) -> None:
        self.recent: tuple[tuple[Fits, Run], ...] = ()
        """Forms that are recognised at once, the newest first: a function that says whether a call is of the form, and what runs then."""
        self._runs: dict[Hashable, Run] = {}

    def find(self, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Run | None:
        """Return what runs for a call that is of none of the recent forms, or None if that is not known."""
        run = self._runs.get(call_key(layer, args, kwargs))
        if run is not None:
            self._note(layer, args, kwargs, run)
        return run

    def remember(self, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], run: Run) -> None:
        """Remember what runs for calls of this form."""
        if len(self._runs) >= _MANY:
            self._runs.clear()
        self._runs[call_key(layer, args, kwargs)] = run
        self._note(layer, args, kwargs, run)

    def forget(self) -> None:
        """Forget everything."""
        self._runs.clear()
        self.recent = ()

    def _note(self, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], run: Run) -> None:
        if all(type(value) in _TENSORS or isinstance(value, _CONSTANTS) for value in (*args, *kwargs.values())):
            self.recent = ((_recogniser(layer, args, kwargs), run), *self.recent[: _RECENT - 1])


def _recogniser(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Fits:
    """A function that says whether a call of the layer is of the same form as this one, whose arguments are tensors and constants."""
    modules = tuple(layer.modules())
    stores = tuple(store for module in modules for store in (module._parameters, module._buffers) if store)
    own: list[Any] = [tensor for store in stores for tensor in store.values()]
    is_simple = len(modules) == 1 and len(stores) < 2 and all(type(value) in _TENSORS for value in (*args, *own))
    if not is_simple or kwargs:
        return _General(layer, args, kwargs, modules, stores).fits
    store, count, passed, training = stores[0] if stores else {}, len(own), len(args), layer.training
    in_state, are_alike = _torch.state_guard(), _torch.tensor_guard((*args, *own))

    def fits(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        if kwargs or layer.training is not training or len(args) != passed or len(store) != count or not in_state():
            return False
        return are_alike(*args, *store.values())

    return fits


class _General:
    """Recognises any form of call whose arguments are tensors and constants: a guard in C++ on all tensors, and equality of the rest."""

    def __init__(
        self,
        layer: nn.Module,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        modules: tuple[nn.Module, ...],
        stores: tuple[dict[str, Any], ...],
    ) -> None:
        values = (*args, *kwargs.values())
        places = [place for place, value in enumerate(values) if type(value) in _TENSORS]
        others = [place for place in range(len(values)) if place not in places]
        self._types, self._names, self._training, self._stores = tuple(map(type, values)), tuple(kwargs), layer.training, stores
        self._pick_tensors = _picker(places) if others else None
        self._pick_constants = _picker(others) if others else None
        self._constants = self._pick_constants(values) if self._pick_constants is not None else ()
        self._families = tuple((module._modules, tuple(module._modules.values())) for module in modules if module._modules)
        self._state = _torch.state_guard()
        tensors = self._all_tensors(values)
        self._count, self._tensors = len(tensors), _torch.tensor_guard(tensors)

    def _all_tensors(self, values: tuple[Any, ...]) -> tuple[torch.Tensor, ...]:
        tensors = values if self._pick_tensors is None else self._pick_tensors(values)
        return (*tensors, *[tensor for store in self._stores for tensor in store.values() if tensor is not None])

    def fits(self, layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        """Whether a call has this form."""
        if tuple(kwargs) != self._names or layer.training is not self._training:
            return False
        values = (*args, *kwargs.values())
        if tuple(map(type, values)) != self._types:
            return False
        if self._pick_constants is not None and self._pick_constants(values) != self._constants:
            return False
        for children, expected in self._families:
            if tuple(children.values()) != expected:
                return False
        tensors = self._all_tensors(values)
        return len(tensors) == self._count and self._state() and self._tensors(*tensors)


def _picker(places: list[int]) -> Callable[[tuple[Any, ...]], tuple[Any, ...]]:
    if len(places) > 1:
        return itemgetter(*places)
    return itemgetter(slice(places[0], places[0] + 1)) if places else itemgetter(slice(0, 0))


# --- the key that covers every call -------------------------------------------------------------------------------------------------------


def call_key(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Hashable:
    """Return what two calls of a layer have in common that may be decided alike. Values of tensors are not in it."""
    tensors = [tensor for store in _stores(layer) for tensor in store.values()]
    device = next((value.device.type for value in chain(tensors_in((args, kwargs)), tensors) if value is not None), "cpu")
    autocast = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
    structure = tuple([(type(module), module.training, tuple(module._modules)) for module in layer.modules()])
    with _torch.outside_of_traces():  # where a trace would take sizes for tensors
        values = tuple(map(_described, (args, kwargs, *tensors)))
    return (torch.is_grad_enabled(), autocast, structure, values)


def _stores(layer: nn.Module) -> Iterator[dict[str, Any]]:
    for module in layer.modules():
        yield module._parameters
        yield module._buffers


def _described(value: Any) -> Hashable:
    kind = type(value)
    if isinstance(value, torch.Tensor):
        sizes = tuple([size if type(size) is int else str(size) for size in value.shape])
        # The stride of a dimension of size 1 is never used.
        strides = tuple([str(stride) for size, stride in zip(sizes, value.stride(), strict=True) if size != 1])
        return (kind, value.dtype, value.device, value.requires_grad, sizes, strides)
    if isinstance(value, _CONSTANTS):
        return (kind, repr(value))  # 1, 1.0 and True are equal, but not the same
    if isinstance(value, dict):
        return (kind, tuple((name, _described(item)) for name, item in value.items()))
    if isinstance(value, tuple | list):
        return (kind, tuple(map(_described, value)))
    if isinstance(value, slice):
        return (kind, _described((value.start, value.stop, value.step)))
    return (kind, tuple(map(_described, tensors_in(value))))


_CONSTANTS = (
    bool,
    int,
    float,
    complex,
    str,
    bytes,
    torch.dtype,
    torch.device,
    torch.layout,
    torch.memory_format,
    type(None),
    type(Ellipsis),
)
