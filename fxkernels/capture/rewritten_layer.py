"""A rewritten layer: an annotated layer whose class has been exchanged for a subclass that runs a kernel, or the original.

The class is the place for it because everything else about the layer then stays as it is: parameters, hooks, training flag, children,
`isinstance`, repr, state-dict keys. Only modules of a clone are ever treated so; the user's are not touched.
"""

from __future__ import annotations

import contextlib
import inspect
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from weakref import WeakValueDictionary

import torch
from torch import nn
from torch.compiler import is_exporting

from ..errors import KernelRuntimeError
from ..kernels.call import other_device
from ..kernels.layer import KernelLayer
from ..kernels.recompute import is_cut, recomputed_backward
from ..kernels.signature import forward_signature, kernel_arguments
from .clone import clone_module
from .tensor_tree import tensors_in, with_tensors

PATH = "_fxkernels_path"
"""Attribute of a rewritten layer that holds its module path, for errors."""

REFERENCE = "_fxkernels_reference"
"""Attribute of a rewritten layer that holds an object of the original's class over the same state."""

Forward = Callable[..., Any]

_log = logging.getLogger("fxkernels")
_classes: WeakValueDictionary[tuple[type[nn.Module], KernelChoice], type[nn.Module]] = WeakValueDictionary()
_classes_lock = threading.Lock()
_warned: set[tuple[str, str]] = set()


@dataclass(frozen=True, slots=True)
class KernelChoice:
    """Which kernel a layer runs, by its training flag. None stands for the layer's own forward.

    Args:
        inference: The kernel in eval mode. If it has no backward and a gradient flows after all, that is the original's, recomputed.
        training: The kernel in training mode. It has a backward, unless the gradient is recomputed.
        recompute: Whether a kernel without a backward may run in training mode; the gradient is the original's.

    Raises:
        ValueError: If there is no kernel in it, or if the kernel for training has no backward and may not do without.
    """

    inference: KernelLayer | None
    training: KernelLayer | None
    recompute: bool = False

    def __post_init__(self) -> None:
        if self.inference is None and self.training is None:
            raise ValueError("a choice has a kernel for at least one mode; a layer without any is not rewritten")
        if self.training is not None and not self.training.has_backward and not self.recompute:
            raise ValueError(f"{self.training.identity} has no backward, so it cannot run in training mode")

    @staticmethod
    def of(kernel: KernelLayer) -> KernelChoice:
        """Return the choice that runs one kernel wherever it may: in training mode only if it has a backward."""
        return KernelChoice(inference=kernel, training=kernel if kernel.has_backward else None)


def rewritten_layer(module: nn.Module, choice: KernelChoice, path: str) -> nn.Module:
    """Return a second object over the state of `module` that runs the chosen kernels.

    Both have one ``__dict__``: parameters, training flag, hooks and attributes of either are those of the other. They differ in class only.

    Args:
        module: The layer. Not the user's own: the path is noted in its state.
        choice: Which kernel runs when.
        path: Its module path, for errors.
    """
    vars(module)[PATH] = path
    _attach_reference(module, type(module))
    return _over_state_of(module, rewritten_class(type(module), choice))


def rewrite_in_place(module: nn.Module, choice: KernelChoice, path: str) -> None:
    """Have `module` itself run the chosen kernels, wherever it is referred to. See `rewritten_layer`."""
    vars(module)[PATH] = path
    _attach_reference(module, type(module))
    # Not by setattr: a layer may have a __setattr__ of its own.
    object.__setattr__(module, "__class__", rewritten_class(type(module), choice))


def _attach_reference(module: nn.Module, layer: type[nn.Module]) -> None:
    vars(module)[REFERENCE] = _over_state_of(module, layer)


def _over_state_of(module: nn.Module, cls: type[nn.Module]) -> nn.Module:
    other: nn.Module = object.__new__(cls)
    object.__setattr__(other, "__dict__", vars(module))
    return other


def rewritten_class(layer: type[nn.Module], choice: KernelChoice) -> type[nn.Module]:
    """Return the subclass of `layer` that runs the chosen kernels: one class for equal arguments, with the name and module of `layer`.

    Its instances can be pickled and deep-copied as far as those of `layer` can, and stay rewritten.
    """
    with _classes_lock:
        cls = _classes.get((layer, choice))
        if cls is None:
            cls = _classes[layer, choice] = _make_class(layer, choice)
        return cls


def _make_class(layer: type[nn.Module], choice: KernelChoice) -> type[nn.Module]:
    forward = _forward(layer, choice)

    def reduce(self: nn.Module, protocol: Any) -> Any:
        state = self.__getstate__()  # type: ignore[no-untyped-call]
        return _restore, (layer, choice), {name: value for name, value in state.items() if name != REFERENCE}

    def set_state(self: nn.Module, state: dict[str, Any]) -> None:
        layer.__setstate__(self, state)  # type: ignore[no-untyped-call]
        _attach_reference(self, layer)

    forward.__name__, forward.__qualname__, forward.__doc__ = "forward", f"{layer.__qualname__}.forward", layer.forward.__doc__
    with contextlib.suppress(TypeError, ValueError):  # some have no signature to show
        vars(forward)["__signature__"] = inspect.signature(layer.forward)
    own: dict[str, Any] = {name: getattr(layer, name) for name in ("__module__", "__qualname__", "__doc__")}
    # A kernel's forward may read the flags of its own class from `self`.
    for flag in ("has_backward", "can_torch_compile"):
        if not hasattr(layer, flag):
            own[flag] = getattr(choice.inference or choice.training, flag, None)
    make: Callable[..., type[nn.Module]] = type(layer)
    return make(layer.__name__, (layer,), {**own, "forward": forward, "__reduce_ex__": reduce, "__setstate__": set_state})


def _restore(layer: type[nn.Module], choice: KernelChoice) -> nn.Module:
    """Make the empty instance that unpickling fills."""
    module: nn.Module = object.__new__(rewritten_class(layer, choice))
    return module


# --- what runs ----------------------------------------------------------------------------------------------------------------------------
# A call of a small layer takes a few microseconds and every Python frame around it counts: these are closures, with few frames.
# A program that is exported gets the original: it is meant to run where the kernels are not.


def _forward(layer: type[nn.Module], choice: KernelChoice) -> Forward:
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


def _in_training(layer: type[nn.Module], kernel: KernelLayer) -> Forward:
    return _differentiable(layer, kernel) if kernel.has_backward else _without_backward(layer, kernel, None)


def _differentiable(layer: type[nn.Module], kernel: KernelLayer) -> Forward:
    """A forward that runs a kernel with a backward, and does not believe it blindly."""
    call, identity, is_grad_enabled, tensor_type = _kernel_forward(layer, kernel), kernel.identity, torch.is_grad_enabled, torch.Tensor
    is_compiling = torch.compiler.is_compiling
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


def _without_backward(layer: type[nn.Module], kernel: KernelLayer, in_training: Forward | None) -> Forward:
    """A forward that runs a kernel without a backward, in training mode `in_training` if that is given; the gradient is the original's."""
    call, identity, is_grad_enabled = _kernel_forward(layer, kernel), kernel.identity, torch.is_grad_enabled
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


def _kernel_forward(layer: type[nn.Module], kernel: KernelLayer) -> Forward:
    """The kernel's forward, taking arguments as the layer's forward takes them: keywords may have other names there."""
    forward = _on_the_inputs_device(kernel.cls.forward)
    try:
        ours, theirs = forward_signature(kernel.cls), forward_signature(layer)
    except (TypeError, ValueError):
        return forward
    if list(ours.parameters) == list(theirs.parameters) or issubclass(layer, FunctionLayer):
        return forward

    def renamed(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        if kwargs:
            args, kwargs = kernel_arguments(ours, theirs, args, kwargs)
        return forward(self, *args, **kwargs)

    return renamed


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


def _path(self: nn.Module) -> str:
    return str(vars(self).get(PATH, ""))


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
