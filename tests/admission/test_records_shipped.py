"""Records of one machine that others read: beside a lock file, or in a directory that a variable names."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner
from hazard_probe_cases import norm_probe_case

from fxkernels.admission import Admitted, admit, known, records
from fxkernels.admission.probe_case import ProbeCase
from fxkernels.admission.records import Record, key_of, shipped_with
from fxkernels.admission.verdict import Verdict
from fxkernels.admission.worker import WORKER
from fxkernels.cache_directory import write_record
from fxkernels.cli import main
from fxkernels.hub import LockedLayerRepository, RepositoryRequest
from fxkernels.hub.builds.digests import Digests
from fxkernels.hub.lock import Lock, LockedFiles, LockedRepository
from fxkernels.hub.lock_file import write_lock

TESTS = Path(__file__).parent.parent
CORRECT = "hazard-twins:RMSNorm"
COMMIT, OTHER = "1" * 40, "2" * 40
GOOD = Verdict("admitted", evidence={"runs": 3})


def record_of(repository: str, state: str, key: str) -> Record:
    return Record(key, f"{repository}@{state[:7]}:RMSNorm", repository, state, ("x: float32[2, 8]",), "inference", "2.13.0", GOOD)


def put(record: Record, directory: Path) -> Path:
    path = directory / record.key[:2] / f"{record.key}.json"
    write_record(path, record.as_dict())
    return path


def locked(case: ProbeCase, lockfile: Path) -> ProbeCase:
    assert case.kernel.source is not None
    repository = LockedLayerRepository("acme/norms", layer_name="RMSNorm", lockfile=lockfile)
    return replace(case, kernel=replace(case.kernel, source=(repository, case.kernel.source[1])))


@pytest.fixture
def nobody_probes(monkeypatch: pytest.MonkeyPatch) -> None:
    def asked(*_: object) -> None:
        raise AssertionError("a kernel with a shipped record was probed")

    monkeypatch.setattr(WORKER, "ask", asked)


def test_records_beside_the_lock_file_are_read_with_an_empty_cache(own_records: Path, tmp_path: Path, nobody_probes: None) -> None:
    case = locked(norm_probe_case(CORRECT), tmp_path / "fxkernels.lock")
    put(Record.of(str(key_of(case)), case, GOOD), shipped_with(tmp_path / "fxkernels.lock"))
    admitted = admit(case)
    assert isinstance(admitted, Admitted)
    assert (admitted.how, admitted.evidence) == ("probed", {"runs": 3})
    assert not own_records.exists()


@pytest.mark.slow
def test_another_process_with_an_empty_cache_starts_no_child_where_records_are_shipped(own_records: Path, tmp_path: Path) -> None:
    assert isinstance(admit(norm_probe_case(CORRECT)), Admitted)
    shipped = own_records.rename(tmp_path / "shipped")
    script = f"""
import sys
sys.path.insert(0, {str(TESTS)!r})
from hazard_probe_cases import norm_probe_case
from fxkernels.admission import admit
from fxkernels.admission.worker import WORKER
print(admit(norm_probe_case({CORRECT!r})), WORKER.starts)
"""
    environment = {**os.environ, "FXKERNELS_RECORDS": str(shipped), "FXKERNELS_CACHE": str(tmp_path / "empty")}
    found = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True, env=environment)
    assert found.stdout.split() == ["probed", "0"]
    assert not (tmp_path / "empty").exists()


@pytest.mark.parametrize("damage", ["", '{"format": 1', '{"format": 1}', '{"key": "0"}'], ids=["empty", "truncated", "schema", "key"])
def test_a_damaged_shipped_record_is_ignored_and_left_as_it_is(
    own_records: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    case = norm_probe_case(CORRECT)
    path = put(record_of("hazards", COMMIT, str(key_of(case))), tmp_path / "shipped")
    path.write_text(damage)
    monkeypatch.setenv("FXKERNELS_RECORDS", str(tmp_path / "shipped"))
    assert known(case, verify="probe") is None
    assert path.read_text() == damage


def test_what_is_known_is_answered_without_a_probe(own_records: Path, nobody_probes: None) -> None:
    case = norm_probe_case(CORRECT)
    assert known(case, verify="probe") is None
    records.write(Record.of(str(key_of(case)), case, GOOD))
    assert str(known(case, verify="strict")) == "probed"
    assert str(known(case, verify="off")) == "unverified"
    assert str(known("nobody can", verify="probe")) == "unprobed: nobody can"


def test_ship_takes_the_locked_kernels_and_removes_what_is_stale(own_records: Path, tmp_path: Path) -> None:
    lockfile = tmp_path / "fxkernels.lock"
    requested = RepositoryRequest("acme/norms", version=1, revision=None)
    entry = LockedRepository("acme/norms", COMMIT, requested, {"torch-cpu": LockedFiles(Digests("sha256", {"layers.py": bytes(32)}))})
    write_lock(Lock(str(lockfile), (entry,), (requested,)), lockfile)
    wanted, stale = record_of("acme/norms", COMMIT, "a" * 64), record_of("acme/norms", OTHER, "b" * 64)
    elsewhere = record_of("acme/norms", COMMIT, "c" * 64)
    for record in (wanted, stale, record_of("acme/other", COMMIT, "d" * 64)):
        records.write(record)
    directory = shipped_with(lockfile)
    for record in (stale, elsewhere):
        put(record, directory)
    answer = CliRunner().invoke(main, ["admitted", "ship", str(lockfile), "--json"])
    assert answer.exit_code == 0, answer.output
    assert {record.key for record in records.every(directory)} == {wanted.key, elsewhere.key}
    assert json.loads(answer.output)["removed"] == [stale.key]


@pytest.mark.slow
def test_eight_processes_that_write_the_same_records_leave_whole_ones(own_records: Path) -> None:
    script = f"""
import sys
sys.path[:0] = [{str(TESTS)!r}, {str(TESTS / "admission")!r}]
from test_shipped import COMMIT, record_of
from fxkernels.admission import records
for _ in range(5):
    for number in range(40):
        records.write(record_of("acme/norms", COMMIT, f"{{number:064x}}"))
        assert records.read(f"{{number:064x}}") is not None
"""
    processes = [subprocess.Popen([sys.executable, "-c", script]) for _ in range(8)]
    assert [process.wait() for process in processes] == [0] * 8
    assert len(list(records.every())) == 40
    assert len(list(own_records.glob("*/*"))) == 40
