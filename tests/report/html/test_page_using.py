"""A page is used: filters, search, folds, addresses, linked values, and all of it by keyboard."""

from __future__ import annotations

from dataclasses import replace

import pytest

pytest.importorskip("playwright", reason="playwright is not installed; it is in the dev extra")

from playwright.sync_api import Page, expect
from report.html.conftest import Open
from report.reports import llama_like, small_report

from fxkernels.report.picture import TIMES

pytestmark = pytest.mark.browser


def shown(page: Page) -> list[str]:
    return page.locator(".entry:visible > details > summary h3").all_text_contents()


def test_filters_by_status_layer_kernel_and_reason_leave_what_fits_all_of_them(open_page: Open) -> None:
    page = open_page(small_report())
    page.get_by_role("checkbox", name="missed").check()
    assert shown(page) == ["layers.0.self_attn.rotary_pos_emb", "norm#0", "norm", "proj"]
    expect(page.locator("#shown")).to_have_text("4 of 15 calls")
    page.get_by_role("combobox", name="Layer").select_option("RMSNorm")
    assert shown(page) == ["norm#0", "norm"]
    page.get_by_role("combobox", name="Reason").select_option("dtype")
    assert shown(page) == ["norm"]
    page.get_by_role("button", name="Clear").click()
    page.get_by_role("combobox", name="Kernel").select_option("acme/mlp@v1:GatedMLP")
    assert shown(page) == [f"mlp {TIMES}2"]
    expect(page.locator(".module:visible")).to_have_count(2)


def test_search_finds_single_calls_of_a_fold_operations_and_sentences(open_page: Open) -> None:
    page = open_page(llama_like(32, missed_in=[3]))
    search = page.get_by_role("searchbox")
    for words, found in {
        "layers.17.mlp#0": [f"mlp {TIMES}32", f"act_fn {TIMES}32"],
        "takes bf16": ["layers.3.input_layernorm"],
        "GATE_PROJ": [f"mlp {TIMES}32"],
        "nothing like it": [],
    }.items():
        search.fill(words)
        assert [text.split("}.")[-1] for text in shown(page)] == found
    expect(page.get_by_text("No call fits these filters.")).to_be_visible()


def test_search_finds_a_single_call_of_a_long_fold(open_page: Open) -> None:
    page = open_page(llama_like(100))
    page.get_by_role("searchbox").fill("layers.77.mlp#0")
    assert [text.split("}.")[-1] for text in shown(page)] == [f"mlp {TIMES}100", f"act_fn {TIMES}100"]


def test_filters_stand_in_the_address_and_come_back_with_it(open_page: Open) -> None:
    page = open_page(small_report())
    page.get_by_role("checkbox", name="missed").check()
    page.get_by_role("searchbox").fill("dtype")
    assert page.evaluate("location.hash") == "#?q=dtype&status=missed"
    page.reload()
    assert shown(page) == ["norm"]
    expect(page.get_by_role("checkbox", name="missed")).to_be_checked()


def test_modules_fold_with_all_that_is_in_them(open_page: Open) -> None:
    page = open_page(small_report())
    module = page.locator(".module", has=page.locator("summary .path", has_text="projector")).last
    expect(module.locator("summary .counts").first).to_have_text("2 not captured")
    module.locator("summary").first.click()
    expect(module.get_by_role("heading", name="act")).to_be_hidden()


def test_address_of_a_call_inside_a_fold_opens_it_and_marks_it(open_page: Open) -> None:
    page = open_page(llama_like(4), "#call-model.layers.2.mlp-0")
    fold = page.locator('[id="call-model.layers.0.mlp-0"]')
    expect(fold).to_have_attribute("open", "")
    expect(fold.locator(".calls .here")).to_contain_text("model.layers.2.mlp#0")
    expect(fold.locator("summary").first).to_be_focused()


def test_address_of_one_call_of_a_long_fold_is_found_too(open_page: Open) -> None:
    page = open_page(llama_like(100), "#call-model.layers.77.mlp-0")
    expect(page.locator('[id="call-model.layers.0.mlp-0"] .calls .here')).to_contain_text("model.layers.77.mlp#0")


def test_blocks_of_the_picture_lead_to_calls_and_the_back_button_leads_back(open_page: Open) -> None:
    page = open_page(small_report())
    page.get_by_role("checkbox", name="excluded").check()
    page.get_by_role("link", name="act: 1 not captured").click()
    expect(page.locator(".call.here h3").first).to_have_text("act")
    page.get_by_role("link", name="proj: 1 missed").click()
    expect(page.locator(".call.here h3").first).to_have_text("proj")
    page.go_back()
    expect(page.locator(".call.here h3").first).to_have_text("act")


def test_value_under_the_pointer_is_lit_on_both_sides(open_page: Open) -> None:
    page = open_page(llama_like(2), "#call-model.layers.0.input_layernorm-0")
    call = page.locator(".call.here")
    call.locator(".side", has_text="Before").locator("li", has_text="v6 =").hover()
    expect(call.locator(".after li.lit")).to_contain_text("v6 = acme_norms_RMSNorm")
    call.locator(".inputs li", has_text="hidden_states").hover()
    expect(call.locator(".ops .lit")).to_have_text(["hidden_states", "hidden_states"])
    page.locator("h1").hover()
    call.locator("h4", has_text="Gates").hover()
    expect(call.locator(".lit")).to_have_count(0)


def test_page_is_used_with_a_keyboard_alone(open_page: Open) -> None:
    page = open_page(small_report())
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the layer calls")).to_be_focused()
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    expect(page.get_by_role("searchbox")).to_be_focused()
    page.keyboard.type("lm_head.norm")
    for _ in range(20):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.matches('.call > summary')"):
            break
    page.keyboard.press("Enter")
    expect(page.locator(".inputs li:visible").first).to_have_attribute("tabindex", "0")
    page.keyboard.press("Tab")
    expect(page.locator(".inputs li:visible", has_text="hidden_states")).to_be_focused()
    expect(page.locator(".ops .lit:visible")).to_have_text(["hidden_states"])
    page.keyboard.press("End")
    expect(page.locator("li[data-v=v6]:visible")).to_be_focused()
    page.keyboard.press("/")
    expect(page.get_by_role("searchbox")).to_be_focused()


def test_json_in_the_page_is_saved_as_it_is(open_page: Open) -> None:
    page = open_page(small_report())
    with page.expect_download() as download:
        page.get_by_role("button", name="Save the JSON").click()
    assert type(small_report()).from_json(download.value.path().read_text()).to_json() == small_report().to_json()


def test_notebook_summary_shows_every_fold_without_scripts_or_style_sheets(open_page: Open) -> None:
    page = open_page(small_report())
    page.set_content(replace(small_report(), model="model.<b>")._repr_html_())
    expect(page.get_by_role("row", name="layers.0.self_attn.rotary_pos_emb")).to_contain_text("mutation: copy_ writes into cache")
    expect(page.locator("script, style, link")).to_have_count(0)
