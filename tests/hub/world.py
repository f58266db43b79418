"""What the tests of faults share: a repository on the loopback Hub with a client of it, and the form of a fault."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from published import kernel

from fxkernels import LayerRepository

VARIANT = "build/torch-universal"


@dataclass
class World:
    """A repository on the Hub, the client, and what a fault has to undo afterwards."""

    hub: Any
    client: Any
    monkeypatch: pytest.MonkeyPatch
    files: dict[str, bytes] = field(default_factory=dict)
    commit: str = ""

    def publish(self, **options: Any) -> None:
        self.files = kernel(more={"data.bin": bytes(range(256)) * 40}, **options)
        self.commit = self.hub.add("acme/norms", self.files)

    @property
    def build(self) -> Path:
        return self.client.folder("acme/norms") / "snapshots" / self.commit / VARIANT

    def repository(self, **options: Any) -> LayerRepository:
        return LayerRepository("acme/norms", layer_name="RMSNorm", **(options or {"version": 1}))


@dataclass(frozen=True)
class Fault:
    """Something that goes wrong, the code and the words of the error that it ends in, and how it is mended."""

    happens: Callable[[World], object]
    code: str
    words: tuple[str, ...]
    mend: Callable[[World], object] = lambda world: world.hub.faults.clear()
