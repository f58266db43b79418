"""`fxkernels env`: the facts about an installation that a bug report needs."""

from __future__ import annotations

import os
import platform
import re
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import click

from .output import CommandOutput, paragraph, prints_output

_PREFIXES = (
    "FXKERNELS_",
    "HF_",
    "HUGGING",
    "KERNELS_",
    "LOCAL_KERNELS",
    "TRANSFORMERS_",
    "TORCH_",
    "TORCHDYNAMO_",
    "TORCHINDUCTOR_",
    "TRITON_",
)
_VARIABLES = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "CC", "CXX")

_SECRET_NAME = re.compile(r"TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIAL|(?:^|_)(?:KEY|AUTH)(?:_|$)")
_SECRET_VALUE = re.compile(r"\bhf_[A-Za-z0-9]{8,}|(?<=://)[^/@\s]+(?=@)")
_HIDDEN = "(hidden)"


@click.command(short_help="Show versions, devices and settings, for bug reports.")
@prints_output
def env() -> CommandOutput:
    """Show what a bug report needs: versions, devices, where things are cached, and the variables that matter. Tokens are not shown.

    \b
    Examples:
      fxkernels env
      fxkernels env --json
    """
    from ..versions import TESTED, installed_versions

    versions = dict(installed_versions())
    value: dict[str, Any] = {
        "versions": versions,
        "tested": {
            name: {"range": str(TESTED[name]), "includes_installed": version in TESTED[name]}
            for name, version in versions.items()
            if name in TESTED
        },
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "devices": _devices(),
        "targets": [str(target) for target in _targets()],
        "directories": _directories(),
        "variables": shown_variables(os.environ),
        "backends": _backends(),
    }
    return CommandOutput(value, tuple(_lines(value)))


def shown_variables(environment: Any) -> dict[str, str]:
    """Return the variables that fxkernels, torch or the Hub's client read, without secrets.

    Args:
        environment: A mapping, such as `os.environ`.
    """
    found = {name: text for name, text in environment.items() if name.startswith(_PREFIXES) or name in _VARIABLES}
    return {name: _HIDDEN if _SECRET_NAME.search(name) else _SECRET_VALUE.sub(_HIDDEN, _short(found[name])) for name in sorted(found)}


def shown_version(name: str, version: str) -> str:
    """Return a library's version with whether fxkernels was tested with it."""
    from ..versions import TESTED

    if name not in TESTED:
        return version
    return f"{version} (tested)" if version in TESTED[name] else f"{version} (not tested; {TESTED[name]} is)"


def _devices() -> list[str]:
    import torch

    found = [f"cpu: {torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}"]
    for number in range(torch.cuda.device_count()):
        major, minor = torch.cuda.get_device_capability(number)
        found.append(f"cuda:{number}: {torch.cuda.get_device_name(number)}, capability {major}.{minor}")
    other = torch.accelerator.current_accelerator(check_available=True)
    if other is not None and other.type != "cuda":
        found += [f"{other.type}:{number}" for number in range(torch.accelerator.device_count())]
    return found


def _targets() -> list[Any]:
    import torch

    from ..target import Target

    other = torch.accelerator.current_accelerator(check_available=True)
    return [Target.of_machine(device) for device in dict.fromkeys(["cpu", *([other.type] if other is not None else [])])]


def _directories() -> dict[str, str]:
    from huggingface_hub import constants

    from ..admission.records import records_directory
    from ..cache_directory import cache_directory

    places = {"fxkernels": cache_directory(), "records of probes": records_directory(), "hub": Path(constants.HF_HUB_CACHE)}
    return {name: f"{_short(str(path))}{'' if path.exists() else ' (not there yet)'}" for name, path in places.items()}


def _backends() -> list[str]:
    """Return the registered backends of torch.compile with their packages' objects."""
    return sorted(f"{found.name} = {found.value}" for found in entry_points(group="torch_dynamo_backends"))


def _short(text: str) -> str:
    """Return the text without the path of the user's home, which has their name."""
    home = str(Path.home())
    return text.replace(home, "~") if len(home) > 1 else text


def _lines(value: dict[str, Any]) -> list[str]:
    lines = []
    tables = {name: value[name] for name in ("directories", "variables")}
    tables["versions"] = {name: shown_version(name, version) for name, version in value["versions"].items()}
    lists = {
        "system": [value["system"]],
        "devices": value["devices"],
        "targets": value["targets"],
        "torch.compile backends": value["backends"],
    }
    for title in ("versions", "system", "devices", "targets", "directories", "variables", "torch.compile backends"):
        lines.append(title)
        if title in tables:
            width = max(map(len, tables[title]), default=0)
            for name, text in tables[title].items():
                lines += paragraph(text or "(empty)", " " * (width + 4), f"  {name:<{width}}  ")
        else:
            lines += [line for text in lists[title] for line in paragraph(text, "    ", "  ")]
        if not (tables.get(title) or lists.get(title)):
            lines.append("  none")
    return lines
