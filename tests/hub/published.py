"""Kernel repositories as a publisher would make them, for the loopback Hub: small, each with an id of its own."""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
from collections.abc import Mapping
from typing import Any

UNIVERSAL = "torch-universal"

_numbers = itertools.count()

LAYERS = """
import torch
from torch import nn

class RMSNorm(nn.Module):
    VALUE = {value!r}

    def forward(self, hidden_states):
        variance = hidden_states.pow(2).mean(-1, keepdim=True)
        return self.weight * hidden_states * torch.rsqrt(variance + self.variance_epsilon)
"""


def kernel(
    variant: str = UNIVERSAL,
    *,
    value: object = 1,
    backend: Mapping[str, Any] | None = None,
    digests: bool = False,
    metadata: Mapping[str, Any] | None = None,
    more: Mapping[str, bytes | str] | None = None,
) -> dict[str, bytes]:
    """Return the files of one build.

    Args:
        variant: Its directory.
        value: ``RMSNorm.VALUE``, by which tests tell builds apart.
        backend: The ``backend`` of its metadata.
        digests: Whether the metadata lists the files' digests.
        metadata: Further keys of the metadata.
        more: Further files, by path in the variant's directory.
    """
    files: dict[str, bytes | str] = {"__init__.py": "from . import layers\n", "layers.py": LAYERS.format(value=value), **(more or {})}
    described: dict[str, Any] = {
        "name": "norms",
        "id": f"published_{next(_numbers)}",
        "version": 1,
        "license": "apache-2.0",
        "python-depends": [],
        "backend": backend or {"type": "cpu"},
        **(metadata or {}),
    }
    content = {path: text.encode() if isinstance(text, str) else text for path, text in files.items()}
    if digests:
        listed = {path: base64.b64encode(hashlib.sha256(text).digest()).decode() for path, text in content.items()}
        described["digest"] = {"algorithm": "sha256", "files": listed}
    content["metadata.json"] = json.dumps(described).encode()
    return {f"build/{variant}/{path}": text for path, text in content.items()}
