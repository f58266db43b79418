"""Names for two kinds of Dynamo's objects, whose types differ by version."""

from __future__ import annotations

from typing import Any

Frame = Any
"""One frame that Dynamo is tracing (an instruction translator)."""

Variable = Any
"""Dynamo's stand-in for a Python value of the traced program."""
