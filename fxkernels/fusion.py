"""Fusions: annotated layers that the model's author did not write. The public words, and which fusions are in force."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from threading import Lock
from types import TracebackType
from typing import Any, ClassVar, TypeVar
from weakref import WeakKeyDictionary

from torch import nn

from .annotate import annotated_names
from .builtin import BUILTIN_CUDA_LAYERS
from .mapping import current_mapping
from .passes.patterns import ANY, Layer, Pattern, one_of

__all__ = ["ANY", "Fusion", "FusionContext", "Layer", "alternative", "known_fusions", "one_of", "register_fusion", "use_fusions"]

TRANSFORMERS_LAYERS = frozenset(
    "EsmFold2TriangleMultiplication FastGELU GeLU GeluTanh Llama4TextMoe MegaBlocksMoeMLP MultiScaleDeformableAttention NewGELU QuickGELU"
    " Qwen3_5GatedDeltaNet RMSNorm RMSNormGated RMSNormZeroCentered SiLU SoftmaxTopKRouter rotary_pos_emb".split()
)
"""The layer names that models of transformers are annotated with (5.22.2, 5.24.0)."""

_Method = TypeVar("_Method", bound=Callable[..., Any])
_ALTERNATIVE = "_fxkernels_alternative"


def alternative(method: _Method) -> _Method:
    """Mark a method of a `Fusion` as another spelling of its composition.

    Its parameters are some of those of ``forward``; the others have their defaults in a match.
    """
    setattr(method, _ALTERNATIVE, True)
    return method


class Fusion(nn.Module):
    """A composition of operations that a kernel may replace: the ``forward`` is the pattern, and a match is a layer call.

    A mapping sends the layer name to a kernel repository, as for an annotated layer. The kernel layer's forward takes the parameters of
    this forward, and reads the weights and constants of an atom ``norm = Layer("RMSNorm")`` from ``self.norm``. What a kernel has to equal
    is the operations that were matched.

    The forward is straight-line code on its parameters, with operations of torch in any spelling. It says what may vary with `ANY`,
    `one_of`, `Layer`, and further methods marked `alternative`. A parameter is a value of the graph or a constant, such as a scale.

    Example:
        >>> class AddRMSNorm(Fusion):
        ...     norm = Layer("RMSNorm")
        ...
        ...     def forward(self, hidden_states, residual):
        ...         residual = residual + hidden_states
        ...         return self.norm(residual), residual
        >>> register_fusion(AddRMSNorm)
    """

    layer_name: ClassVar[str] = ""
    """The name that mappings use; by default that of the class."""

    def __init__(self) -> None:
        super().__init__()
        for name, atom in atoms_of(type(self)).items():
            setattr(self, name, atom)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "layer_name" not in vars(cls):
            cls.layer_name = cls.__name__


def is_fusion(reference: object) -> bool:
    """Return whether what a layer call refers to is a fusion, and no layer or function of the model's author."""
    return isinstance(reference, type) and issubclass(reference, Fusion)


def atoms_of(fusion: type[Fusion]) -> dict[str, Layer]:
    """Return the atoms of a fusion by the names of their attributes."""
    return {name: value for cls in reversed(fusion.__mro__) for name, value in vars(cls).items() if isinstance(value, Layer)}


def signature_of(fusion: type[Fusion]) -> inspect.Signature:
    """Return the signature of the fusion's forward, without ``self``; it is the signature that its kernels are held to."""
    signature = inspect.signature(fusion.forward)
    return signature.replace(parameters=list(signature.parameters.values())[1:])


def patterns_of(fusion: type[Fusion]) -> tuple[Pattern, ...]:
    """Return the fusion's patterns: its forward, then its alternatives in the order in which they are written.

    Raises:
        ValueError: If a method is no pattern, or an alternative has other parameters than the forward. The message says where and why.
    """
    if fusion not in _patterns:
        _patterns[fusion] = tuple(_traced(fusion))
    return _patterns[fusion]


def _traced(fusion: type[Fusion]) -> Iterator[Pattern]:
    module = fusion()
    methods = ["forward", *(name for cls in reversed(fusion.__mro__) for name, value in vars(cls).items() if hasattr(value, _ALTERNATIVE))]
    parameters = signature_of(fusion).parameters
    for name in methods[1:]:
        given = list(inspect.signature(getattr(fusion, name)).parameters)[1:]
        if unknown := [each for each in given if each not in parameters]:
            raise ValueError(
                f"{fusion.__qualname__}.{name} has the parameters {', '.join(unknown)}, which forward({', '.join(parameters)}) lacks:"
                " kernels take the parameters of forward"
            )
        required = [each for each, parameter in parameters.items() if parameter.default is parameter.empty and each not in given]
        if required:
            raise ValueError(
                f"{fusion.__qualname__}.{name} lacks {', '.join(required)}: give forward a default for what another spelling does not have"
            )
    yield from (Pattern.of(module, name) for name in dict.fromkeys(methods))


class FusionContext:
    """What `use_fusions` returns. It keeps no state, so it may be entered again, nested, and by several threads and tasks at once."""

    def __init__(self, fusions: tuple[type[Fusion], ...]) -> None:
        self.fusions = fusions

    def __enter__(self) -> FusionContext:
        _active.set((*_active.get(), self))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        contexts = _active.get()
        places = [place for place, context in enumerate(contexts) if context is self]
        if not places:
            raise RuntimeError("this thread or task has not entered the fusions it leaves; do both in one, best with a `with` block")
        _active.set(contexts[: places[-1]] + contexts[places[-1] + 1 :])


# Replaced as a whole under the lock, as registered mappings are.
_registered: dict[str, type[Fusion]] = {}
_registration = Lock()
_patterns: WeakKeyDictionary[type[Fusion], tuple[Pattern, ...]] = WeakKeyDictionary()
_active: ContextVar[tuple[FusionContext, ...]] = ContextVar("fxkernels_fusions", default=())


def register_fusion(fusion: type[Fusion]) -> type[Fusion]:
    """Make a fusion known in the whole process, and return it, so that this can be a decorator.

    It acts where a kernel is mapped to its layer name, and nowhere else.

    Args:
        fusion: A class derived from `Fusion`.

    Raises:
        TypeError: If it is none.
        ValueError: If its forward or one of its alternatives is no pattern, if another fusion has its layer name, or if an atom has a name
            that no layer and no kernel is known by.

    Example:
        >>> @register_fusion
        ... class ScaledSum(Fusion):
        ...     def forward(self, x, y, scale):
        ...         return (x + y) * scale
    """
    global _registered
    _check(fusion)
    with _registration:
        other = _registered.get(fusion.layer_name)
        # A notebook's cell that is run again defines the same class once more.
        if other is not None and (other.__module__, other.__qualname__) != (fusion.__module__, fusion.__qualname__):
            raise ValueError(
                f"the layer name {fusion.layer_name!r} is taken by the fusion {other.__module__}.{other.__qualname__}:"
                f" set another layer_name in {fusion.__qualname__}"
            )
        _registered = {**_registered, fusion.layer_name: fusion}
    return fusion


def use_fusions(*fusions: type[Fusion]) -> FusionContext:
    """Return a context manager in which these fusions are known besides those that are registered, for the current thread or task only.

    One with the layer name of a registered fusion hides it.

    Raises:
        TypeError, ValueError: As `register_fusion`, at once and not when the context is entered.

    Example:
        >>> with use_fusions(AddRMSNorm), use_kernel_mapping({"AddRMSNorm": {"cuda": repository}}):
        ...     model = kernelize(model)
    """
    for fusion in fusions:
        _check(fusion)
    names = [fusion.layer_name for fusion in fusions]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ValueError(f"two of these fusions have the layer name {twice!r}")
    return FusionContext(fusions)


def known_fusions() -> Iterator[type[Fusion]]:
    """Yield the registered fusions, and then those of the active contexts from the outermost to the innermost."""
    yield from _registered.values()
    for context in _active.get():
        yield from context.fusions


def _check(fusion: Any) -> None:
    if not is_fusion(fusion) or fusion is Fusion:
        raise TypeError(f"a fusion is a class derived from fxkernels.Fusion, not {fusion!r}")
    known = annotated_names() | TRANSFORMERS_LAYERS | {*BUILTIN_CUDA_LAYERS, *current_mapping().layer_names}
    for attribute, atom in atoms_of(fusion).items():
        if atom.layer_name not in known:
            near = difflib.get_close_matches(atom.layer_name, known, n=1)
            meant = f" Did you mean {near[0]!r}?" if near else ""
            raise ValueError(
                f"{fusion.__qualname__}.{attribute} is Layer({atom.layer_name!r}), but no layer is annotated with that name and no kernel"
                f" is mapped to it.{meant} Annotate the layer first, with use_kernel_forward_from_hub({atom.layer_name!r})."
            )
    patterns_of(fusion)
