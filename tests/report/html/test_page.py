"""What is in a page, without a browser."""

from __future__ import annotations

import base64
import gzip
import re
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from report.reports import large_report, llama_like, rewritten_norm, small_report

from fxkernels.report.html import render_fragment, render_html
from fxkernels.report.report import Report


class Page(HTMLParser):
    """The text of a page, its ids, the addresses that it links to, and its scripts."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.text, self.ids, self.links, self.scripts, self.inside = "", list[str](), list[str](), list[str](), ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.inside = tag
        self.text += " " if tag == "p" else ""
        self.ids += [value or "" for name, value in attrs if name == "id"]
        self.links += [value or "" for name, value in attrs if name in ("href", "src")]

    def handle_endtag(self, tag: str) -> None:
        self.inside = ""

    def handle_data(self, data: str) -> None:
        if self.inside == "script":
            self.scripts.append(data)
        elif self.inside != "style":
            self.text += data


def words(text: str) -> str:
    return " ".join(text.split())


def test_every_call_reason_note_operation_and_version_is_in_the_page() -> None:
    report = small_report()
    text = words(Page(render_html(report)).text)
    for call_ in report.calls:
        assert call_.key in text
        for decision in call_.decisions:
            assert all(words(operation.code) in text for operation in (*decision.before, *decision.after))
            assert all(words(miss.message) in text for miss in decision.misses if "it happens inside" not in miss.template)
    assert all(note in text for note in report.notes)
    assert all(version in text for _, version in report.versions)
    assert str(report.targets[0]) in text


def test_call_that_missed_is_told_what_would_make_it_match() -> None:
    text = words(Page(render_html(small_report())).text)
    assert "has no backward and the layer is in training mode It would match in eval mode, or with backward='recompute'." in text
    assert "exists outside of the call It would match if the layer returned a new tensor instead of writing into cache." in text


def test_gates_stand_in_the_page_with_their_outcome_in_words() -> None:
    text = words(Page(render_html(small_report())).text)
    assert "inputs failed layout x has stride 2 in its last dimension, the kernel reads it as 1" in text
    assert "admission unknown no worker on this system" in text
    assert "not asked: mode, constraints, admission, lowering, selection" in text


def test_page_holds_the_report_as_packed_json() -> None:
    (data, _) = Page(render_html(small_report())).scripts
    assert gzip.decompress(base64.b64decode(data)).decode() == small_report().to_json()


def test_equal_reports_make_equal_pages() -> None:
    assert render_html(small_report()) == render_html(Report.from_json(small_report().to_json()))


def test_every_link_within_the_page_leads_somewhere() -> None:
    page = Page(render_html(small_report()))
    assert len(page.ids) == len(set(page.ids))
    assert {link for link in page.links if not link.startswith("data:")} <= {f"#{name}" for name in page.ids}


def test_page_asks_for_nothing_from_outside_and_allows_its_own_script_only() -> None:
    html = render_html(small_report())
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", html)
    assert "default-src 'none'" in html


def test_what_equal_calls_share_is_written_once() -> None:
    assert len(render_html(llama_like(32))) < 1.6 * len(render_html(llama_like(8)))
    html = render_html(llama_like(8))
    assert (html.count("torch.rsqrt(v2 + 1e-06)"), html.count('class="same"')) == (1, 2)


def test_calls_of_a_fold_with_other_shapes_are_described_on_their_own() -> None:
    narrow = rewritten_norm("layers.0.norm", "mul")
    decision = replace(narrow.decisions[0], inputs=("hidden_states: bf16[2, 8, 32]",))
    wide = [rewritten_norm(f"layers.{n}.norm", "mul") for n in (1, 2)]
    text = words(Page(render_html(Report((replace(narrow, decisions=(decision,)), *wide)))).text)
    assert "layers.{0..2}.norm" in text
    assert "layers.0.norm Kernel" in text
    assert "layers.{1..2}.norm Kernel" in text


@pytest.mark.parametrize("fold", [True, False])
def test_ten_thousand_operations_stay_below_two_megabytes(fold: bool) -> None:
    """Also where no two calls have names alike, so that nothing folds but what they do."""
    calls = [
        replace(call_, path=call_.path if fold else f"block_{number:x}.norm") for number, call_ in enumerate(large_report(3_300).calls)
    ]
    calls = calls if fold else [call_ for call_ in calls if call_.status != "covered"][:1_400]
    assert sum(len(decision.before) + len(decision.after) for call_ in calls for decision in call_.decisions) > 8_000
    assert len(render_html(Report(tuple(calls))).encode()) < 2_000_000


def test_a_page_of_ten_thousand_calls_stays_below_two_megabytes() -> None:
    assert len(render_html(large_report(10_000)).encode()) < 2_000_000


def test_counters_say_at_each_call_how_often_it_ran_and_of_a_long_fold_in_sum() -> None:
    for layers, said in ((3, "ran kernel \u00d72"), (100, "ran kernel \u00d7200")):
        report = llama_like(layers)
        html = render_html(replace(report, ran={call_.key: Counter(kernel=2) for call_ in report.calls}))  # type: ignore[arg-type]
        assert said in words(Page(html).text)


def test_page_of_a_model_that_was_not_captured_says_what_to_do() -> None:
    assert "Call the model once" in render_html(Report(pending=True))
    assert "No annotated layer was called" in render_html(Report())


def test_notebook_summary_has_no_scripts_and_says_how_to_get_the_page() -> None:
    html = render_fragment(replace(small_report(), model="model.<script>"))
    assert "<script" not in html
    assert 'report.save("report.html")' in Page(html).text
    assert "unknown" in Page(html).text
