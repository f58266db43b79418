"""Fusions as the passes look for them: their patterns, and where a match stands in the user's model."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn

from .capture.paths import ModulePaths, without_root
from .fusion import Fusion, patterns_of, signature_of
from .kernels.origin import LayerOrigin
from .kernels.stand_in import LayerState
from .passes.example_values import example
from .passes.fuse import Composition
from .passes.layer_call import CallSite
from .passes.match import Match


def names_of_atoms(fusions: Iterable[type[Fusion]]) -> frozenset[str]:
    """Return the layer names that these fusions are made of: capture has to look at the arguments and tensors of such calls."""
    return frozenset(name for fusion in fusions for pattern in patterns_of(fusion) for name in pattern.layers.values())


def compositions(fusions: Iterable[type[Fusion]], paths: ModulePaths, owner: Any, *, parts_only: bool) -> tuple[Composition, ...]:
    """Return what is looked for in the graphs of a backend.

    Args:
        fusions: The fusions.
        paths: The module paths of the backend's models.
        owner: The backend.
        parts_only: Whether only matches inside of modules with a known path count, because the rest of the graph is somebody else's.
    """
    known = paths.by_identity()
    return tuple([_composition(fusion, _Places(known, parts_only), owner) for fusion in fusions])


def _composition(fusion: type[Fusion], places: _Places, owner: Any) -> Composition:
    signature = signature_of(fusion)
    defaults = {name: None if each.default is each.empty else each.default for name, each in signature.parameters.items()}
    code = fusion.forward.__code__

    def site(match: Match) -> CallSite | None:
        around = places.innermost([*match.operations, *(node for call in match.layers.values() for node in call.region)])
        if around is None:
            return None
        children = {atom: call.site.origin.state or LayerState(nn.Module) for atom, call in match.layers.items()}
        origin = LayerOrigin(fusion, signature, is_function=False, state=LayerState(nn.Module, children=children))
        return CallSite(
            path=f"{around}.{fusion.layer_name}" if around else fusion.layer_name,
            layer_name=fusion.layer_name,
            layer=fusion.__qualname__,
            location=f"{inspect.getsourcefile(fusion.forward) or code.co_filename}:{code.co_firstlineno}",
            training=_is_training(match),
            origin=origin,
            owner=owner,
        )

    return Composition(fusion.layer_name, patterns_of(fusion), defaults, site)


def _is_training(match: Match) -> bool:
    """The training flag of the atoms; without atoms, whether a gradient is needed."""
    if match.layers:
        return any(call.site.training for call in match.layers.values())
    return torch.is_grad_enabled() and any(getattr(example(node), "requires_grad", False) for node in match.outputs)


@dataclass(frozen=True)
class _Places:
    """Which module an operation belongs to, by the identities of the modules around it, which Dynamo writes into the metadata of nodes.

    Args:
        known: Paths of the backend's modules by their identities.
        parts_only: Whether only these count.
    """

    known: dict[int, str]
    parts_only: bool

    def innermost(self, nodes: list[fx.Node]) -> str | None:
        """The path of the innermost module whose code has computed all nodes; None if that is no part of the backend's models."""
        stacks = [(node.meta.get("nn_module_stack") or {}).items() for node in nodes]
        around: list[tuple[str, str]] = []
        for each in zip(*stacks, strict=False):
            if any(module != each[0] for module in each):
                break
            key, (name, _) = each[0]
            around.append((key.partition("@")[0], name))  # the second call of a module has the key `140331559548448@1`
        for identity, _ in reversed(around):
            if identity.isdigit() and (path := self.known.get(int(identity))) is not None:
                return path
        if self.parts_only:
            return None
        return without_root(around[-1][1]) if around else ""
