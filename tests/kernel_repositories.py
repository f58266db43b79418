"""The kernel repositories under ``tests/repositories``, and how often their layers have run.

Example:
    >>> from kernel_repositories import executions, repository
    >>> mapping = {"RMSNorm": {"cpu": repository("norms", "RMSNorm")}}
    >>> executions("norms")["RMSNorm"]
    0
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path

from fxkernels.hub import LocalLayerRepository, import_variant, read_metadata

FOLDER = Path(__file__).parent / "repositories"
UNIVERSAL = "torch-universal"


def repository(name: str, layer_name: str) -> LocalLayerRepository:
    """Return a layer of the repository ``tests/repositories/<name>``."""
    return LocalLayerRepository(FOLDER / name, layer_name=layer_name)


def executions(name: str) -> Counter[str]:
    """Return the live counter of a repository: layer name -> executions on real tensors.

    Under a compiler that traces the kernel (Inductor, AOT) the layers' Python does not run any more; only "CountedRMSNorm" (with
    "CountedRMSNorm.backward"), an op of its own, is counted there too.
    """
    directory = FOLDER / name / "build" / UNIVERSAL
    calls: Counter[str] = import_variant(directory, read_metadata(directory).id, name).CALLS
    return calls


def reset_executions(*names: str) -> None:
    """Set the counters of these repositories to zero."""
    for name in names:
        executions(name).clear()


def copy_repository(name: str, destination: Path, module_id: str) -> Path:
    """Copy a repository, give its build another id and return its path: a build that the test may change."""
    path = destination / name
    shutil.copytree(FOLDER / name, path, ignore=shutil.ignore_patterns("__pycache__"))
    metadata = path / "build" / UNIVERSAL / "metadata.json"
    metadata.write_text(json.dumps(json.loads(metadata.read_text()) | {"id": module_id}))
    return path
