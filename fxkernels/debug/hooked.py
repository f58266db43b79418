"""Hooked models: a hook runs in place of each kernel. They are captured and planned as always, and run without an inner compiler."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn

from ..backend import HubKernels
from ..capture import _torch
from ..capture.clone import clone_module
from ..capture.dynamo import KERNELIZED
from ..kernelized import Kernelized
from ..kernels.call import KernelCall
from ..options import Options
from ..passes.pipeline import graph_modules
from ..transform import kernelize, original

KernelHook = Callable[[KernelCall, tuple[Any, ...]], Any]
"""Runs in place of a kernel: takes its call and the inputs, and returns the outputs of the call."""


@dataclass(frozen=True)
class ModelWithOptions:
    """A model, and the options by which it gets its kernels.

    Args:
        model: The model without kernels.
        options: The options of its backend.
    """

    model: nn.Module
    options: Options

    @staticmethod
    def of(model: nn.Module, options: dict[str, Any]) -> ModelWithOptions:
        """Return a model without its kernels, and the options by which it has them or is to get them.

        Args:
            model: Any module, or what `kernelize` or `torch.compile` with our backend has made of one.
            options: Keyword arguments of `kernelize`, for a module that has no kernels yet.

        Raises:
            ValueError: If options are given for a model that was made with others.
        """
        found = _made_with(model) or _compiled_with(model)
        if found is None:
            found = _made_with(kernelize(model, **options))
            assert found is not None
        elif options:
            names = ", ".join(f"{name}=" for name in options)
            raise ValueError(f"this model has kernels already, by its own options; give {names} with the model that it came from")
        return found


def hooked(subject: ModelWithOptions, hook: KernelHook) -> tuple[Callable[..., Any], HubKernels]:
    """Return a model that runs a hook in place of each kernel, captured by Dynamo at the first call, and its backend."""
    clone = clone_module(subject.model)
    backend = HubKernels(subject.options)
    for path, module in clone.named_modules():
        backend.paths.put(module, path)

    def run(gm: fx.GraphModule) -> Callable[..., Any]:
        for owner in graph_modules(gm):
            for node in owner.graph.nodes:
                if isinstance(node.target, KernelCall):
                    node.target = _HookedCall(node.target, hook)
            owner.recompile()
        return gm.forward

    backend.session.runner = run
    compiled = torch.compile(clone._call_impl, backend=backend, **_torch.ISOLATED)

    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            return compiled(*args, **kwargs)
        except Exception as error:
            cause = _torch.cause_of(error)
            if cause is error:
                raise
            raise cause from cause.__cause__

    return call, backend


class _HookedCall:
    """The target of a node: calls a hook with the kernel's call."""

    def __init__(self, call: KernelCall, hook: KernelHook) -> None:
        self._call, self._hook = call, hook
        self.__name__, self.__qualname__, self.__module__ = call.__name__, call.__qualname__, call.__module__  # torch.fx prints it by these

    def __call__(self, *inputs: Any) -> Any:
        return self._hook(self._call, inputs)


def run_layer(call: KernelCall, inputs: tuple[Any, ...]) -> Any:
    """Return what the original layer returns instead of the kernel: one tensor, or a tuple of them."""
    outputs = call.reference(*inputs)
    return outputs[0] if len(outputs) == 1 else outputs


def _made_with(model: nn.Module) -> ModelWithOptions | None:
    """The options that `kernelize` has made this model with."""
    kernelized: Kernelized | None = vars(model).get(KERNELIZED)
    return ModelWithOptions(_in_the_mode_of(model), kernelized.backend.options) if kernelized is not None else None


def _in_the_mode_of(model: nn.Module) -> nn.Module:
    """The model without kernels, with the training flags of the one that has them: each has flags of its own."""
    flags = {path: module.training for path, module in model.named_modules(remove_duplicate=False)}
    plain = clone_module(original(model))
    for path, module in plain.named_modules(remove_duplicate=False):
        module.training = flags.get(path, module.training)
    return plain


def _compiled_with(model: nn.Module) -> ModelWithOptions | None:
    """The options of our backend with which `torch.compile` has made this model."""
    found = _torch.compiled_module(model)
    if found is None:
        return None
    module, compiler = found
    backend, wrapper = _torch.unwrapped_backend(compiler)
    resolve = getattr(backend, "hubkernels_for", None)
    if resolve is not None:
        return ModelWithOptions(module, resolve(wrapper).options)
    return _made_with(module)
