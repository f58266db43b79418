"""The matrix of versions: what its rows are, how its tests are counted, and the table."""

from __future__ import annotations

import matrix
import pytest
import render
from packaging.version import Version

from fxkernels.versions import TESTED

JUNIT = """<?xml version="1.0" encoding="utf-8"?>
<testsuites><testsuite name="pytest" errors="1" failures="1" skipped="1" tests="6">
  <testcase classname="tests.capture._torch.test_tracing" name="test_flag"><failure message="AttributeError">...</failure></testcase>
  <testcase classname="tests.capture.test_paths.TestPaths" name="test_root"/>
  <testcase classname="tests.capture.test_paths" name="test_teardown"><error message="ResourceWarning">...</error></testcase>
  <testcase classname="" name="tests.hub.test_faults"><error message="collection failure">...</error></testcase>
  <testcase classname="tests.hub.remote.test_trust" name="test_publisher"/>
  <testcase classname="tests.hub.remote.test_trust" name="test_offline"><skipped type="pytest.skip">...</skipped></testcase>
</testsuite></testsuites>
"""


@pytest.mark.parametrize("library", TESTED)
def test_rows_have_the_oldest_and_the_newest_version_that_is_called_tested(library: str) -> None:
    rows = matrix.ROWS["oldest"], matrix.ROWS["newest"]
    oldest, newest = ({"python": row.python, **row.packages}.get(library) for row in rows)
    assert oldest is not None
    assert Version(oldest).release[:2] == TESTED[library].oldest
    if newest is not None:  # `kernels` is not needed any more
        assert Version(newest).release[:2] == TESTED[library].newest


@pytest.mark.parametrize("row", matrix.ROWS)
def test_every_group_of_tests_exists(row: str) -> None:
    assert all(path.exists() for path in matrix.tests_of(matrix.ROWS[row].groups))


def test_tests_are_counted_once_in_the_first_group_that_they_fit() -> None:
    assert matrix.counted(JUNIT, ("canaries", "capture", "hub")) == {
        "canaries": {"passed": 0, "failed": 1, "skipped": 0},
        "capture": {"passed": 1, "failed": 1, "skipped": 0},
        "hub": {"passed": 1, "failed": 1, "skipped": 1},
    }


def line(demo: bool = True, failed: int = 0) -> dict[str, object]:
    counts = {"capture": {"passed": 40, "failed": failed, "skipped": 0}}
    return {"row": "newest", "versions": {"python": "3.13.0", "torch": "2.15.0"}, "demo": demo, "tests": counts, "minutes": 3.0}


def test_row_is_green_if_neither_the_demo_nor_a_test_has_failed() -> None:
    assert matrix.is_green(line())
    assert not matrix.is_green(line(demo=False))
    assert not matrix.is_green(line(failed=1))


def test_table_has_a_column_per_row_and_shows_what_failed() -> None:
    oldest = {
        "row": "oldest",
        "versions": {"python": "3.11.7", "torch": "2.11.0", "kernels": "0.17.2"},
        "tests": {"hub": {"passed": 7, "failed": 0, "skipped": 2}},
        "minutes": 2.0,
    }
    assert render.tables([oldest, line(demo=False, failed=3)]).splitlines() == [
        "| | oldest | newest |",
        "|---|---|---|",
        "| python | 3.11.7 | 3.13.0 |",
        "| torch | 2.11.0 | 2.15.0 |",
        "| kernels | 0.17.2 | - |",
        "| `fxkernels demo` | - | **failed** |",
        "| hub | 7 passed, 2 skipped | - |",
        "| capture | - | **3 failed**, 40 passed |",
    ]
