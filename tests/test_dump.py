"""FXKERNELS_DUMP: the graph before and after each pass, on disk."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from kernel_repositories import repository
from layers import Stack

import fxkernels
from fxkernels import hubkernels

MAPPING = {"RMSNorm": {"cpu": repository("norms", "RMSNorm")}}
NAMES = ("captured", "find-marked", "erase-markers", "find-fused", "drop-outputs", "decide", "record", "rewrite")
FILES = [f"{number}-{name}.txt" for number, name in enumerate(NAMES)]


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FXKERNELS_DUMP", str(tmp_path / "dumps"))
    return tmp_path / "dumps"


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def compiled(**options: object) -> None:
    torch.compile(Stack(), backend=hubkernels(inner="eager", mapping=MAPPING, **options))(torch.ones(3, 8))


def test_a_captured_graph_has_a_directory_with_a_file_for_each_pass(directory: Path) -> None:
    compiled()
    assert names(directory) == ["graph-0"]
    assert names(directory / "graph-0") == FILES


def test_each_captured_graph_has_a_directory_of_its_own_and_none_is_overwritten(directory: Path) -> None:
    compiled()
    torch._dynamo.reset()
    first = (directory / "graph-0" / "0-captured.txt").stat()
    compiled()
    assert names(directory) == ["graph-0", "graph-1"]
    assert (directory / "graph-0" / "0-captured.txt").stat() == first


def test_the_files_show_markers_then_operations_then_kernels(directory: Path) -> None:
    compiled()
    captured, _, unmarked, *_, rewritten = ((directory / "graph-0" / name).read_text() for name in FILES)
    assert captured.count("markers_enter(") == 3
    assert "markers_enter(" not in unmarked
    assert unmarked.count("= torch.rsqrt(") == 3
    assert "= torch.rsqrt(" not in rewritten
    assert rewritten.count("kernel_RMSNorm") == 3


def test_the_calls_and_what_was_decided_stand_above_the_code(directory: Path) -> None:
    compiled(exclude="norm")
    found, decided = ((directory / "graph-0" / FILES[number]).read_text() for number in (1, 5))
    assert "# blocks.0.norm#0: RMSNorm, " in found
    assert "rewritten" not in found
    assert "#   rewritten by norms:RMSNorm" in decided
    assert "#   excluded, excluded: " in decided


def test_a_nested_graph_is_in_the_files_of_the_graph_around_it(directory: Path) -> None:
    model = Stack(around=lambda block, x: torch.utils.checkpoint.checkpoint(block, x, use_reentrant=False)).train()
    torch.compile(model, backend=hubkernels(inner="eager", mapping=MAPPING))(torch.ones(3, 8, requires_grad=True))
    rewritten = (directory / "graph-0" / FILES[-1]).read_text()
    assert "class wrap_body_0(torch.nn.Module):" in rewritten
    assert rewritten.count("kernel_RMSNorm") == 3


def test_explain_has_no_last_pass(directory: Path) -> None:
    fxkernels.explain(Stack(), torch.ones(3, 8))
    assert names(directory / "graph-0") == FILES[:-1]


def test_nothing_is_written_unless_it_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FXKERNELS_DUMP", raising=False)
    compiled()
    assert names(tmp_path) == []


def test_a_place_where_nothing_can_be_written_is_an_error_that_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("FXKERNELS_DUMP", str(tmp_path / "file"))
    with pytest.raises(Exception, match=r"FXKERNELS_DUMP='.*file' names no directory that can be written: .*; unset it to write nothing"):
        compiled()
