"""Who runs a model: eager PyTorch, Inductor, the `kernels` package, Liger, and fxkernels.

A side gets a model of its own over the weights that all share, so that what is patched by instance is nobody else's. What it patches for
the process is written down (`apart`) and in place only while it runs.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import torch
from torch import nn

import fxkernels
from fxkernels.builtin import builtin_mapping, builtin_repository
from fxkernels.capture import _torch
from fxkernels.hub import LocalLayerRepository

from .apart import Change, written_down
from .workload import Workload

GATED_DELTA_RULE = Path(__file__).parents[1] / "kernels" / "gated_delta_rule"
RULE = "chunk_gated_delta_rule"

Run = Callable[..., Any]


@dataclass(frozen=True, slots=True)
class Side:
    """One cell before it is measured.

    Args:
        name: One of `SIDES`.
        model: Whose parameters get the gradients.
        run: Runs the model.
        changes: What has to be in place meanwhile.
        report: What fxkernels did, after the first call.
    """

    name: str
    model: nn.Module
    run: Run
    changes: tuple[Change, ...] = ()
    report: Callable[[], Any] | None = None

    @property
    def compiles(self) -> bool:
        """Whether Dynamo has something to do."""
        return self.name not in ("eager", "kernels", "liger")

    @property
    def graphs(self) -> bool:
        """Whether it replays CUDA graphs."""
        return "reduce-overhead" in self.name


def make_side(name: str, model: nn.Module, workload: Workload, device: str) -> Side:
    """A side over a model of its own; nothing of it is left in the process.

    Raises:
        Exception: Whatever a peer raises that cannot be put into the model.
    """
    with written_down() as changes:
        run, report = SIDES[name](model, workload, device)
    return Side(name, model, run, tuple(changes), report)


# --- torch -------------------------------------------------------------------------------------------------------------------------------

Made = tuple[Run, Callable[[], Any] | None]


def eager(model: nn.Module, workload: Workload, device: str) -> Made:
    """As it is."""
    return model, None


def inductor(model: nn.Module, mode: str | None = None) -> Run:
    """`torch.compile(model, mode=mode)`, by a backend that equals no other: Dynamo might hand one side what it compiled for another."""
    compiler = _torch.inner_compiler("inductor", mode, None)

    def compile_graph(gm: torch.fx.GraphModule, inputs: list[Any]) -> Any:
        return compiler(gm, inputs)

    return torch.compile(model, backend=compile_graph)


# --- kernels -----------------------------------------------------------------------------------------------------------------------------


def kernels_package(model: nn.Module, workload: Workload, device: str) -> Made:
    """The same repositories, by `kernels.kernelize`.

    Not for Mode.TORCH_COMPILE, also where it is compiled afterwards: a layer that cannot be traced would be the original, which is slower
    than the kernel with a graph break.
    """
    import kernels

    mode = kernels.Mode.TRAINING if workload.training else kernels.Mode.INFERENCE
    with kernels.use_kernel_mapping(mapping_of_kernels(workload, device), inherit_mapping=False):
        return kernels.kernelize(model, mode=mode, device=device), None


def mapping_of_kernels(workload: Workload, device: str) -> dict[str, dict[str, Any]]:
    """Our mapping for `kernels`, which takes one candidate for each layer name: the first."""
    import kernels

    mapping = {}
    for layer_name, devices in mapping_of(workload).items():
        repository = devices.get(device)
        if isinstance(repository, dict):
            repository = next(iter(repository.values()))
        if repository is not None:
            mapping[layer_name] = {device: kernels.LocalLayerRepository(copied(repository.path), layer_name=repository.layer_name)}
    return mapping


@cache
def copied(folder: Path) -> Path:
    """A copy of a repository whose builds have other ids, so that `kernels` and fxkernels do not import one into the other's place.

    It does not declare fla either: `kernels` 0.17 refuses packages that are not on its list.
    """
    copy = Path(mkdtemp()) / folder.name
    shutil.copytree(folder, copy, ignore=shutil.ignore_patterns("__pycache__"))
    for file in copy.glob("build/*/metadata.json"):
        metadata = json.loads(file.read_text())
        known = [package for package in metadata["python-depends"] if not package.startswith("fla")]
        file.write_text(json.dumps(metadata | {"id": f"{metadata['id']}_for_kernels", "python-depends": known}))
    return copy


# --- Liger -------------------------------------------------------------------------------------------------------------------------------


def liger(model: nn.Module, workload: Workload, device: str) -> Made:
    """All that Liger has for this architecture, put into this model."""
    from liger_kernel.transformers import _apply_liger_kernel_to_instance

    # Its fused loss is the forward of a model with a head.
    _apply_liger_kernel_to_instance(model=model, fused_linear_cross_entropy=hasattr(model, "lm_head"))
    return model, None


# --- fxkernels ---------------------------------------------------------------------------------------------------------------------------


def mapping_of(workload: Workload) -> dict[str, dict[str, Any]]:
    """The default mapping of the built-in kernels, and what the workload adds."""
    mapping = builtin_mapping() | {RULE: {"cuda": LocalLayerRepository(GATED_DELTA_RULE, layer_name=RULE)}}
    return mapping | {name: {"cuda": builtin_repository(layer)} for name, layer in workload.layer_names.items()}


def kernelize(model: nn.Module, workload: Workload, device: str) -> Made:
    """`fxkernels.kernelize`."""
    kernelized = fxkernels.kernelize(model, mapping=mapping_of(workload))
    return kernelized, lambda: kernelized.report


def hubkernels(model: nn.Module, workload: Workload, mode: str | None = None) -> Made:
    """The backend, as it is by default."""
    backend = fxkernels.hubkernels(inner_mode=mode, mapping=mapping_of(workload))
    return torch.compile(model, backend=backend), lambda: backend.report


SIDES: dict[str, Callable[[nn.Module, Workload, str], Made]] = {
    "eager": eager,
    "inductor": lambda model, *_: (inductor(model), None),
    "hubkernels": lambda model, workload, _: hubkernels(model, workload),
    "hubkernels+reduce-overhead": lambda model, workload, _: hubkernels(model, workload, "reduce-overhead"),
    "reduce-overhead": lambda model, *_: (inductor(model, "reduce-overhead"), None),
    "kernels": kernels_package,
    "kernels+inductor": lambda *made: (inductor(kernels_package(*made)[0]), None),
    "liger": liger,
    "liger+inductor": lambda *made: (inductor(liger(*made)[0]), None),
    "kernelize": kernelize,
}
"""Every side by its name, in the order in which they are made: first those that a run which is cut short should have."""

NEEDS_GPU = frozenset({"reduce-overhead", "liger", "liger+inductor", "hubkernels+reduce-overhead"})
"""CUDA graphs, and Triton."""
