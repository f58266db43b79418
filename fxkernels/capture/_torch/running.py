"""Running a function in the middle of a compilation: for real, or on fake tensors and watched."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch._higher_order_ops.triton_kernel_wrap import get_mutated_tensors, triton_kernel_wrapper_mutation
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves

from .compiling import run_on_fakes, unlogged_fakes


def run_for_real(function: Callable[[], Any], devices: Iterable[torch.device] = ()) -> Any:
    """Call a function on real tensors: no mode that somebody has put around the compilation sees it, and no random number is drawn from
    the generators of the process.

    Args:
        function: Called without arguments, with grad mode on.
        devices: The accelerators on which it may draw random numbers.
    """
    numbers = sorted({device.index for device in devices if device.type == "cuda" and device.index is not None})
    with _disable_current_modes(), torch.inference_mode(False), torch.random.fork_rng(numbers), torch.enable_grad():
        return function()


@dataclass(frozen=True)
class Watched:
    """What a function did on fake tensors.

    Args:
        result: What it returned; None if it raised.
        error: What it raised.
        written: Positions of the inputs into whose memory an operator wrote, by its schema.
        foreign: Names of the operators that are not torch's own, in the order of their first calls.
    """

    result: Any
    error: Exception | None
    written: frozenset[int]
    foreign: tuple[str, ...]


class DataDependent(Exception):
    """A function asked for a value, or for a size that depends on values, where there are none."""


class _Watcher(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes which operators run, and which memory they write."""

    supports_higher_order_operators = True  # the launch of a Triton kernel is one

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.written: set[int] = set()
        self.foreign: dict[str, None] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> Any:
        kwargs = kwargs or {}
        if func is triton_kernel_wrapper_mutation:
            self._note(_written_by_triton(kwargs))
        elif isinstance(func, torch._ops.OpOverload):
            if _DATA_DEPENDENT & {*func.tags}:
                raise DataDependent(f"{func} depends on the values of its input")
            if func.namespace not in _OWN:
                self.foreign[func._schema.name] = None
            for place, argument in enumerate(func._schema.arguments):
                if argument.alias_info is not None and argument.alias_info.is_write:
                    self._note(args[place] if place < len(args) else kwargs.get(argument.name))
        return func(*args, **kwargs)

    def _note(self, written: Any) -> None:
        self.written |= {_storage(tensor) for tensor in tree_leaves(written) if isinstance(tensor, torch.Tensor)}


def _written_by_triton(launch: dict[str, Any]) -> list[Any]:
    """The tensors that a Triton launch writes, by torch's own analysis of its code; where there is no driver, that names all of them."""
    place = (launch["kernel_idx"], launch["constant_args_idx"], launch["kwargs"], launch["tma_descriptor_metadata"])
    return [launch["kwargs"][name] for name in get_mutated_tensors(*place)]


_DATA_DEPENDENT = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}
_OWN = frozenset(("aten", "prim", "prims", "profiler"))


def watch_on_fakes(function: Callable[..., Any], inputs: tuple[Any, ...]) -> Watched:
    """Call a function on a graph's example values, with grad mode off, and say what it did. See `run_on_fakes`."""
    watcher = _Watcher()
    result, failed = None, None

    def watched(*values: Any) -> Any:
        with watcher:
            return function(*values)

    try:
        with unlogged_fakes():
            result = run_on_fakes(watched, inputs)
    except Exception as error:  # whatever a kernel raises on tensors without data
        failed = error
    written = {place for place, value in enumerate(inputs) if isinstance(value, torch.Tensor) and _storage(value) in watcher.written}
    return Watched(result, failed, frozenset(written), tuple(watcher.foreign))


def _storage(tensor: torch.Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)
