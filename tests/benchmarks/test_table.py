"""Rows of whole models as a table and as a picture."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import render
from whole_models.table import advantage, by_workload, command_of_each, selected, whole_models


def row(side: str, *rounds: float, workload: str = "prefill", **more: Any) -> dict[str, Any]:
    told = {"command": "python benchmarks/models.py", "versions": {"torch": "2.11"}, "machine": "a GPU"}
    timed = {"milliseconds": sorted(rounds)[len(rounds) // 2], "rounds": list(rounds), "first call": 12.3, "cold": True} if rounds else {}
    return {"workload": workload, "title": f"Llama, {workload}", "side": side} | timed | told | more


ROWS = [
    row("eager", 24.0, 24.0, **{"peak GiB": 3.456}),
    row("inductor", 22.0, 20.0),
    row("liger", **{"left out": "needs a GPU"}),
    row("kernels", error="RuntimeError: no such kernel"),
    row(
        "hubkernels",
        20.0,
        16.0,
        calls={"rewritten": 3, "not_profitable": 1, "no_mapping": 1},
        layers={"SiLU": {"no_mapping": 1}, "RMSNorm": {"rewritten": 3}, "rotary_pos_emb": {"not_profitable": 1}},
    ),
]


def test_a_workload_is_a_line_and_a_side_is_a_column() -> None:
    lines = whole_models(ROWS).splitlines()
    assert lines[0] == "| workload | eager | Inductor | kernels | hubkernels | without / with hubkernels | best peer / fxkernels |"
    assert lines[2].startswith("| Llama, prefill | 24 ms<br>3.46 GiB<br>12 s | 22 ms<br>12 s | failed | 20 ms<br>12 s |")


def test_the_advantage_is_that_of_neighbours_in_time() -> None:
    assert advantage(by_workload(ROWS)["prefill"]) == "**1.18** (1.10 to 1.25)<br>Inductor / hubkernels"


def test_selection_is_judged_by_the_same_compiler_without_it() -> None:
    graphs = [row("reduce-overhead", 12.0, 12.0), row("hubkernels+reduce-overhead", 16.0, 12.0)]
    inductor = "**1.18** (1.10 to 1.25)<br>Inductor"
    assert selected(by_workload(ROWS)["prefill"]) == inductor
    assert selected(by_workload([*ROWS, *graphs])["prefill"]) == f"{inductor}<br>**0.88** (0.75 to 1.00)<br>Inductor (reduce-overhead)"
    assert selected(by_workload([*ROWS[2:], *graphs[:1]])["prefill"]) == "-"


def test_without_ours_or_without_a_peer_there_is_no_advantage() -> None:
    assert advantage(by_workload(ROWS[:3])["prefill"]) == "-"
    assert advantage(by_workload(ROWS[2:])["prefill"]) == "-"


def test_what_has_no_figures_is_listed_with_the_reason() -> None:
    other = row("liger", workload="decode", **{"left out": "needs a GPU"})
    text = whole_models([*ROWS, other])
    assert "- Liger, in prefill, decode: left out: needs a GPU" in text
    assert "- kernels, in prefill: failed: RuntimeError: no such kernel" in text


def test_what_became_of_the_calls_is_a_table_of_its_own() -> None:
    expected = "| Llama, prefill | hubkernels | 3 | 1 | RMSNorm: 3 rewritten; rotary_pos_emb: 1 not_profitable; SiLU: 1 no_mapping |"
    assert whole_models(ROWS).splitlines()[-1] == expected


def test_a_command_for_one_workload_stands_for_those_for_the_others() -> None:
    commands = {"prefill": "models.py prefill", "decode": "models.py decode --runs 9", "moe": "models.py moe bert --runs 9"}
    rows = command_of_each([row("eager", workload=name) | {"command": command} for name, command in commands.items()])
    assert [each["command"] for each in rows] == ["models.py WORKLOAD", "models.py WORKLOAD --runs 9", "models.py moe bert --runs 9"]


def test_a_later_row_of_a_cell_takes_the_place_of_an_earlier_one() -> None:
    again = row("kernels", 19.0, 19.0)
    assert "| 19 ms<br>12 s |" in whole_models([*ROWS, again])


def test_the_readme_gets_the_table_or_says_that_there_is_none_yet() -> None:
    readme = "before\n<!-- tiny -->\nold\n<!-- end -->\nafter"
    assert "**1.18**" in render.render(readme, {"tiny": ROWS})
    assert render.render(readme, {"tiny": []}) == "before\n<!-- tiny -->\n\nNot measured yet.\n\n<!-- end -->\nafter"


def test_the_readme_shows_a_picture_that_was_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(render, "HERE", tmp_path)
    assert render.picture("tiny") == ""
    (tmp_path / "plots").mkdir()
    (tmp_path / "plots" / "tiny.svg").touch()
    assert "](plots/tiny.svg)" in render.picture("tiny")


def test_rows_become_the_same_picture_each_time(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from click.testing import CliRunner
    from plots import main

    results = tmp_path / "models.jsonl"
    results.write_text("\n".join(map(json.dumps, ROWS)))
    pictures = []
    for name in ("one", "other"):
        CliRunner().invoke(main, [str(results), "--into", str(tmp_path / name)], catch_exceptions=False)
        pictures.append((tmp_path / name / "models.svg").read_text())
    assert pictures[0] == pictures[1]
    assert "Llama, prefill" in pictures[0]
    assert "hubkernels" in pictures[0]
