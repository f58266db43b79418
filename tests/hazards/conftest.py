"""Records of the session's own and probing switched on, which is what a user has; and the rows of the table that the tests come to."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from fxkernels.admission import forget_verdicts

RESULTS = Path(__file__).parent.parent.parent / "benchmarks" / "results" / "hazards.jsonl"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--write-hazards", action="store_true", help="write what was found to benchmarks/results/hazards.jsonl")


@pytest.fixture(scope="session")
def records_of_this_session(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tmp_path_factory.mktemp("hazards"))


@pytest.fixture(autouse=True)
def probing(records_of_this_session: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("FXKERNELS_CACHE", records_of_this_session)
    monkeypatch.delenv("FXKERNELS_VERIFY", raising=False)
    yield
    forget_verdicts()


@pytest.fixture(scope="session")
def recorded(request: pytest.FixtureRequest) -> Iterator[dict[str, dict[str, str]]]:
    """The rows of the results file, by case; with ``--write-hazards`` an empty dictionary, which is written when the session is over."""
    if not request.config.getoption("--write-hazards", False):
        yield {row["case"]: row for row in map(json.loads, RESULTS.read_text().splitlines())}
        return
    rows: dict[str, dict[str, str]] = {}
    yield rows
    RESULTS.write_text("".join(json.dumps(row) + "\n" for row in rows.values()))
