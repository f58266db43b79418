"""`fxkernels demo`."""

from __future__ import annotations

import pytest
import torch
from click.testing import CliRunner, Result

from fxkernels.cli import main
from fxkernels.cli.demo import Difference, failures, gradient_difference, medians, missing_compiler, output_difference
from fxkernels.kernels.layer import KernelIdentity
from fxkernels.report.model import CallReport, GraphDecision
from fxkernels.report.report import Report


def run(*arguments: str, **options: object) -> Result:
    return CliRunner(env={"COLUMNS": "80"}).invoke(main, list(arguments), **options)  # type: ignore[arg-type]


def test_demo_shows_report_numbers_and_times_and_what_to_try_next() -> None:
    result = run("demo", "--no-compile", "--repeats", "1", "--length", "16")
    assert result.exit_code == 0, result.output
    assert "17 of 17 layer calls rewritten" in result.stdout
    assert result.stdout.count(" agrees") == 2
    assert "1.00x the speed of eager" in result.stdout
    assert "kernelized" in result.stdout
    assert result.stdout.splitlines()[-2].startswith("Next: fxkernels explain")
    assert max(map(len, result.stdout.splitlines())) <= 80


@pytest.mark.slow
def test_demo_leaves_inductor_out_where_there_is_no_compiler() -> None:
    result = run("demo", "--repeats", "1", "--length", "16", env={"CXX": "no-such-compiler"})
    assert result.exit_code == 0, result.output
    assert "left out: there is no no-such-compiler.\n\n" in result.stdout
    assert "kernelized" in result.stdout


@pytest.mark.skipif(missing_compiler() is not None, reason="Inductor needs a C++ compiler")
def test_demo_times_inductor_with_and_without_kernels() -> None:
    result = run("demo", "--repeats", "1", "--length", "16", "--layers", "1")
    assert result.exit_code == 0, result.output
    assert "torch.compile, Inductor" in result.stdout
    assert "hubkernels, Inductor" in result.stdout
    assert 'torch.compile(backend="hubkernels"): 5 of 5 layer calls rewritten' in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= 80
    assert result.stdout.count(" agrees") == 3


KERNEL = KernelIdentity("acme/norms", None, "RMSNorm", None)
KERNEL_RAN = Report((CallReport("norm", 0, "RMSNorm", "RMSNorm", None, (GraphDecision(0, "rewritten", KERNEL),)),))


def test_demo_fails_if_nothing_was_rewritten() -> None:
    assert failures(Report(), []) == ["no layer call was rewritten"]
    assert failures(KERNEL_RAN, [Difference("outputs", 0.0, 0.0)]) == []


@pytest.mark.parametrize("largest", [2.0, float("nan"), float("inf")])
def test_demo_fails_if_the_numbers_disagree(largest: float) -> None:
    (failure,) = failures(KERNEL_RAN, [Difference("outputs", largest, 1.0), Difference("gradients", 0.5, 1.0)])
    assert failure.startswith("outputs differ by")


def test_the_gradient_that_is_shown_is_the_one_furthest_beyond_its_own_tolerance() -> None:
    expected = {"large": torch.tensor([100.0]), "small": torch.tensor([0.01])}
    actual = {"large": torch.tensor([100.001]), "small": torch.tensor([0.011])}
    worst = gradient_difference(expected, actual)
    assert (worst.where, worst.agrees) == ("small", False)
    assert gradient_difference(expected, expected | {"large": torch.tensor([float("nan")])}).where == "large"


def test_equal_outputs_agree_even_if_they_are_zero() -> None:
    assert output_difference("outputs", torch.zeros(2), torch.zeros(2)).agrees


def test_sides_are_timed_in_turns() -> None:
    order: list[str] = []
    times = medians({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, repeats=3)
    assert order == ["a", "b"] * 3
    assert set(times) == {"a", "b"}
