"""The caches of torch.compile: another process hits them, and a kernel that has changed misses them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from kernel_repositories import UNIVERSAL, copy_repository

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("g++") is None and shutil.which("clang++") is None, reason="Inductor needs a C++ compiler on the CPU"),
    pytest.mark.timeout(900),  # processes that compile C++ with an empty cache
]

TRACED = ("RMSNorm:eval", "CountedRMSNorm:eval", "InferenceRMSNorm:eval")
OPAQUE = ("UntraceableRMSNorm:eval",)
KERNELS = (*TRACED, *OPAQUE)
ORIGINAL = "InferenceRMSNorm:train"
Found = dict[str, dict[str, Any]]


@dataclass
class Processes:
    """Runs the script with a repository in new processes, each with other hashes of strings."""

    folder: Path
    started: int = field(default=0)

    def run(self, *arguments: str | Path, cache: str = "cache") -> Found:
        """What the script prints for these arguments."""
        self.started += 1
        environment = {
            **os.environ,
            "TORCHINDUCTOR_CACHE_DIR": str(self.folder / cache),
            "PYTHONHASHSEED": str(self.started),
            "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        }
        command = [sys.executable, "-W", "ignore", Path(__file__).with_name("cached_run.py"), self.folder / "norms", *arguments]
        done = subprocess.run(list(map(str, command)), env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
        found: Found = json.loads(done.stdout.splitlines()[-1])
        return found


@pytest.fixture(scope="module")
def processes(tmp_path_factory: pytest.TempPathFactory) -> Processes:
    folder = tmp_path_factory.mktemp("caches")
    copy_repository("norms", folder, "fxtest_norms_cached")
    return Processes(folder)


@pytest.fixture(scope="module")
def first(processes: Processes) -> Found:
    return processes.run(*KERNELS, ORIGINAL, "--save", processes.folder / "artifacts")


@pytest.fixture(scope="module")
def second(processes: Processes, first: Found) -> Found:
    return processes.run(*KERNELS, ORIGINAL)


def hits_and_misses(found: dict[str, Any]) -> tuple[int, int]:
    return found["inductor"].get("fxgraph_cache_hit", 0), found["inductor"].get("fxgraph_cache_miss", 0)


@pytest.mark.parametrize("kernel", KERNELS)
def test_another_process_hits_inductors_cache(first: Found, second: Found, kernel: str) -> None:
    assert first[kernel]["rewritten"] == second[kernel]["rewritten"] == 1
    assert hits_and_misses(first[kernel]) == (0, 2)  # forward and backward
    assert hits_and_misses(second[kernel]) == (2, 0)
    assert first[kernel]["values"] == second[kernel]["values"]


@pytest.mark.parametrize("kernel", OPAQUE)
def test_another_process_hits_the_cache_of_aot_autograd_with_an_opaque_kernel(first: Found, second: Found, kernel: str) -> None:
    assert first[kernel]["aot_autograd"]["autograd_cache_miss"] == 1
    assert second[kernel]["aot_autograd"]["autograd_cache_hit"] == 1


@pytest.mark.parametrize("kernel", TRACED)
def test_aot_autograds_cache_takes_no_graph_with_a_kernel_whose_python_it_traces(first: Found, kernel: str) -> None:
    # Nothing says what that Python reads besides its arguments: an environment variable, a global, another package.
    assert first[kernel]["aot_autograd"]["autograd_cache_bypass"] == 1


def test_a_graph_without_kernels_hits_the_cache_of_aot_autograd(first: Found, second: Found) -> None:
    assert (first[ORIGINAL]["rewritten"], second[ORIGINAL]["rewritten"]) == (0, 0)
    assert second[ORIGINAL]["aot_autograd"]["autograd_cache_hit"] == 1


def test_cache_artifacts_are_saved_and_loaded_elsewhere(processes: Processes, first: Found) -> None:
    elsewhere = processes.run(*KERNELS, "--load", processes.folder / "artifacts", cache="elsewhere")
    for kernel in KERNELS:
        assert hits_and_misses(elsewhere[kernel]) == (2, 0)
        assert elsewhere[kernel]["values"] == first[kernel]["values"]


def test_a_kernel_that_has_changed_misses_and_runs_as_it_is_now(processes: Processes, first: Found, second: Found) -> None:
    layers = processes.folder / "norms" / "build" / UNIVERSAL / "layers.py"
    changed = layers.read_text().replace("hidden_states.to(input_dtype)", "hidden_states.to(input_dtype) * 2")
    layers.write_text(changed)
    kernel = KERNELS[0]
    after = processes.run(kernel)[kernel]
    assert hits_and_misses(after) == (0, 2)
    (output, gradient), (old_output, old_gradient) = (map(torch.tensor, found["values"]) for found in (after, first[kernel]))
    torch.testing.assert_close(output, 2 * old_output)
    torch.testing.assert_close(gradient, 4 * old_gradient)
