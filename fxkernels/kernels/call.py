"""The node of a rewritten call: a callable that runs a kernel layer on graph values."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Sequence
from typing import Any

import torch

from ..errors import KernelRuntimeError
from .layer import KernelLayer
from .recompute import recomputed_backward

_log = logging.getLogger("fxkernels")


@dataclasses.dataclass(frozen=True, slots=True)
class Slot:
    """The place of a graph value in a call's arguments: its position among the inputs."""

    position: int


def flatten_tensors(output: Any) -> list[torch.Tensor]:
    """Return the tensors in a layer's output in order: of a tensor, list, tuple, dict or dataclass, nested as they may be."""
    if isinstance(output, torch.Tensor):
        return [output]
    if isinstance(output, dict):
        items: Any = output.values()
    elif isinstance(output, list | tuple):
        items = output
    elif dataclasses.is_dataclass(output) and not isinstance(output, type):
        items = [getattr(output, field.name) for field in dataclasses.fields(output)]
    else:
        return []
    return [tensor for item in items for tensor in flatten_tensors(item)]


class KernelCall:
    """Runs one kernel layer in the place of one region. Takes the region's inputs, returns its tensors (one, or a tuple).

    Args:
        kernel: The kernel layer.
        path: Module path of the call, for errors.
        build_self: From all inputs to the object that the kernel's forward sees as ``self``.
        args: The kernel's positional arguments; a `Slot` where a graph value goes.
        kwargs: The same by keyword.
        reference: From the same inputs to a tuple of the same outputs, by the original layer. Called only when its gradient is needed.
        outputs: Number of tensors that the call returns.
        differentiable: Whether the reference's outputs carry a gradient in this graph.
        recompute: Whether the gradient is the reference's, recomputed, rather than the kernel's own.

    Raises:
        KernelRuntimeError: When called, if the kernel raises.
    """

    def __init__(
        self,
        kernel: KernelLayer,
        path: str,
        *,
        build_self: Callable[[Sequence[Any]], Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        reference: Callable[..., tuple[torch.Tensor, ...]],
        outputs: int,
        differentiable: bool,
        recompute: bool,
    ) -> None:
        self.kernel, self.path = kernel, path
        self._build_self, self._args, self._kwargs = build_self, args, kwargs
        self._reference, self._outputs = reference, outputs
        self._differentiable, self._recompute = differentiable, recompute
        self._warned = False
        # torch.fx prints and names the node by these
        self.__name__ = self.__qualname__ = f"kernel_{kernel.cls.__name__}"
        self.__module__ = __name__

    def __repr__(self) -> str:
        return f"KernelCall({self.kernel.identity} at {self.path})"

    def __deepcopy__(self, memo: dict[int, Any]) -> KernelCall:
        return self  # graphs are deep-copied by inner compilers; a call has no state that could differ between copies

    def __call__(self, *inputs: Any) -> Any:
        if self._recompute and torch.is_grad_enabled():
            return recomputed_backward(self._run, self._reference, inputs)
        result = self._run(*inputs)
        if self._differentiable and torch.is_grad_enabled() and self._is_detached(result, inputs):
            self._warn()
            return recomputed_backward(self._run, self._reference, inputs)
        return result

    def _run(self, *inputs: Any) -> Any:
        try:
            args = _fill(self._args, inputs)
            kwargs = _fill(self._kwargs, inputs) if self._kwargs else self._kwargs
            output = self.kernel.cls.forward(self._build_self(inputs), *args, **kwargs)
        except Exception as error:
            raise KernelRuntimeError(self.path, self.kernel.identity, error) from error
        tensors = [output] if isinstance(output, torch.Tensor) else flatten_tensors(output)
        if len(tensors) != self._outputs:
            message = f"it returned {len(tensors)} tensors where the layer returns {self._outputs}"
            raise KernelRuntimeError(self.path, self.kernel.identity, ValueError(message))
        return tensors[0] if self._outputs == 1 else tuple(tensors)

    def _is_detached(self, result: Any, inputs: tuple[Any, ...]) -> bool:
        outputs = (result,) if isinstance(result, torch.Tensor) else result
        if any(tensor.requires_grad for tensor in outputs):
            return False
        return any(isinstance(value, torch.Tensor) and value.requires_grad for value in inputs)

    def _warn(self) -> None:
        if not self._warned:
            self._warned = True
            _log.warning(
                "%s at %s returns a detached output; its gradient is the original layer's, recomputed", self.kernel.identity, self.path
            )


def _fill(template: Any, inputs: tuple[Any, ...]) -> Any:
    if type(template) is Slot:
        return inputs[template.position]
    if type(template) is tuple:
        return tuple([_fill(item, inputs) for item in template])
    if type(template) is list:
        return [_fill(item, inputs) for item in template]
    if type(template) is dict:
        return {key: _fill(item, inputs) for key, item in template.items()}
    if type(template) is slice:
        return slice(_fill(template.start, inputs), _fill(template.stop, inputs), _fill(template.step, inputs))
    return template
