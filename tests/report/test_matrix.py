"""Layer names by targets: the table, and the reports in it."""

from __future__ import annotations

import pickle
from dataclasses import replace

import pytest
from kernel_repositories import repository
from report.goldens import check_golden
from report.reports import CPU, CUDA, NORMS, llama_like, small_report

from fxkernels import Mode, explain, use_kernel_mapping
from fxkernels.demo_model import decoder
from fxkernels.report.matrix import Matrix, render_matrix
from fxkernels.report.report import Report
from fxkernels.target import Target

SM80 = Target("cuda", 80, "2.11", "cu130", "linux", "x86_64")


@pytest.fixture
def matrix() -> Matrix:
    return Matrix.of({CUDA: llama_like(4), CPU: small_report()})


def test_the_table_is_the_golden_one(matrix: Matrix) -> None:
    check_golden("matrix_140.txt", render_matrix(matrix, 140))


def test_where_the_table_does_not_fit_every_layer_name_has_a_paragraph(matrix: Matrix) -> None:
    check_golden("matrix_80.txt", render_matrix(Matrix.of({**matrix, SM80: llama_like(4, missed_in={1})}), 80))


def test_targets_are_told_by_what_distinguishes_them() -> None:
    both = Matrix.of({CUDA: llama_like(2), SM80: llama_like(2, missed_in={1})})
    assert render_matrix(both, 80).splitlines()[0].split() == ["cuda:sm90", "cuda:sm80"]
    assert "sm90" in render_matrix(Matrix.of({CUDA: llama_like(2)}), 80)


def test_a_report_is_found_by_its_target_or_by_a_part_of_its_name(matrix: Matrix) -> None:
    assert matrix[CUDA] is matrix["cuda:sm90"] is matrix["cuda"] is matrix["cuda torch2.11"] is matrix[str(CUDA)]
    assert matrix["cpu"] is matrix[CPU]
    assert list(matrix) == [CUDA, CPU]


@pytest.mark.parametrize("name", ["mps", "cuda:sm80", "cuda torch2.13", "", "nonsense"])
def test_a_target_that_is_not_in_the_matrix_is_an_error_that_lists_those_that_are(matrix: Matrix, name: str) -> None:
    with pytest.raises(KeyError, match="among cuda:sm90 torch2.11 cu130 linux-x86_64, cpu torch2.13"):
        matrix[name]


def test_a_name_of_two_targets_is_an_error() -> None:
    with pytest.raises(KeyError, match="several targets are 'cuda'"):
        Matrix.of({CUDA: Report(), SM80: Report()})["cuda"]


def test_a_cell_counts_what_becomes_of_the_calls(matrix: Matrix) -> None:
    assert matrix.cell("RMSNorm", CUDA) == {NORMS: 9}
    assert matrix.cell("RMSNorm", "cpu")["no_backward"] == 1
    assert matrix.cell("Linear", "cpu") == {"no_mapping": 1}
    assert matrix.cell("Linear", CUDA) == {}


def test_a_matrix_survives_pickle(matrix: Matrix) -> None:
    assert str(pickle.loads(pickle.dumps(matrix))) == str(matrix)


def test_a_matrix_without_targets_makes_no_sense() -> None:
    with pytest.raises(ValueError, match="at least one target"):
        Matrix.of({})


def test_a_model_without_annotated_layers_has_a_line_for_each_target() -> None:
    assert render_matrix(Matrix.of({CUDA: Report(), CPU: Report()}), 80).splitlines() == [
        "cuda:sm90 torch2.11 cu130: no annotated layer was called, nothing was rewritten",
        "cpu torch2.13: no annotated layer was called, nothing was rewritten",
    ]


def test_a_model_is_explained_for_machines_that_nobody_has() -> None:
    model, args = decoder(length=16, layers=1)
    mapping = {"RMSNorm": {"cuda": repository("norms", "RMSNorm")}, "rotary_pos_emb": {"cpu": repository("rotary", "rotary_pos_emb")}}
    with use_kernel_mapping(mapping, inherit_mapping=False):
        matrix = explain(model, *args, target=["cuda:sm90 torch2.11 cu130", "cpu"], mode=Mode.INFERENCE)
    assert matrix.layer_names == ("RMSNorm", "rotary_pos_emb", "SiluAndMul")
    assert matrix.cell("RMSNorm", "cpu") == {"no_device": 3}
    assert [call.status for call in matrix["cuda"].calls if call.layer_name == "RMSNorm"] == ["unknown"] * 3
    assert matrix.cell("rotary_pos_emb", "cuda") == {"no_device": 1}


def test_a_kernel_that_is_not_sure_to_run_has_a_question_mark(matrix: Matrix) -> None:
    assert "rotary?" in render_matrix(matrix, 140)
    sure = replace(small_report(), calls=small_report().calls[:2])
    assert "?" not in render_matrix(Matrix.of({CPU: sure}), 140)
