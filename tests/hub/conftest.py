"""Fixtures of these tests: the loopback Hub with a client of it, and a repository there."""

from __future__ import annotations

import pytest
from hub_client import Client, client, hub, offline, waits
from loopback import LoopbackHub
from world import World

from fxkernels.hub import forget_resolved

__all__ = ["client", "hub", "offline", "waits", "world"]


@pytest.fixture
def world(hub: LoopbackHub, client: Client, monkeypatch: pytest.MonkeyPatch, waits: list[float]) -> World:
    """A repository on the Hub that nobody has loaded yet."""
    forget_resolved()
    made = World(hub, client, monkeypatch)
    made.publish()
    return made
