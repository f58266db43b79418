"""Kernels are probed in another process: what they do to it does not happen to the user's."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from hazard_probe_cases import norm_probe_case

from fxkernels.admission import Admitted, admit
from fxkernels.admission.worker import WORKER
from fxkernels.passes.miss import Miss

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent.parent


def miss_of(layer: str, **given: float) -> Miss:
    found = admit(norm_probe_case(layer), **given)
    assert isinstance(found, Miss)
    return found


def test_one_child_serves_all_probes() -> None:
    assert isinstance(admit(norm_probe_case("hazard-twins:RMSNorm")), Admitted)
    starts = WORKER.starts
    assert miss_of("hazard-1-incoming-gradient:RMSNorm").code == "gradient"
    assert miss_of("Raises").code == "crash"
    assert WORKER.starts == starts


@pytest.mark.parametrize(
    ("layer", "words"),
    [
        ("Exits", "exit code 3"),
        ("Segfaults", "SIGSEGV"),
        ("Aborts", "SIGABRT"),
        ("SystemExits", "exit(1)"),
        ("Interrupts", "SIGINT"),
        ("CrashesInBackward", "SIGABRT"),
        ("Overflows", "RecursionError"),
    ],
)
def test_a_kernel_that_ends_its_process_is_a_miss_with_the_reason(layer: str, words: str) -> None:
    miss = miss_of(layer)
    assert miss.code == "crash"
    assert words in miss.message


def test_what_a_crashed_kernel_has_printed_is_evidence() -> None:
    assert "before the end" in miss_of("Aborts").data["evidence"]["output"]


@pytest.mark.parametrize("layer", ["Hangs", "HangsInBackward", "WaitsForALock"])
def test_a_kernel_that_hangs_is_a_miss_after_the_timeout_and_the_next_one_is_probed(layer: str) -> None:
    miss = miss_of(layer, timeout=2.0)
    assert miss.code == "timeout"
    assert "2 seconds" in miss.message
    assert isinstance(admit(norm_probe_case("hazard-twins:RMSNorm")), Admitted)


def test_a_class_that_only_this_process_has_is_rebuilt_in_the_child() -> None:
    class Local(torch.nn.Module):
        factor = 2.0

        def helper(self) -> float:
            return self.factor

    found = admit(norm_probe_case("hazard-twins:RMSNorm", host=Local))
    assert isinstance(found, Admitted)
    assert found.evidence["notes"] == []


def test_a_kernel_that_needs_what_only_this_process_has_is_probed_here() -> None:
    class Local(torch.nn.Module):
        def helper(self) -> int:
            return 1

    found = admit(norm_probe_case("CallsHelper", host=Local))
    assert isinstance(found, Admitted)
    assert any("in the user's process" in note for note in found.evidence["notes"])
    strict = admit(norm_probe_case("CallsHelper", host=Local, training=False), verify="strict")
    assert isinstance(strict, Miss)
    assert strict.code == "unprobed"


@pytest.mark.parametrize("guarded", [True, False], ids=["guarded", "without a guard"])
def test_a_script_is_not_run_a_second_time(tmp_path: Path, guarded: bool) -> None:
    body = """
        import sys
        sys.path.insert(0, TESTS)
        print("main runs")
        from hazard_probe_cases import norm_probe_case
        from fxkernels.admission import admit
        print(admit(norm_probe_case("hazard-twins:RMSNorm")))
    """
    lines = textwrap.dedent(body).replace("TESTS", repr(str(ROOT / "tests")))
    script = tmp_path / "script.py"
    script.write_text('if __name__ == "__main__":\n' + textwrap.indent(lines, "    ") if guarded else lines)
    environment = {**os.environ, "FXKERNELS_CACHE": str(tmp_path)}
    done = subprocess.run([sys.executable, "-W", "error", str(script)], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.stdout.split("\n") == ["main runs", "probed", ""]
    assert done.stderr == ""
