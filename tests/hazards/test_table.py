"""The table in docs/trust.md is what the tests find."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

from hazard_cases import CASES, HAZARDS

ROOT = Path(__file__).parent.parent.parent


def render() -> Any:
    if str(ROOT / "benchmarks") not in sys.path:
        sys.path.append(str(ROOT / "benchmarks"))  # it imports its neighbours
    spec = importlib.util.spec_from_file_location("benchmarks_render", ROOT / "benchmarks" / "render.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def rows() -> list[dict[str, str]]:
    return [json.loads(line) for line in (ROOT / "benchmarks/results/hazards.jsonl").read_text().splitlines()]


def test_every_case_has_a_row_with_its_verdict() -> None:
    assert [(row["case"], row["verdict"]) for row in rows()] == [(str(case), case.verdict) for case in CASES]


def test_all_ten_hazards_are_caught() -> None:
    lines = render().hazards(rows()).splitlines()[2:]
    assert [line.split(" | ")[0] for line in lines] == [f"| {number}" for number in HAZARDS]
    assert all(line.split(" | ")[-1].startswith("**caught") for line in lines)


def test_the_table_in_the_readme_is_up_to_date() -> None:
    text = (ROOT / "docs/trust.md").read_text()
    assert render().render(text, {"hazards": rows()}) == text
