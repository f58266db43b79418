"""For which machines times hold: those with the same kind of device and the same compilers."""

from __future__ import annotations

import torch

from ..versions import installed_versions


def device_name(device: torch.device) -> str:
    """Return what kind of device it is: times hold for its kind, not for all of its capability."""
    if device.type == "cuda" and torch.cuda.is_available():
        return torch.cuda.get_device_name(device)
    return f"{device.type} {torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} threads"


def versions_of_compilers() -> dict[str, str]:
    """Return the versions of the libraries on which times depend, where they are installed."""
    return {name: version for name, version in installed_versions() if name in ("torch", "triton")}
