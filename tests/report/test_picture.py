"""The picture: which blocks there are, what flows between them, and that a person can read it."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest
from report.reports import large_report, llama_like, small_report

from fxkernels.report.blocks import MOST_BLOCKS, Block, blocks_of, flow_of
from fxkernels.report.model import CallReport, GraphDecision
from fxkernels.report.picture import MARKS, TIMES, render_picture
from fxkernels.report.report import Report

SVG = "{http://www.w3.org/2000/svg}"


def call(path: str, *reads: str, index: int = 0, status: str = "rewritten") -> CallReport:
    return CallReport(path, index, "RMSNorm", "RMSNorm", None, (GraphDecision(0, status, reads=reads),))  # type: ignore[arg-type]


def written(blocks: tuple[Block, ...]) -> list[object]:
    return [{block.label: written(block.parts)} if block.parts else block.label for block in blocks]


def texts(svg: str) -> list[str]:
    return [
        text for element in ElementTree.fromstring(svg).iter() if (text := (element.text or "").strip()) and element.tag != f"{SVG}style"
    ]


def test_equal_layers_are_one_block_that_says_how_many_it_stands_for() -> None:
    blocks = blocks_of(llama_like(32).calls)
    assert written(blocks) == [{"model": [{"layers.{0..31}": ["input_layernorm", "post_attention_layernorm", "mlp"]}, "norm"]}]
    assert blocks[0].parts[0].repeat == 32
    assert f"{TIMES}32" in texts(render_picture(llama_like(32)))


def test_layer_in_which_something_else_happens_is_a_block_of_its_own() -> None:
    (model,) = blocks_of(llama_like(8, missed_in=[3]).calls)
    assert [part.label for part in model.parts] == ["layers.{0..2,4..7}", "layers.3", "norm"]


def test_layers_of_two_kinds_in_turn_are_two_blocks() -> None:
    calls = [call(f"layers.{n}.{'attention' if n % 4 == 3 else 'delta'}.norm") for n in range(8)]
    assert written(blocks_of(calls)) == ["layers.{0..2,4..6}.delta.norm", "layers.{3,7}.attention.norm"]


def test_calls_inside_rewritten_ones_are_not_drawn() -> None:
    assert "act_fn" not in str(written(blocks_of(small_report().calls)))


@pytest.mark.parametrize("most", [1, 3, 80])
def test_there_are_never_more_blocks_than_a_person_can_read(most: int) -> None:
    calls = [call(f"block_{n % 7}.part_{n % 31}.norm_{n}") for n in range(1_000)]
    blocks = blocks_of(calls, most)
    leaves = [leaf for block in blocks for leaf in block.leaves()]
    assert len(leaves) <= most + 1
    assert sum(len(leaf.calls) for leaf in leaves) == 1_000


def test_a_thousand_calls_of_a_mixture_of_experts_fit_on_a_few_screens() -> None:
    height = float(ElementTree.fromstring(render_picture(large_report(1_000))).attrib["viewBox"].split()[3])
    assert height < 1_500
    assert len(list(blocks_of(large_report(1_000).calls)[0].leaves())) < MOST_BLOCKS / 4


def test_edge_that_follows_from_others_is_left_out() -> None:
    blocks = blocks_of([call("a"), call("b", "a#0"), call("c", "b#0", "a#0"), call("d", "a#0")])
    assert flow_of(blocks).edges == ((0, 1), (1, 2), (0, 3))


def test_what_flows_to_the_next_of_equal_layers_is_a_loop_of_their_block() -> None:
    calls = [call("layers.0.a"), call("layers.0.b", "layers.0.a#0"), call("layers.1.a", "layers.0.b#0"), call("layers.1.b", "layers.1.a#0")]
    blocks = blocks_of(calls)
    assert flow_of(blocks).edges == ((0, 1),)
    assert flow_of(blocks).loops == {id(blocks[0]): (1, 0)}


def test_picture_says_in_words_and_marks_what_became_of_each_call() -> None:
    found = texts(render_picture(small_report()))
    for mark in set(MARKS.values()) - {MARKS["covered"]}:
        assert mark in found
    root = ElementTree.fromstring(render_picture(small_report()))
    labels = [link.attrib["aria-label"] for link in root.iter(f"{SVG}a")]
    assert "self_attn.rotary_pos_emb: 1 unknown" in labels
    assert (root[0].tag, root[1].tag) == (f"{SVG}title", f"{SVG}desc")


def test_calls_of_one_path_are_told_apart_by_their_numbers() -> None:
    assert written(blocks_of([call("norm", index=0), call("norm", index=1, status="missed"), call("norm", index=2)])) == [
        "norm#{0,2}",
        "norm#1",
    ]


def test_names_with_markup_are_text() -> None:
    svg = render_picture(Report((call('a"><script>', status="missed"),)))
    assert 'a"><script>' in texts(svg)
    assert not list(ElementTree.fromstring(svg).iter(f"{SVG}script"))


def test_report_without_calls_has_no_picture() -> None:
    assert render_picture(Report()) == ""
