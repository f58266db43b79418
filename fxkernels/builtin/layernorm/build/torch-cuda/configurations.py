"""How a kernel is launched: looked up in a table of what was measured to be fastest, or settled by a rule where nothing was measured.

The table, `configurations.json`, goes from the compute capability and the kernel to the length of a row, rounded up to a power of two, and
from there to classes of row counts, each with its configuration; what that leaves open is the rule's. ``benchmarks/builtin_tuning.py``
writes it. Nothing is tuned when a kernel runs: the same call is launched in the same way each time, and gives the same bits.

Each build that has a table has this file too, word for word: a build in Hub layout stands alone.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

__all__ = ["Configuration", "affordable", "configured"]

Configuration = dict[str, int]
"""What the kernel's launcher reads: sizes of tiles, warps, programs, stages."""

_TABLE: dict[str, Any] = json.loads(Path(__file__).with_name("configurations.json").read_text())


def configured(kernel: str, block: int, count: int, device: torch.device, rule: Configuration) -> Configuration:
    """Return the measured configuration for `count` rows of up to `block` values, or `rule` where none was measured.

    Args:
        kernel: Its name in the table.
        block: The length of a row, rounded up to a power of two.
        count: How many rows; each class of the table holds up to so many.
        device: Where the kernel runs. What is traced for a GPU on a machine without one is launched by the rule.
        rule: What is right for any size on any device.
    """
    if device.type != "cuda" or not torch.cuda.is_available():
        return rule
    major, minor = torch.cuda.get_device_capability(device)
    for most, configuration in _TABLE.get(f"{major}{minor}", {}).get(kernel, {}).get(str(block), ()):
        if most is None or count <= most:
            return rule | configuration
    return rule


def affordable(stages: int, size: int, device: torch.device) -> int:
    """Return how many stages fit into a program's shared memory, where all but one are held there. They change no bits.

    Args:
        stages: How many there should be.
        size: What one of them reads, in bytes.
        device: Where the kernel runs.
    """
    memory = 48 << 10  # what a program has on every GPU
    if device.type == "cuda" and torch.cuda.is_available():
        # Not in torch's type stubs, and missing on ROCm (2.13).
        memory = getattr(torch.cuda.get_device_properties(device), "shared_memory_per_block_optin", memory)
    reductions = 1 << 10
    return min(stages, 1 + (memory - reductions) // size)
