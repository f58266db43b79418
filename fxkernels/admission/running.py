"""Runs the kernel once, and says what it did besides returning something."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import nn

from ..capture import _torch
from ..errors import KernelRuntimeError
from ..kernels.call import KernelCall, Slot
from ..kernels.lowering.autocast import autocast_to
from ..kernels.stand_in import stand_in
from ..passes.miss import Miss
from .memory import uncleared_memory
from .request import Request, TensorSpec
from .surroundings import Surroundings


class Refused(Exception):
    """The kernel has failed a check.

    Args:
        miss: Which, and how.
    """

    def __init__(self, miss: Miss) -> None:
        super().__init__(str(miss))
        self.miss = miss


class Unprobed(Exception):
    """The kernel cannot be probed; the message says why."""


def refused(code: str, template: str, **data: Any) -> Refused:
    """Return the exception that ends a probe."""
    return Refused(Miss(code, template, data))


class Runner:
    """Runs the kernel of a request.

    Args:
        request: The request.
        outputs: How many tensors the layer returns.
        cloned: Positions of inputs of which the kernel gets copies.
    """

    def __init__(self, request: Request, outputs: int, cloned: Iterable[int] = ()) -> None:
        self._request, self._outputs = request, outputs
        self._build = stand_in(request.state, request.training)
        self._self: nn.Module | None = None
        self._attributes: dict[str, Any] = {}
        self.written: frozenset[int] = frozenset()
        self._call = KernelCall(
            request.kernel,
            "the probe",
            build_self=self._build_self,
            args=request.args,
            kwargs=request.kwargs,
            reference=request.reference,
            outputs=outputs,
            differentiable=False,
            recompute=False,
            cloned=cloned,
        )

    def __call__(
        self, inputs: Sequence[Any], *, gradient: bool, tolerate_writes: bool = False, compiling: bool = False
    ) -> tuple[torch.Tensor, ...]:
        """Return what the kernel returns for the inputs.

        Args:
            inputs: The inputs.
            gradient: Whether grad mode is on.
            tolerate_writes: Whether a kernel may overwrite its arguments; `written` then says which.
            compiling: Whether a compiler seems to trace it.

        Raises:
            Refused: If it raises, writes what it must not, or leaves something behind.
        """
        before, identities = copies(inputs), [_identity(value) for value in inputs]
        result = self._run(inputs, gradient, compiling)
        self._refuse_writes_to_self()
        changed = set(changed_positions(before, inputs))
        changed |= {n for n, value in enumerate(inputs) if _identity(value) != identities[n]}
        self.written = frozenset(changed)
        self._refuse_writes(tolerate_writes)
        outputs = (result,) if self._outputs == 1 else tuple(result)
        if not all(isinstance(output, torch.Tensor) for output in outputs):
            raise refused("output_metadata", "it returns something that is no tensor")
        return outputs

    def _run(self, inputs: Sequence[Any], gradient: bool, compiling: bool) -> Any:
        request = self._request
        traced = _torch.as_if_compiling() if compiling else contextlib.nullcontext()
        try:
            with quietly(), traced, torch.set_grad_enabled(gradient), autocast_to(request.autocast, request.device.type):
                with leaving_everything_as_it_was("it"), uncleared_memory(request.device):
                    result = self._call.run(*inputs)
                    synchronize(request.device)
                return result
        except KernelRuntimeError as error:
            cause = error.__cause__ or error
            if isinstance(cause, torch.OutOfMemoryError):
                raise Unprobed("there is no memory to run it") from error
            raise refused("crash", "it raises {error}", error=described(cause)) from error
        except torch.AcceleratorError as error:
            raise refused("crash", "the device fails: {error}", error=described(error)) from error

    def _build_self(self, inputs: Sequence[Any]) -> nn.Module:
        values = [inputs[value.position] if type(value) is Slot else value for value in self._request.tensors.values()]
        self._self = self._build(values)
        self._attributes = dict(attributes_of(self._self))
        return self._self

    def _refuse_writes_to_self(self) -> None:
        if self._self is None:
            return
        now = dict(attributes_of(self._self))
        for name in (*self._attributes, *now):
            if name not in now or name not in self._attributes or not _same(now[name], self._attributes[name]):
                raise refused("own_state", "it sets self.{name}", name=name)

    def _refuse_writes(self, tolerate: bool) -> None:
        specs, names = self._request.cases[0], self._request.names
        for position in sorted(self.written):
            if not tolerate or specs[position].of_layer:
                raise refused("mutates_input", "its forward overwrites {name}, or gives it other memory", name=names[position])


@contextlib.contextmanager
def leaving_everything_as_it_was(who: str) -> Iterator[None]:
    """Put back what everybody in the process shares.

    Args:
        who: For the sentence.

    Raises:
        Refused: If it was changed.
    """
    around = Surroundings.now()
    try:
        yield
    except BaseException:
        around.restore()
        raise
    changed = around.changed()
    if changed is not None:
        around.restore()
        raise refused(changed[0], "{who} changes {what}", who=who, what=changed[1])


def attributes_of(module: nn.Module, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield what a module and its submodules have, by dotted names."""
    for name, value in vars(module).items():
        if name == "_modules":
            for child_name, child in value.items():
                yield from attributes_of(child, f"{prefix}{child_name}.")
        elif name in ("_parameters", "_buffers"):
            yield from ((f"{prefix}{name}.{key}", tensor) for key, tensor in value.items())
        else:
            yield prefix + name, value


def copies(values: Iterable[Any]) -> list[Any]:
    """Return copies of the tensors among some values."""
    return [value.detach().clone() if isinstance(value, torch.Tensor) else value for value in values]


def changed_positions(before: Sequence[Any], after: Sequence[Any]) -> list[int]:
    """Return where tensors do not have the bits that they had."""
    pairs = enumerate(zip(before, after, strict=True))
    return [n for n, (old, new) in pairs if isinstance(new, torch.Tensor) and not same_bits(old, new)]


def _identity(value: Any) -> Any:
    """What a tensor is besides its values: where it lies, how it is read, whether it wants a gradient."""
    if not isinstance(value, torch.Tensor):
        return None
    return value.data_ptr(), value.dtype, value.shape, value.stride(), value.requires_grad


def same_bits(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether two tensors hold the same values; a NaN is like another."""
    one, other = one.detach(), other.detach()
    if one.shape != other.shape or one.dtype is not other.dtype:
        return False
    if torch.equal(one, other):
        return True
    if one.is_complex():
        one, other = torch.view_as_real(one), torch.view_as_real(other)
    return one.is_floating_point() and bool(((one == other) | (one.isnan() & other.isnan())).all())


def described(error: BaseException) -> str:
    """Return an exception in one line."""
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0][:300]}"


def shown(tensor: torch.Tensor) -> str:
    """Return what a tensor is, for a sentence."""
    spec = TensorSpec(tensor.dtype, tuple(tensor.shape), tuple(tensor.stride()), device=str(tensor.device))
    return str(spec)


def synchronize(device: torch.device) -> None:
    """Wait until a device has done everything; what failed there raises here."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type in ("xpu", "mps"):
        getattr(torch, device.type).synchronize()


def _same(one: Any, other: Any) -> bool:
    return one is other or (type(one) is type(other) and not isinstance(one, torch.Tensor) and bool(one == other))


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """A kernel's warnings are no failure of the probe, also where the user has made errors of them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
