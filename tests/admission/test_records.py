"""What a kernel has shown is kept, and found again by everything on which it depends."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from hazard_probe_cases import norm_probe_case, rotary_probe_case

from fxkernels.admission import Admitted, admit, forget_verdicts, records
from fxkernels.admission.records import key_of
from fxkernels.admission.worker import WORKER
from fxkernels.passes.miss import Miss

TESTS = Path(__file__).parent.parent


@pytest.fixture
def no_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    def asked(*_: object) -> None:
        raise AssertionError("a kernel with a record was probed again")

    monkeypatch.setattr(WORKER, "ask", asked)


def only_file(directory: Path) -> Path:
    (file,) = directory.glob("*/*.json")
    return file


def test_an_admitted_kernel_is_not_probed_again(own_records: Path, request: pytest.FixtureRequest) -> None:
    first = admit(norm_probe_case("hazard-twins:RMSNorm"))
    forget_verdicts()
    request.getfixturevalue("no_probe")
    assert admit(norm_probe_case("hazard-twins:RMSNorm")) == first


def test_a_refused_kernel_is_not_probed_again_and_says_the_same(own_records: Path, request: pytest.FixtureRequest) -> None:
    first = admit(norm_probe_case("hazard-5-cut-gradient:IdentityGradient"))
    forget_verdicts()
    request.getfixturevalue("no_probe")
    again = admit(norm_probe_case("hazard-5-cut-gradient:IdentityGradient"))
    assert isinstance(first, Miss)
    assert isinstance(again, Miss)
    assert (again.code, again.message) == (first.code, first.message)


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"format": 1}', "key", "verdict"])
def test_a_damaged_record_is_ignored_and_rewritten(own_records: Path, damage: str) -> None:
    admit(norm_probe_case("hazard-twins:RMSNorm"))
    file = only_file(own_records)
    good = file.read_text()
    changed = {"key": {"key": "0" * 64}, "verdict": {"result": "marvellous"}}.get(damage)
    file.write_text(damage if changed is None else json.dumps(json.loads(good) | changed))
    forget_verdicts()
    assert isinstance(admit(norm_probe_case("hazard-twins:RMSNorm")), Admitted)
    assert file.read_text() == good


def test_a_record_has_no_dates_and_no_paths(own_records: Path) -> None:
    admit(norm_probe_case("hazard-twins:RMSNorm"))
    text = only_file(own_records).read_text()
    assert str(TESTS) not in text
    assert str(time.gmtime().tm_year) not in text


def test_everything_on_which_a_verdict_depends_is_in_its_key() -> None:
    cases = [
        norm_probe_case("hazard-twins:RMSNorm"),
        norm_probe_case("hazard-twins:RMSNorm", torch.bfloat16),
        norm_probe_case("hazard-twins:RMSNorm", torch.float32, 2, 16, 32),
        norm_probe_case("hazard-twins:RMSNorm", x=torch.empty(2, 64, 16).mT),
        norm_probe_case("hazard-twins:RMSNorm", training=False),
        norm_probe_case("hazard-twins:RMSNorm", gradient=False),
        norm_probe_case("hazard-twins:RMSNorm", autocast=torch.bfloat16),
        norm_probe_case("hazard-5-cut-gradient:IdentityGradient"),
        rotary_probe_case("hazard-twins:rotary_pos_emb"),
        rotary_probe_case("hazard-twins:rotary_pos_emb", unsqueeze_dim=2),
    ]
    keys = [key_of(case) for case in cases]
    assert None not in keys
    assert len(set(keys)) == len(keys)


@pytest.mark.slow
def test_keys_are_the_same_in_another_process() -> None:
    script = f"""
import sys
sys.path.insert(0, {str(TESTS)!r})
from hazard_probe_cases import norm_probe_case, rotary_probe_case
from fxkernels.admission.records import key_of
print(key_of(norm_probe_case("hazard-twins:RMSNorm")), key_of(rotary_probe_case("hazard-twins:rotary_pos_emb")))
"""
    found = [subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout.split()]
    assert found[0] == [key_of(norm_probe_case("hazard-twins:RMSNorm")), key_of(rotary_probe_case("hazard-twins:rotary_pos_emb"))]


def test_a_directory_that_cannot_be_written_costs_a_warning_and_no_verdict(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("FXKERNELS_CACHE", str(tmp_path / "file"))
    assert isinstance(admit(norm_probe_case("hazard-twins:RMSNorm")), Admitted)
    assert "cannot be kept" in caplog.text


def test_threads_that_write_one_record_leave_a_whole_one(own_records: Path) -> None:
    case = norm_probe_case("hazard-twins:RMSNorm")
    admit(case)
    key = key_of(case)
    assert key is not None
    record = records.read(key)
    assert record is not None
    threads = [threading.Thread(target=lambda: [records.write(record) for _ in range(20)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert records.read(key) == record
    assert [path.name for path in own_records.glob("*/*")] == [f"{key}.json"]
