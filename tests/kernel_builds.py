"""Builds that a test writes itself, and what the process keeps of one.

Example:
    >>> from kernel_builds import published, written
    >>> directory = written(tmp_path / "torch-universal", {"__init__.py": "from . import layers", "layers.py": ""})
    >>> import_variant(directory, "some_id", "acme/norms", expected=published(directory))
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Mapping
from pathlib import Path

from fxkernels.hub.builds.digests import Digests
from fxkernels.hub.builds.paths import variant_files


def written(directory: Path, files: Mapping[str, str]) -> Path:
    """Write files, by their path in `directory`, over what is there; return the directory."""
    for name, text in files.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text(text)
    return directory


def published(directory: Path) -> Digests:
    """The digests of a build as it is now."""
    return digests_of(variant_files(directory, directory.parent))


def digests_of(files: Mapping[str, Path]) -> Digests:
    """The digests of files as they are now."""
    return Digests("sha256", {name: hashlib.sha256(path.read_bytes()).digest() for name, path in sorted(files.items())})


def left_in_process(module_name: str) -> list[str]:
    """The names of a build's modules that are imported."""
    return [name for name in sys.modules if name == module_name or name.startswith(module_name + ".")]
