"""Fixtures of these tests: the command line, and a loopback Hub with a client of it."""

from __future__ import annotations

from hub_client import client, hub, offline
from hub_commands import run

__all__ = ["client", "hub", "offline", "run"]
