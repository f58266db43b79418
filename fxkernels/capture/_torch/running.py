"""Running a function on fake tensors, and on real ones in the middle of a compilation."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from types import FunctionType
from typing import Any

import torch
from torch import nn
from torch._dynamo import config
from torch._higher_order_ops.triton_kernel_wrap import get_mutated_tensors, triton_kernel_wrapper_mutation
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves, tree_map

from .compiling import ISOLATED

_MANY = 1 << 16


def run_on_fakes(function: Callable[..., Any], inputs: tuple[Any, ...]) -> Any:
    """Call a function on a graph's example values: nothing is computed, and no guard is added for what it asks of symbolic sizes."""
    mode = next((value.fake_mode for value in inputs if isinstance(value, FakeTensor)), None)
    if mode is None:
        raise ValueError("no input is a fake tensor")
    quiet = mode.shape_env.suppress_guards() if mode.shape_env is not None else contextlib.nullcontext()
    with mode, quiet, torch.no_grad():
        return function(*inputs)


@contextlib.contextmanager
def unlogged_fakes() -> Iterator[None]:
    """Within, torch does not log the stack of an operator that raises on fake tensors (2.13, 2.15). The error says enough."""
    log = logging.getLogger("torch._subclasses.fake_tensor")
    before = log.disabled
    log.disabled = True
    try:
        yield
    finally:
        log.disabled = before


def call_on_fakes(module: nn.Module, backend: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Compile and call a module with fake tensors instead of those of the module and of the arguments: shapes and devices, no
    data. A tensor on the meta device counts as one on the CPU: models mix it with tensors that they make there.

    The module's parameters and buffers are exchanged for the time of the call only, in dictionaries of its own.
    """
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    memo: dict[int, Any] = {}

    def fake(value: Any) -> Any:
        if not isinstance(value, torch.Tensor):
            return value
        if id(value) not in memo:
            memo[id(value)] = _on_cpu(value, mode) if value.is_meta else mode.from_tensor(value, static_shapes=True)
        return memo[id(value)]

    for submodule in module.modules():
        for store in ("_parameters", "_buffers"):
            submodule.__dict__[store] = {name: fake(value) for name, value in submodule.__dict__[store].items()}
    args, kwargs = tree_map(fake, (args, kwargs))
    # Frames that Dynamo compiles are remembered with their code, and few of one code: those that are compiled here are not to count among
    # the user's. So the outermost frame has a code of its own, and those after a graph break, where torch can do that, an isolated count.
    code = _call.__code__.replace(co_consts=_call.__code__.co_consts)
    with mode, unlogged_fakes(), config.patch(recompile_limit=_MANY, accumulated_recompile_limit=_MANY):
        torch.compile(FunctionType(code, globals()), backend=backend, **ISOLATED)(module, args, kwargs)


def _call(module: Any, args: Any, kwargs: Any) -> Any:
    return module._call_impl(*args, **kwargs)


def _on_cpu(value: torch.Tensor, mode: FakeTensorMode) -> torch.Tensor:
    with mode:
        fake = torch.empty_strided(value.size(), value.stride(), dtype=value.dtype, device="cpu")
        return nn.Parameter(fake, value.requires_grad) if isinstance(value, nn.Parameter) else fake.requires_grad_(value.requires_grad)


def run_for_real(function: Callable[[], Any], devices: Iterable[torch.device] = ()) -> Any:
    """Call a function on real tensors: no dispatch mode around the compilation sees it, and no random number is drawn from
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
