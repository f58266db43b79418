"""Capturing one call of one module by itself, on fake tensors, and never running it."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from types import FunctionType
from typing import Any

import torch
from torch import nn, overrides
from torch._dynamo import config
from torch._functorch.pyfunctorch import temporarily_clear_interpreter_stack
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.fx import _symbolic_trace
from torch.utils._device import DeviceContext
from torch.utils._python_dispatch import _disable_current_modes, is_traceable_wrapper_subclass

_FUNCTION_MODES: Any = overrides  # its stubs lack how to push and pop them
_FORMS = 64
"""How many forms of call of one class Dynamo may remember; then it begins anew."""


def compiled_alone(name: str, backend: Any) -> Callable[..., Any]:
    """Return a compiled function that calls a module: from the module, its arguments and its keyword arguments to its output.

    Functions of equal names have in common which sizes were seen to change, and are then captured with dynamic sizes. What Dynamo compiled
    for one is not used for another.

    Args:
        name: A name, in which Dynamo sees the function.
        backend: A backend.
    """
    code = _call.__code__.replace(co_name=name, co_qualname=name)
    return torch.compile(FunctionType(code, globals(), name), backend=backend)


def _call(module: Any, args: Any, kwargs: Any) -> Any:
    return module(*args, **kwargs)


@contextlib.contextmanager
def by_itself() -> Iterator[None]:
    """Within, captures see nothing of what is going on around them: no modes, no transforms of torch.func, no settings of Dynamo's that say
    what happens to a user's frames. Grad mode and autocast stay. A size is dynamic from its second value on.
    """
    grad = torch.is_grad_enabled()
    settings: dict[str, Any] = {
        "suppress_errors": False,
        "error_on_recompile": False,
        "fail_on_recompile_limit_hit": True,
        "recompile_limit": _FORMS,
        "accumulated_recompile_limit": 4 * _FORMS,
        "specialize_float": True,
        "automatic_dynamic_shapes": True,
        "assume_static_by_default": True,
    }
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.compiler.set_stance("default"))
        stack.enter_context(_disable_current_modes())
        stack.enter_context(_without_function_modes())
        stack.enter_context(temporarily_clear_interpreter_stack())
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.set_grad_enabled(grad))
        stack.enter_context(config.patch(settings))
        stack.enter_context(outside_of_traces())
        stack.enter_context(_with_hooks_on_saved_tensors())
        yield


@contextlib.contextmanager
def outside_of_traces() -> Iterator[None]:
    """What happens within is no part of what torch.jit.trace or torch.fx record."""
    state = torch._C._get_tracing_state()
    torch._C._set_tracing_state(None)  # type: ignore[attr-defined]  # the stubs lack it
    try:
        with _unseen_by_fx():
            yield
    finally:
        torch._C._set_tracing_state(state)  # type: ignore[attr-defined]


@contextlib.contextmanager
def _unseen_by_fx() -> Iterator[None]:
    """torch.fx takes it that it is not tracing. Torch 2.15 has one flag per thread and a context manager for it, before that a global."""
    module: Any = _symbolic_trace
    if hasattr(module, "_is_fx_tracing_context"):
        with module._is_fx_tracing_context(False):
            yield
        return
    flag = module._is_fx_tracing_flag
    module._is_fx_tracing_flag = False
    try:
        yield
    finally:
        module._is_fx_tracing_flag = flag


@contextlib.contextmanager
def _without_function_modes() -> Iterator[None]:
    """Nobody overrides torch's functions: what `make_fx` puts there changes with each call, which Dynamo would guard on (torch 2.11). What
    the default device is stays."""
    modes = [_FUNCTION_MODES._pop_mode() for _ in range(_FUNCTION_MODES._len_torch_function_stack())]
    kept = [mode for mode in modes if isinstance(mode, DeviceContext)]
    _push(kept)
    try:
        yield
    finally:
        for _ in kept:
            _FUNCTION_MODES._pop_mode()
        _push(modes)


def _push(modes: Sequence[Any]) -> None:
    for mode in reversed(modes):
        _FUNCTION_MODES._push_mode(mode)


@contextlib.contextmanager
def _with_hooks_on_saved_tensors() -> Iterator[None]:
    """Transforms of torch.func forbid them."""
    forbidden = torch._C._autograd._saved_tensors_hooks_get_disabled_error_message()
    torch._C._autograd._saved_tensors_hooks_enable()
    try:
        yield
    finally:
        if forbidden is not None:
            torch._C._autograd._saved_tensors_hooks_disable(forbidden)


def fake_mode() -> Any:
    """Return a mode for `fakes_of`. Within it, operators make no distinction between fake tensors and real ones, and compute nothing."""
    return FakeTensorMode(allow_non_fake_inputs=True)


def fakes_of(mode: Any, tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Return a fake tensor for each tensor, which requires a gradient if the tensor does. Views of one storage stay views of one storage.

    To be called within `by_itself`.

    Raises:
        ValueError: If a size is a symbol.
    """
    different = {id(tensor): tensor for tensor in tensors}
    storages = Counter(_storage(tensor) for tensor in different.values())
    fakes = {key: _fake(mode, tensor, storages[_storage(tensor)] > 1) for key, tensor in different.items()}
    return [fakes[id(tensor)] for tensor in tensors]


def _has_only_metadata(tensor: torch.Tensor) -> bool:
    """Whether it is a fake tensor, or one of a transform of torch.func: the sizes of that may be those of one example of many."""
    return isinstance(tensor, FakeTensor) or torch._C._functorch.is_functorch_wrapped_tensor(tensor)


def _storage(tensor: torch.Tensor) -> int:
    return id(tensor) if _has_only_metadata(tensor) or is_traceable_wrapper_subclass(tensor) else tensor.untyped_storage()._cdata


def _fake(mode: FakeTensorMode, tensor: torch.Tensor, is_view: bool) -> torch.Tensor:
    if any(isinstance(size, torch.SymInt) for size in tensor.shape):
        raise ValueError("a size of its arguments is a symbol")
    is_plain = type(tensor) in (torch.Tensor, nn.Parameter) and not is_view
    if _has_only_metadata(tensor) or (is_plain and tensor.storage_offset() == 0):
        with mode:
            fake = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=tensor.device)
    else:
        fake = mode.from_tensor(tensor.detach(), static_shapes=True)
    return nn.Parameter(fake, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else fake.requires_grad_(tensor.requires_grad)
