"""The node of a rewritten call: a callable that runs a kernel layer on graph values."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

import torch

from ..errors import KernelRuntimeError
from .layer import KernelLayer
from .lowering.output_order import laid_out
from .lowering.repairs import Repairs
from .lowering.triton import call_routed
from .recompute import is_cut, recomputed_backward
from .second_order import is_twice_differentiable

_log = logging.getLogger("fxkernels")

_ONCE_DIFFERENTIABLE = (
    "its backward may use what its forward computed, which autograd takes for a constant, so the gradient that create_graph=True asks for "
    "could not be differentiated correctly (where saved tensors are packed, as by checkpoint, nobody can tell). Use backward='recompute'."
)


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


class Operators(Protocol):
    """A kernel as an operator of its own, see `lowering/opaque.py`."""

    @property
    def has_own_backward(self) -> bool:
        """Whether `differentiable` may be called."""

    def __call__(self, *inputs: Any) -> Any:
        """Run it without a gradient."""

    def differentiable(self, *inputs: Any) -> Any:
        """Run it with its own gradient."""


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
        repairs: What makes the kernel right. The gradient of a kernel without a backward is recomputed in any case.
        operators: What is called instead of the kernel's Python, in a graph whose compiler cannot follow that. They copy inputs and
            outputs themselves.
        launches: Whether it launches Triton kernels by itself, which a compiler has to be shown.

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
        repairs: Repairs | None = None,
        operators: Operators | None = None,
        launches: bool = False,
    ) -> None:
        self.kernel, self.path = kernel, path
        self._build_self, self._args, self._kwargs = build_self, args, kwargs
        self._reference, self._outputs = reference, outputs
        self.repairs, self.operators = repairs or Repairs(), operators
        self._differentiable, self._copied = differentiable, frozenset(self.repairs.copied_inputs)
        has_backward = kernel.has_backward if operators is None else operators.has_own_backward
        self._recompute = not has_backward or self.repairs.recompute is not None
        self._python = self._routed if launches else self.run
        self._warned = self._is_followed = False
        # Whether the kernel's own gradient has one in turn; None until it is known.
        self._is_smooth: bool | None = None
        # Equal in every process for calls that do the same; None if nobody can say that, as of Python that is traced.
        self.cache_key: str | None = None
        # torch.fx prints and names the node by these
        self.__name__ = self.__qualname__ = f"kernel_{kernel.cls.__name__}"
        self.__module__ = __name__

    def __repr__(self) -> str:
        return f"KernelCall({self.kernel.identity} at {self.path})"

    def __deepcopy__(self, memo: dict[int, Any]) -> KernelCall:
        return self  # graphs are deep-copied by inner compilers; a call has no state that could differ between copies

    @property
    def copied(self) -> frozenset[int | str]:
        """Positions and names of those of the kernel's arguments of which it gets copies, as it overwrites them."""
        arguments: tuple[tuple[int | str, Any], ...] = (*enumerate(self._args), *self._kwargs.items())
        return frozenset(key for key, value in arguments if any(slot in self._copied for slot in _positions(value)))

    def __call__(self, *inputs: Any) -> Any:
        operators = self.operators
        run = self._python if operators is None else operators
        if not torch.is_grad_enabled():
            return run(*inputs)
        if self._recompute:
            return recomputed_backward(run, self._reference, inputs)
        if operators is not None:
            return operators.differentiable(*inputs) if _needs_gradient(inputs) else operators(*inputs)
        result = run(*inputs)
        if self._differentiable and self._is_detached(result, inputs):
            return recomputed_backward(run, self._reference, inputs)
        if not self._is_smooth and not torch.compiler.is_compiling():
            self._guard_second_order(result, inputs)
        return result

    @property
    def reference(self) -> Callable[..., tuple[torch.Tensor, ...]]:
        """What the original layer computes: from the same inputs to a tuple of the same outputs."""
        return self._reference

    @property
    def recomputes(self) -> bool:
        """Whether the gradient is the original layer's, recomputed: by request, or because the kernel's own turned out to be cut."""
        return self._recompute or self._warned

    def watch_recomputation(self, note: Callable[[], None]) -> None:
        """Have somebody told whenever the original layer is run for its gradient. Not from code that a compiler has made of it."""
        reference = self._reference

        def watched(*inputs: Any) -> tuple[torch.Tensor, ...]:
            if not any(is_traced(value) for value in inputs):
                note()
            return reference(*inputs)

        self._reference = watched

    def run(self, *inputs: Any) -> Any:
        """Return what the kernel returns: one tensor, or a tuple of them.

        Raises:
            KernelRuntimeError: If it raises, or returns another number of tensors.
        """
        device = other_device(inputs)
        if device is not None:
            with torch.cuda.device(device):
                return self._run(inputs)
        return self._run(inputs)

    def _routed(self, *inputs: Any) -> Any:
        return call_routed(self.run, inputs)

    def _run(self, inputs: tuple[Any, ...]) -> Any:
        if self._copied:
            inputs = tuple([value.clone() if position in self._copied else value for position, value in enumerate(inputs)])
        try:
            args = fill_slots(self._args, inputs)
            kwargs = fill_slots(self._kwargs, inputs) if self._kwargs else self._kwargs
            output = self.kernel.cls.forward(self._build_self(inputs), *args, **kwargs)
        except Exception as error:
            if type(error).__module__ == "torch.utils.checkpoint":
                raise  # no error of the kernel: a recomputation stops in this way once it has all that the backward needs
            raise KernelRuntimeError(self.path, self.kernel.identity, error) from error
        tensors = [output] if isinstance(output, torch.Tensor) else flatten_tensors(output)
        if len(tensors) != self._outputs:
            message = f"it returned {len(tensors)} tensors where the layer returns {self._outputs}"
            raise KernelRuntimeError(self.path, self.kernel.identity, ValueError(message))
        for position, order in self.repairs.reordered_outputs:
            tensors[position] = laid_out(tensors[position], order)
        return tensors[0] if self._outputs == 1 else tuple(tensors)

    def _is_detached(self, result: Any, inputs: tuple[Any, ...]) -> bool:
        """Whether the gradient does not get through the kernel, although somebody needs it. If so, it never will be asked to again."""
        outputs = (result,) if isinstance(result, torch.Tensor) else result
        attached = any(tensor.requires_grad for tensor in outputs)
        if attached and (self._is_followed or not is_cut(outputs, inputs)):
            self._is_followed = True
            return False
        if not _needs_gradient(inputs):
            return False
        self._recompute = attached
        self._warn("returns a detached output" if not attached else "has an operator without a backward")
        return True

    def _guard_second_order(self, result: Any, inputs: tuple[Any, ...]) -> None:
        """Make it an error to differentiate the kernel's backward, if that may miss terms."""
        outputs = (result,) if isinstance(result, torch.Tensor) else result
        # While somebody traces, the tensors are of other types. In transforms of torch.func every backward creates a graph.
        own = [tensor for tensor in outputs if type(tensor) is torch.Tensor and tensor.grad_fn is not None]
        if not own or torch.func.debug_unwrap(own[0]) is not own[0]:
            return
        if self._is_smooth is None:
            self._is_smooth = is_twice_differentiable(own, inputs)
            if self._is_smooth:
                return
        others = {value.grad_fn for value in inputs if isinstance(value, torch.Tensor)}
        nodes: set[Any] = {tensor.grad_fn for tensor in own}
        for node in nodes - others:
            node.register_prehook(self._refuse_second_order)

    def _refuse_second_order(self, gradients: Any) -> None:
        if torch.is_grad_enabled():  # in a backward: with create_graph=True only
            raise KernelRuntimeError(self.path, self.kernel.identity, NotImplementedError(_ONCE_DIFFERENTIABLE))

    def _warn(self, problem: str) -> None:
        if not self._warned:
            self._warned = True
            _log.warning("%s at %s %s; its gradient is the original layer's, recomputed", self.kernel.identity, self.path, problem)


def _needs_gradient(inputs: tuple[Any, ...]) -> bool:
    return any(isinstance(value, torch.Tensor) and value.requires_grad for value in inputs)


def other_device(inputs: Iterable[Any]) -> int | None:
    """Return the CUDA device of the inputs, if it is not the current one. Launches go to the current one, wherever the tensors are."""
    for value in inputs:
        # While somebody traces, the tensors are of other types, and nothing is launched.
        if type(value) in (torch.Tensor, torch.nn.Parameter) and value.is_cuda:
            index = value.get_device()
            return index if index != torch.cuda.current_device() else None
    return None


def is_traced(value: Any) -> bool:
    """Whether a value is a tensor without data, by which somebody traces what is done with it."""
    if not isinstance(value, torch.Tensor):
        return False
    plain = torch.func.debug_unwrap(value)  # the reference's gradient is taken by a transform of torch.func
    return type(plain) not in (torch.Tensor, torch.nn.Parameter)


def fill_slots(template: Any, inputs: tuple[Any, ...]) -> Any:
    """Return arguments with the inputs in the places of their slots."""
    if type(template) is Slot:
        return inputs[template.position]
    if type(template) is tuple:
        return tuple([fill_slots(item, inputs) for item in template])
    if type(template) is list:
        return [fill_slots(item, inputs) for item in template]
    if type(template) is dict:
        return {key: fill_slots(item, inputs) for key, item in template.items()}
    if type(template) is slice:
        return slice(fill_slots(template.start, inputs), fill_slots(template.stop, inputs), fill_slots(template.step, inputs))
    return template


def _positions(template: Any) -> list[int]:
    """The inputs that go into an argument."""
    if type(template) is Slot:
        return [template.position]
    items = template.values() if isinstance(template, dict) else template if isinstance(template, tuple | list) else ()
    return [position for item in items for position in _positions(item)]
