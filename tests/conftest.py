"""What every test may rely on: a fixed seed, an empty mapping, a Dynamo without the graphs of other tests, records of its own."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator

import pytest
import torch
from hypothesis import HealthCheck, settings

from fxkernels.mapping import register_kernel_mapping

# tests/ is on the path, and where the package `kernels` is not installed, the folder tests/kernels would pass for it.
if (_found := importlib.util.find_spec("kernels")) is None or _found.origin is None:
    sys.modules["kernels"] = None  # type: ignore[assignment] # an import of it fails, as it should

# How long an example takes tells how busy the machine is, and nothing about the library.
settings.register_profile("unhurried", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("unhurried")


@pytest.fixture(autouse=True)
def clean_process_state() -> Iterator[None]:
    _reset()
    torch.manual_seed(0)
    yield
    _reset()


@pytest.fixture(scope="session", autouse=True)
def own_cache_and_no_probes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Most tests are about something else than admission, and many of them use kernels that no probe lets pass. Those that are about it
    say ``verify=``, or take the variable away."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("FXKERNELS_CACHE", str(tmp_path_factory.mktemp("fxkernels-cache")))
        environment.setenv("FXKERNELS_VERIFY", "off")
        yield


def _reset() -> None:
    register_kernel_mapping({}, inherit_mapping=False)
    dynamo = sys.modules.get("torch._dynamo")  # importing it takes seconds, and many tests never compile
    if dynamo is not None:
        dynamo.reset()
