"""Runs the kernel once, and says what it did besides returning something."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from ..capture import _torch
from ..errors import KernelRuntimeError
from ..kernels.call import KernelCall, Slot
from ..kernels.lowering.autocast import autocast_to
from ..kernels.lowering.repairs import Repairs
from ..kernels.samples import Inputs, TensorSpec
from ..kernels.stand_in import stand_in
from ..passes.miss import Miss
from .guarded_memory import uncleared_memory
from .probe_case import ProbeCase
from .process_state import ProcessState
from .tolerances import Bounds
from .verdict import Evidence


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


@dataclass(frozen=True, eq=False)
class Context:
    """What all runs of a kernel at one choice of sizes have in common.

    Args:
        case: What is probed.
        specs: The inputs.
        computed: Positions of the outputs that the call computes.
        rounded: The coarsest dtype to which the layer rounds.
        evidence: What has been seen.
        keeps: Whether it is looked at what earlier runs were given and returned: a caller may still hold it.
    """

    case: ProbeCase
    specs: Inputs
    computed: tuple[int, ...]
    rounded: torch.dtype | None
    evidence: Evidence
    keeps: bool = True
    _kept: list[tuple[Sequence[Any], list[Any], str, Sequence[Any]]] = field(default_factory=list)

    @property
    def wanted(self) -> tuple[int, ...]:
        """Positions of the inputs whose gradients are wanted."""
        return tuple(n for n, spec in enumerate(self.specs) if isinstance(spec, TensorSpec) and spec.requires_grad)

    @property
    def arguments(self) -> list[int]:
        """Positions of the tensors that are not the layer's own."""
        return [n for n, spec in enumerate(self.specs) if isinstance(spec, TensorSpec) and not spec.of_layer]

    def bounds(self, dtype: torch.dtype) -> Bounds:
        """Return what a result of this dtype may be off by."""
        tensors = [spec for spec in self.specs if isinstance(spec, TensorSpec)]
        rows = [spec.span // max(spec.sizes, default=1) for spec in tensors]
        terms = max([*rows, *(size for spec in tensors for size in spec.sizes)], default=1)
        dtypes = [each for each in (dtype, self.rounded) if each is not None and each.is_floating_point]
        return Bounds.of(max(dtypes, key=lambda each: torch.finfo(each).eps, default=torch.float32), terms)

    def keep(self, tensors: Sequence[Any], what: str, names: Sequence[Any]) -> None:
        """Remember what a caller may still hold.

        Args:
            tensors: They must not change from now on.
            what: A phrase for them, with a field for the name.
            names: What they are called.
        """
        if self.keeps:
            self._kept.append((tensors, copies(tensors), what, names))

    def check_kept(self) -> None:
        """Refuse a kernel that has changed what it returned before, or was given.

        Raises:
            Refused: If it has.
        """
        for tensors, before, what, names in self._kept:
            for number in changed_positions(before, tensors):
                raise refused("numerics", "a later call changes {what}", what=what.format(name=names[number]))

    def forget_kept(self) -> None:
        """Stop looking at what was kept so far."""
        self._kept.clear()


class Runner:
    """Runs the kernel of a case.

    Args:
        case: The case.
        outputs: How many tensors the layer returns.
        repairs: The inputs of which the kernel gets copies.
    """

    def __init__(self, case: ProbeCase, outputs: int, repairs: Repairs | None = None) -> None:
        self._case, self._outputs = case, outputs
        self._build = stand_in(case.state, case.training)
        self._self: nn.Module | None = None
        self._attributes: dict[str, Any] = {}
        self.written: frozenset[int] = frozenset()
        self._call = KernelCall(
            case.kernel,
            "the probe",
            build_self=self._build_self,
            args=case.args,
            kwargs=case.kwargs,
            reference=case.reference,
            outputs=outputs,
            differentiable=False,
            repairs=repairs,
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
        case = self._case
        traced = _torch.as_if_compiling() if compiling else contextlib.nullcontext()
        try:
            with quietly(), traced, torch.set_grad_enabled(gradient), autocast_to(case.autocast, case.device.type):
                with leaving_everything_as_it_was("it"), uncleared_memory(case.device):
                    result = self._call.run(*inputs)
                    synchronize(case.device)
                return result
        except KernelRuntimeError as error:
            cause = error.__cause__ or error
            if isinstance(cause, torch.OutOfMemoryError):
                raise Unprobed("there is no memory to run it") from error
            raise refused("crash", "it raises {error}", error=described(cause)) from error
        except torch.AcceleratorError as error:
            raise refused("crash", "the device fails: {error}", error=described(error)) from error

    def _build_self(self, inputs: Sequence[Any]) -> nn.Module:
        values = [inputs[value.position] if type(value) is Slot else value for value in self._case.tensors.values()]
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
        specs, names = self._case.inputs[0], self._case.names
        for position in sorted(self.written):
            if not tolerate or specs[position].of_layer:
                raise refused("mutates_input", "its forward overwrites {name}, or gives it other memory", name=names[position])


@contextlib.contextmanager
def leaving_everything_as_it_was(who: str) -> Iterator[None]:
    """Put back the process state that a kernel has changed.

    Args:
        who: For the sentence.

    Raises:
        Refused: If it was changed.
    """
    around = ProcessState.now()
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
