"""The contract of a kernel layer: the gates that it passes before it may stand in for a reference. Nothing is run here."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Set

from torch import nn

from ..passes.gate import Gate
from ..passes.miss import Miss
from .attributes import attributes_read, writes_to_layer
from .layer import KernelLayer
from .origin import LayerOrigin
from .signature import forward_signature, signature_difference

CONTRACT = Gate("contract", "candidate", ("own_state", "signature", "missing_attribute"))
"""Does the kernel take what the layer takes, and read only what the layer has?"""

_OWN = frozenset({"forward", "has_backward", "can_torch_compile", "extra_repr"})
# What the interpreter puts into a class by itself, up to Python 3.14.
_NOISE = frozenset(
    {
        "__module__",
        "__qualname__",
        "__doc__",
        "__dict__",
        "__weakref__",
        "__annotations__",
        "__annotate__",
        "__annotate_func__",
        "__annotations_cache__",
        "__conditional_annotations__",
        "__classdictcell__",
        "__static_attributes__",
        "__firstlineno__",
        "__orig_bases__",
        "__parameters__",
        "__type_params__",
    }
)
_PROVIDED = frozenset(dir(nn.Module)) | frozenset(vars(nn.Module()))
_LISTED = 12


def breaks_contract(kernel: KernelLayer, origin: LayerOrigin, positional: int, keywords: tuple[str, ...]) -> Miss | None:
    """Return why a kernel layer cannot be called as a layer is; None if it can.

    Args:
        kernel: The kernel layer.
        origin: Where the layer call comes from.
        positional: How many arguments the call passes by position.
        keywords: The names of those that it passes by keyword.
    """
    attributes = origin.state.available if origin.state is not None else frozenset[str]()
    return (
        has_no_own_state(kernel)
        or leaves_the_layer_alone(kernel)
        or signature_agrees(kernel, origin.signature, positional, keywords)
        or attributes_exist(kernel, attributes)
    )


def has_no_own_state(kernel: KernelLayer) -> Miss | None:
    """Miss with ``own_state`` unless the class is an `nn.Module` that brings only a forward and its flags.

    Its forward runs with the replaced layer (or a stand-in) as ``self``; constructor, class attributes and methods would be left behind.
    """
    if not issubclass(kernel.cls, nn.Module):
        return Miss("own_state", "{cls} is not derived from torch.nn.Module", {"cls": kernel.cls.__name__})
    own: list[str] = []
    for cls in kernel.cls.__mro__:
        if cls is not nn.Module and cls is not object:
            own += [name for name in vars(cls) if name not in _OWN | _NOISE and name not in own]
    if not own:
        return None
    return Miss(
        "own_state",
        "{cls} brings {members}, which the layer it replaces lacks; a kernel layer has only forward, has_backward and can_torch_compile",
        {"cls": kernel.cls.__name__, "members": ", ".join(own)},
    )


def leaves_the_layer_alone(kernel: KernelLayer) -> Miss | None:
    """Miss with ``own_state`` if the kernel's forward writes to its ``self``, naming the lines.

    The layer is the user's; a kernel runs with a stand-in for it, where what it leaves behind would be lost. Writes that its text does not
    show are found by the probe, which looks at the stand-in.
    """
    writes = writes_to_layer(kernel)
    if not writes:
        return None
    data = {"cls": kernel.cls.__name__, "writes": ", ".join(map(str, writes[:_LISTED]))}
    return Miss("own_state", "{cls} writes to the layer: {writes}; a kernel layer only reads it", data)


def signature_agrees(
    kernel: KernelLayer, reference: inspect.Signature, bound_positional: int, passed_keywords: tuple[str, ...]
) -> Miss | None:
    """Miss with ``signature`` unless the kernel's forward takes this call as the reference does.

    Args:
        kernel: The kernel layer.
        reference: Signature of what it replaces, without ``self``.
        bound_positional: How many arguments the call passes by position.
        passed_keywords: The names of those it passes by keyword.
    """
    try:
        signature = forward_signature(kernel.cls)
    except (TypeError, ValueError) as error:
        return Miss("signature", "the forward of {cls} has no readable signature: {error}", {"cls": kernel.cls.__name__, "error": error})
    difference = signature_difference(signature, reference, bound_positional, passed_keywords)
    if difference is None:
        return None
    return Miss(
        "signature",
        "{difference}: the kernel's forward takes {kernel}, the layer's takes {reference}",
        {"difference": difference, "kernel": _plain(signature), "reference": _plain(reference)},
    )


def attributes_exist(kernel: KernelLayer, available: Collection[str]) -> Miss | None:
    """Miss with ``missing_attribute`` if the kernel's forward reads something from ``self`` that the layer lacks.

    Args:
        kernel: The kernel layer.
        available: What the layer has, in the order in which the message lists it (a set is sorted). What every `nn.Module` has needs no
            mention.
    """
    missing = sorted(attributes_read(kernel) - _PROVIDED - {*available, "has_backward", "can_torch_compile"})
    if not missing:
        return None
    names = sorted(available) if isinstance(available, Set) else [*available]
    shown, rest = names[:_LISTED], len(names) - _LISTED
    return Miss(
        "missing_attribute",
        "it reads {missing}; the layer has: {available}",
        {
            "missing": ", ".join(f"self.{name}" for name in missing),
            "available": (", ".join(shown) or "(nothing)") + (f" and {rest} more" if rest > 0 else ""),
        },
    )


def _plain(signature: inspect.Signature) -> str:
    """The signature without annotations: they are not compared."""
    parameters = [parameter.replace(annotation=inspect.Parameter.empty) for parameter in signature.parameters.values()]
    return str(inspect.Signature(parameters))
