"""Numerics: how differences are taken and ranked, and how they are shown."""

from __future__ import annotations

import json
import math
import xml.etree.ElementTree as ElementTree

import pytest
import torch

from fxkernels.debug.deviations import CallNumerics, Deviation, Numerics

_NAN, _INF = math.nan, math.inf


def row(key: str, relative: float = 0.0, *, gradient: float | None = None, unlike: int = 0, problem: str = "") -> CallNumerics:
    value = None if problem else Deviation(relative, relative, unlike)
    return CallNumerics(
        key,
        "acme/norms@9a31f0c:RMSNorm",
        "bfloat16",
        value,
        Deviation(gradient, gradient) if gradient is not None else None,
        relative or None,
        1e-7,
        problem=problem,
    )


NUMERICS = Numerics.ranked(
    [
        row("layers.0.norm#0", 1e-6),
        row("layers.1.norm#0", 1e-3),
        row("layers.2.norm#0", 1e-6, gradient=0.5),
        row("layers.3.norm#0", 1e-9, unlike=2),
        row("layers.4.norm#0", problem="the kernel raises RuntimeError: <no such shape>"),
        row("layers.5.norm#0"),
    ],
    missing=["norm#0"],
)


def test_the_difference_is_relative_to_the_norm_and_largest_of_one_element():
    found = Deviation.between(torch.tensor([3.0, 4.0, 12.0]), torch.tensor([3.0, 4.0, 0.0]))
    assert (found.relative, found.largest, found.unlike) == (12 / 5, 12.0, 0)


@pytest.mark.parametrize(
    ("found", "wanted", "unlike"),
    [
        ([_NAN, 1.0], [1.0, 1.0], 1),
        ([1.0, 1.0], [_NAN, _INF], 2),
        ([_INF, _NAN], [_INF, _NAN], 0),
        ([_INF, 1.0], [-_INF, 1.0], 1),
    ],
)
def test_what_is_no_finite_number_is_alike_only_if_it_is_the_same(found, wanted, unlike):
    difference = Deviation.between(torch.tensor(found), torch.tensor(wanted))
    assert difference.unlike == unlike
    assert math.isfinite(difference.relative)


@pytest.mark.parametrize(
    ("found", "wanted", "relative"),
    [([0.0], [0.0], 0.0), ([1.0], [0.0], math.inf), ([], [], 0.0), ([2 + 2j], [1 + 1j], 1.0), ([3], [1], 2.0)],
)
def test_zeros_empty_complex_and_integer_results_have_a_difference_too(found, wanted, relative):
    assert Deviation.between(torch.tensor(found), torch.tensor(wanted)).relative == pytest.approx(relative)


def test_problems_come_first_then_what_is_no_number_then_the_larger_of_values_and_gradients():
    assert [call.key[7] for call in NUMERICS.calls] == ["4", "3", "2", "1", "0", "5"]


def test_the_text_is_a_table_that_names_problems_and_missing_calls():
    lines = str(NUMERICS).splitlines()
    assert lines[0] == "6 calls with a kernel, the worst first"
    assert lines[1].split() == ["difference", "largest", "gradient", "kernel", "layer", "call"]
    assert lines[3] == "  the kernel raises RuntimeError: <no such shape>"
    assert lines[4].split()[:2] == ["2", "unlike"]
    assert lines[5].split() == ["1.0e-06", "1.0e-06", "5.0e-01", "1.0e-06", "1.0e-07", "layers.2.norm#0", "acme/norms@9a31f0c:RMSNorm"]
    assert "not called in this run: norm#0" in lines


def test_a_long_table_is_cut_and_says_what_is_left():
    numerics = Numerics.ranked([row(f"layers.{number}.norm#0", 10.0**-number) for number in range(32)])
    assert "and 12 more, none above 1.0e-20; .calls has all" in str(numerics)


def test_a_dictionary_of_it_can_be_written_as_json():
    written = json.loads(json.dumps(Numerics.ranked([row("a#0", math.inf)]).to_dict(), allow_nan=False))
    assert written["calls"][0]["value"] == {"relative": "inf", "largest": "inf", "unlike": 0}


def test_the_plot_is_well_formed_with_one_row_a_call_and_its_words(tmp_path):
    path = NUMERICS.plot(tmp_path / "numerics.svg")
    root = ElementTree.parse(path).getroot()
    titles = [title.text for title in root.iter("{http://www.w3.org/2000/svg}title")]
    assert len(titles) == 1 + len(NUMERICS.calls)
    assert "layers.4.norm#0: acme/norms@9a31f0c:RMSNorm, bfloat16; the kernel raises RuntimeError: <no such shape>" in titles[1]
    assert NUMERICS._repr_svg_() == path.read_text()


def test_longer_bars_are_larger_differences():
    root = ElementTree.fromstring(NUMERICS._repr_svg_())
    widths = [float(bar.attrib["width"]) for bar in root.iter("{http://www.w3.org/2000/svg}rect") if bar.attrib["class"] in ("bar", "bad")]
    assert widths == sorted(widths, reverse=True)
    assert widths[-1] == 0.0


def test_a_plot_without_any_difference_can_be_drawn():
    ElementTree.fromstring(Numerics.ranked([row("a#0")])._repr_svg_())


def test_a_plot_of_many_calls_is_cut_and_says_so():
    assert "and 40 more with smaller differences" in Numerics.ranked([row(f"layers.{n}.norm#0", 1e-3) for n in range(100)])._repr_svg_()


def test_another_file_than_svg_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"so the file ends in .svg, not '.png'"):
        NUMERICS.plot(tmp_path / "numerics.png")
