"""What runs in a rewritten layer: a kernel's forward around which gradients, devices and errors are as the layer's would be.

A call of a small layer takes a few microseconds and every Python frame around it counts: these are closures, with few frames.
A program that is exported gets the original: it is meant to run where the kernels are not.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.compiler import is_exporting

from ..errors import KernelRuntimeError
from ..kernels.call import other_device
from ..kernels.layer import KernelLayer
from ..kernels.lowering.output_order import Order, laid_out
from ..kernels.recompute import is_cut, recomputed_backward
from ..kernels.signature import forward_signature, kernel_arguments
from .call_gate import Ruling
from .clone import clone_module
from .tensor_tree import tensors_in, with_tensors

if TYPE_CHECKING:
    from .rewritten_layer import KernelChoice

PLACE = "_fxkernels_place"
"""Attribute of a rewritten layer that holds its `Place`."""

REFERENCE = "_fxkernels_reference"
"""Attribute of a rewritten layer that holds an object of the original's class over the same state."""

Forward = Callable[..., Any]


@dataclass(frozen=True, slots=True)
class Place:
    """Where a rewritten layer stands, for errors. No plain string: among a layer's attributes that is a constant, which kernels may read.

    Args:
        path: Its module path.
    """

    path: str


_NO_HELP = Ruling(None)
_log = logging.getLogger("fxkernels")
_warned: set[tuple[str, str]] = set()


def chosen_forward(layer: type[nn.Module], choice: KernelChoice) -> Forward:
    """Return the forward that runs the kernels of a choice, by the training flag."""
    reference: Forward = layer.forward
    in_training = _in_training(layer, choice.training) if choice.training else reference
    if choice.inference == choice.training:
        return in_training
    if choice.inference is not None and not choice.inference.has_backward:
        return _without_backward(layer, choice.inference, in_training)
    in_inference = _differentiable(layer, choice.inference) if choice.inference else reference

    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        return (in_training if self.training else in_inference)(self, *args, **kwargs)

    return forward


def decided_forward(layer: type[nn.Module], ruling: Ruling) -> Forward:
    """Return the forward that runs what was decided for one form of call."""
    if ruling.kernel is None:
        reference: Forward = layer.forward
        return reference
    if ruling.recompute:
        return _without_backward(layer, ruling.kernel, None, ruling)
    return _differentiable(layer, ruling.kernel, ruling)


def _in_training(layer: type[nn.Module], kernel: KernelLayer) -> Forward:
    return _differentiable(layer, kernel) if kernel.has_backward else _without_backward(layer, kernel, None)


def _differentiable(layer: type[nn.Module], kernel: KernelLayer, ruling: Ruling = _NO_HELP) -> Forward:
    """A forward that runs a kernel with a backward, and does not believe it blindly."""
    call, identity = _kernel_forward(layer, kernel, ruling), kernel.identity
    is_grad_enabled, is_compiling, tensor_type = torch.is_grad_enabled, torch.compiler.is_compiling, torch.Tensor
    followed: list[bool] = []  # holds something once a gradient has been seen to get through
    reference: Forward = layer.forward

    def run(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        if is_exporting():
            return reference(self, *args, **kwargs)
        try:
            output = call(self, *args, **kwargs)
        except Exception as error:
            raise KernelRuntimeError(_path(self), identity, error) from error
        if not is_grad_enabled() or ((is_compiling() or followed) and type(output) is tensor_type and output.requires_grad):
            return output
        return attached(self, output, args, kwargs)

    def attached(self: nn.Module, output: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        outputs = tensors_in(output)
        if any(tensor.requires_grad for tensor in outputs):
            if is_compiling():
                return output
            if not is_cut(outputs, (*self.parameters(), *tensors_in((args, kwargs)))):
                followed.append(True)
                return output
        elif not _wants_gradient(self, args, kwargs):
            return output
        _warn_of_detached_output(kernel, _path(self))
        return _with_gradient_of(layer, self, output, args, kwargs)

    return run


def _without_backward(layer: type[nn.Module], kernel: KernelLayer, in_training: Forward | None, ruling: Ruling = _NO_HELP) -> Forward:
    """A forward that runs a kernel without a backward, in training mode `in_training` if that is given; the gradient is the original's."""
    call, identity, is_grad_enabled = _kernel_forward(layer, kernel, ruling), kernel.identity, torch.is_grad_enabled
    reference: Forward = layer.forward

    def run(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        if is_exporting():
            return reference(self, *args, **kwargs)
        if in_training is not None and self.training:
            return in_training(self, *args, **kwargs)
        if is_grad_enabled() and _wants_gradient(self, args, kwargs):
            with torch.no_grad():
                output = run(self, *args, **kwargs)
            return _with_gradient_of(layer, self, output, args, kwargs)
        try:
            return call(self, *args, **kwargs)
        except Exception as error:
            raise KernelRuntimeError(_path(self), identity, error) from error

    return run


def _kernel_forward(layer: type[nn.Module], kernel: KernelLayer, ruling: Ruling) -> Forward:
    """The kernel's forward, taking arguments as the layer's forward takes them: keywords may have other names there."""
    forward = _on_the_inputs_device(kernel.cls.forward)
    if ruling.copied:
        forward = _with_copies(forward, ruling.copied)
    if ruling.orders:
        forward = _with_orders(forward, dict(ruling.orders))
    try:
        ours, theirs = forward_signature(kernel.cls), forward_signature(layer)
    except (TypeError, ValueError):
        return forward
    if issubclass(layer, FunctionLayer) or (list(ours.parameters) == list(theirs.parameters) and not ruling.copied):
        return forward

    def renamed(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        if kwargs:
            args, kwargs = kernel_arguments(ours, theirs, args, kwargs)
        return forward(self, *args, **kwargs)

    return renamed


def _with_copies(forward: Forward, copied: frozenset[int | str]) -> Forward:
    """The same, with copies of the arguments that it overwrites."""

    def run(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        args = tuple([_copy(value) if position in copied else value for position, value in enumerate(args)])
        return forward(self, *args, **{name: _copy(value) if name in copied else value for name, value in kwargs.items()})

    return run


def _with_orders(forward: Forward, orders: Mapping[int, Order]) -> Forward:
    """The same, with outputs that are copied into the layer's memory layout."""

    def run(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        output = forward(self, *args, **kwargs)
        tensors = [laid_out(tensor, orders[n]) if n in orders else tensor for n, tensor in enumerate(tensors_in(output))]
        return with_tensors(output, tensors)

    return run


def _copy(value: Any) -> Any:
    return with_tensors(value, [tensor.clone() for tensor in tensors_in(value)])


def _on_the_inputs_device(forward: Forward) -> Forward:
    """The same, with the CUDA device of the arguments as the current one."""
    is_compiling = torch.compiler.is_compiling

    def run(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        device = None if is_compiling() else other_device((*args, *kwargs.values()))
        if device is None:
            return forward(self, *args, **kwargs)
        with torch.cuda.device(device):
            return forward(self, *args, **kwargs)

    return run


def _wants_gradient(self: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    if any(tensor.requires_grad for tensor in tensors_in((args, kwargs))):
        return True
    return any(parameter.requires_grad for parameter in self.parameters())


def _with_gradient_of(layer: type[nn.Module], self: nn.Module, output: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The kernel's output, with the gradient of the layer's own forward."""
    # Detached, because a kernel may return a tensor that it keeps, and that one must not become part of this graph.
    values = tuple(tensor.detach() for tensor in tensors_in(output))
    names = [name for name, _ in self.named_parameters(remove_duplicate=False)]
    weights = [parameter for _, parameter in self.named_parameters(remove_duplicate=False)]

    def kernel(*_: Any) -> tuple[torch.Tensor, ...]:
        return values

    def reference(*inputs: Any) -> tuple[torch.Tensor, ...]:
        weights = dict(zip(names, inputs, strict=False))
        its_args, its_kwargs = with_tensors((args, kwargs), inputs[len(names) :])
        if torch.compiler.is_compiling():
            result = torch.func.functional_call(vars(self)[REFERENCE], weights, its_args, its_kwargs)
        else:
            # functional_call would put the weights into dictionaries that the user's model shares; Dynamo only records that it does.
            result = layer.forward(_with_weights(layer, self, weights), *its_args, **its_kwargs)
        return tuple(tensors_in(result))

    return with_tensors(output, recomputed_backward(kernel, reference, (*weights, *tensors_in((args, kwargs)))))


def _with_weights(layer: type[nn.Module], module: nn.Module, weights: dict[str, torch.Tensor]) -> nn.Module:
    """A copy of the module with other weights."""
    shell = clone_module(module).module
    object.__setattr__(shell, "__class__", layer)
    for path, part in shell.named_modules(remove_duplicate=False):
        prefix = f"{path}." if path else ""
        own = vars(part)["_parameters"]
        vars(part)["_parameters"] = {name: weights.get(prefix + name, value) for name, value in own.items()}
    return shell


def path_of(module: nn.Module) -> str | None:
    """Return the path of a rewritten layer, or of its twin of the original class; None for any other module."""
    place: Place | None = vars(module).get(PLACE)
    return place.path if place is not None else None


def _path(self: nn.Module) -> str:
    return path_of(self) or ""


def _warn_of_detached_output(kernel: KernelLayer, path: str) -> None:
    key = (str(kernel.identity), path)
    if key not in _warned:
        _warned.add(key)
        _log.warning("%s at %s returns a detached output; its gradient is the original layer's, recomputed", kernel.identity, path)


# --- functions ----------------------------------------------------------------------------------------------------------------------------


class FunctionLayer(nn.Module):
    """A layer without state around an annotated function, so that a call of the function can be rewritten like a layer's.

    Args:
        function: The annotated function.
        training: The flag of the module that calls it.
    """

    def __init__(self, function: Callable[..., Any], training: bool) -> None:
        super().__init__()
        self.function = function
        self.training = training

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(*args, **kwargs)

    def extra_repr(self) -> str:
        return getattr(self.function, "__name__", repr(self.function))
