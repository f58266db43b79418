"""A rewritten layer: an annotated layer whose class has been exchanged for a subclass that runs a kernel, or the original.

The class is the place for it because everything else about the layer then stays as it is: parameters, hooks, training flag, children,
`isinstance`, repr, state-dict keys. Only modules of a clone are ever treated so; the user's are not touched.
"""

from __future__ import annotations

import contextlib
import inspect
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from weakref import WeakValueDictionary

import torch
from torch import nn
from torch.compiler import is_dynamo_compiling, is_exporting

from ..kernels.layer import KernelLayer
from .call_gate import GATE, KERNELIZED, CallGate, Ruling
from .clone import OWN, clone_module
from .kernel_forward import PLACE, REFERENCE, Forward, Place, chosen_forward, decided_forward

_classes: WeakValueDictionary[tuple[type[nn.Module], KernelChoice, bool], type[nn.Module]] = WeakValueDictionary()
_classes_lock = threading.Lock()


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
    vars(module)[PLACE] = Place(path)
    layer = type(vars(module)[REFERENCE]) if is_rewritten(module) else type(module)
    _attach_reference(module, layer)
    return _over_state_of(module, rewritten_class(layer, choice, is_gated=GATE in vars(module)))


def rewrite_in_place(module: nn.Module, choice: KernelChoice, path: str, gate: CallGate | None = None) -> None:
    """Have `module` itself run the chosen kernels, wherever it is referred to. See `rewritten_layer`.

    Args:
        module: The layer.
        choice: Which kernel may run when.
        path: Its module path.
        gate: Who decides what runs for each form of call, if not just the choice.
    """
    vars(module)[PLACE] = Place(path)
    if gate is not None:
        attach_gate(module, gate)
    _attach_reference(module, type(module))
    # Not by setattr: a layer may have a __setattr__ of its own.
    object.__setattr__(module, "__class__", rewritten_class(type(module), choice, is_gated=gate is not None))


def attach_gate(module: nn.Module, gate: CallGate) -> None:
    """Have a gate decide what the layer runs, once it is rewritten, and whatever else is rewritten over its state."""
    vars(module)[GATE] = vars(module)[KERNELIZED] = gate


def is_rewritten(module: nn.Module) -> bool:
    """Whether the module runs kernels; its twin of the original class, which has the same state, does not."""
    reference = vars(module).get(REFERENCE)
    return reference is not None and type(reference) is not type(module)


def without_rewriting(module: nn.Module) -> nn.Module:
    """Return a clone of a rewritten layer that is as it was before, down to its submodules, and has no hooks of its own: those run around
    what is rewritten.
    """
    plain = clone_module(module).module
    for part in plain.modules():
        state = vars(part)
        if is_rewritten(part):
            object.__setattr__(part, "__class__", type(state[REFERENCE]))
        for name in (PLACE, REFERENCE, GATE, KERNELIZED):
            state.pop(name, None)
    for name in OWN - {"_modules"}:
        vars(plain)[name].clear()
    return plain


def _attach_reference(module: nn.Module, layer: type[nn.Module]) -> None:
    vars(module)[REFERENCE] = _over_state_of(module, layer)


def _over_state_of(module: nn.Module, cls: type[nn.Module]) -> nn.Module:
    other: nn.Module = object.__new__(cls)
    object.__setattr__(other, "__dict__", vars(module))
    return other


def rewritten_class(layer: type[nn.Module], choice: KernelChoice, *, is_gated: bool = False) -> type[nn.Module]:
    """Return the subclass of `layer` that runs the chosen kernels: one class for equal arguments, with the name and module of `layer`.

    Its instances can be pickled and deep-copied as far as those of `layer` can, and stay rewritten.

    Args:
        layer: The layer's class.
        choice: Which kernel may run when.
        is_gated: Whether its instances have a gate.
    """
    with _classes_lock:
        cls = _classes.get((layer, choice, is_gated))
        if cls is None:
            cls = _classes[layer, choice, is_gated] = _make_class(layer, choice, is_gated)
        return cls


def _make_class(layer: type[nn.Module], choice: KernelChoice, is_gated: bool) -> type[nn.Module]:
    forward = _gated_forward(layer, choice) if is_gated else chosen_forward(layer, choice)

    def reduce(self: nn.Module, protocol: Any) -> Any:
        state = self.__getstate__()  # type: ignore[no-untyped-call]
        return _restore, (layer, choice, is_gated), {name: value for name, value in state.items() if name != REFERENCE}

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
    if is_gated:
        own["__setattr__"] = _forgetting(layer)
    make: Callable[..., type[nn.Module]] = type(layer)
    return make(layer.__name__, (layer,), {**own, "forward": forward, "__reduce_ex__": reduce, "__setstate__": set_state})


def _forgetting(layer: type[nn.Module]) -> Callable[[nn.Module, str, Any], None]:
    """A ``__setattr__`` after which the calls of the layer are decided anew: what was decided holds for the layer as it was."""

    def set_attribute(self: nn.Module, name: str, value: Any) -> None:
        before = vars(self).get(name, self)
        layer.__setattr__(self, name, value)
        # Tensors and the training flag are a part of each call's form.
        if name != "training" and not isinstance(value, torch.Tensor) and before is not value:
            vars(self)[GATE].memory.forget()

    return set_attribute


def _restore(layer: type[nn.Module], choice: KernelChoice, is_gated: bool) -> nn.Module:
    """Make the empty instance that unpickling fills."""
    module: nn.Module = object.__new__(rewritten_class(layer, choice, is_gated=is_gated))
    return module


def _gated_forward(layer: type[nn.Module], choice: KernelChoice) -> Forward:
    """A forward that runs what the layer's gate says. Dynamo is shown the original: there a backend decides, about the captured call."""
    reference: Forward = layer.forward
    may_run = (choice.inference is not None, choice.training is not None)

    def runner(ruling: Ruling) -> Forward:
        return decided_forward(layer, ruling)

    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        if is_dynamo_compiling():
            return vars(self)[REFERENCE].forward(*args, **kwargs)
        if is_exporting() or not may_run[self.training]:
            return reference(self, *args, **kwargs)
        gate: CallGate = self.__dict__[GATE]
        for fits, run in gate.memory.recent:
            if fits(self, args, kwargs):
                return run(self, *args, **kwargs)
        found = gate.memory.find(self, args, kwargs)
        if found is None:
            found = gate.decide(self, args, kwargs, layer, runner)
        return found(self, *args, **kwargs)

    return forward
