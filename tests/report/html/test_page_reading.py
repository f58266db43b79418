"""A page is read: with and without scripts, in both colour schemes, on a phone, by a screen reader, and when it is large."""

from __future__ import annotations

from dataclasses import replace

import pytest

pytest.importorskip("playwright", reason="playwright is not installed; it is in the dev extra, as axe-playwright-python is")

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect
from report.html.conftest import Open
from report.reports import call, large_report, llama_like, rewritten_norm, small_report, wrong_dtype

from fxkernels.report.report import Report

pytestmark = pytest.mark.browser

NAMES = [
    "</script><script>alert(1)</script>",
    '"><img src=x onerror=alert(2)>',
    "' onclick='alert(3)",
    "<!--",
    "&lt;b&gt;",
    "größe 层",
    "%41",
]


def test_page_opens_with_the_model_its_summary_and_its_calls(open_page: Open) -> None:
    page = open_page(small_report())
    expect(page).to_have_title("SmallModel: " + small_report().summary + " · fxkernels")
    expect(page.get_by_role("heading", level=1)).to_have_text("SmallModel")
    expect(page.locator(".summary")).to_have_text(small_report().summary)
    expect(page.get_by_role("heading", level=3, name="input_layernorm")).to_be_visible()


def test_everything_can_be_read_and_opened_without_scripts(open_page: Open) -> None:
    page = open_page(small_report(), java_script_enabled=False)
    expect(page.get_by_role("search")).to_have_count(0)
    expect(page.locator("button:visible")).to_have_count(0)
    call_ = page.locator('details[id="call-lm_head.norm-0"]')
    expect(call_.get_by_text("torch.rsqrt")).to_be_hidden()
    call_.locator("summary").click()
    expect(call_.get_by_text("x is f32; acme/norms@9a31f0c:RMSNorm takes bf16, f16").first).to_be_visible()
    expect(call_.get_by_text("not asked: mode, constraints, admission, lowering, selection").first).to_be_visible()
    for text in ("hidden_states: bf16", "linear_0"):
        assert text.split(":")[0] in page.content()


def test_what_equal_calls_share_is_behind_a_link_without_scripts_and_in_its_place_with_them(open_page: Open) -> None:
    report = llama_like(2)
    plain = open_page(report, java_script_enabled=False)
    second = '[id="call-model.layers.0.post_attention_layernorm-0"]'
    plain.locator(f"{second} > summary").click()
    expect(plain.locator(f"{second} .same a")).to_have_attribute("href", "#call-model.layers.0.input_layernorm-0")
    page = open_page(report)
    page.locator(f"{second} > summary").click()
    expect(page.locator(second).get_by_text("torch.rsqrt(v2 + 1e-06)")).to_be_visible()


def test_page_has_no_accessibility_violation_and_enough_contrast_in_the_dark_too(open_page: Open) -> None:
    page = open_page(small_report())
    for anchor in ("model.layers.1.self_attn.rotary_pos_emb-0", "model.norm-0"):
        page.locator(f'[id="call-{anchor}"] > summary').click()
    found = Axe().run(page, options={"resultTypes": ["violations"]})
    assert found.violations_count == 0, found.generate_report()
    page.emulate_media(color_scheme="dark")
    found = Axe().run(page, options={"runOnly": ["color-contrast"], "resultTypes": ["violations"]})
    assert found.violations_count == 0, found.generate_report()


def test_colours_follow_the_system_until_the_button_says_otherwise(open_page: Open) -> None:
    page = open_page(small_report(), color_scheme="dark")
    ground = "getComputedStyle(document.body).backgroundColor"
    dark = page.evaluate(ground)
    page.get_by_role("button", name="Switch to light colours").click()
    light = page.evaluate(ground)
    assert sum(map(int, light[4:-1].split(","))) > 600 > 200 > sum(map(int, dark[4:-1].split(",")))
    page.reload()
    assert page.evaluate(ground) == light
    expect(page.get_by_role("button", name="Switch to dark colours")).to_be_visible()


@pytest.mark.parametrize("width", [390, 1280])
def test_page_never_scrolls_sideways(open_page: Open, width: int) -> None:
    page = open_page(
        replace(small_report(), model="a_module_with_a_very_long_name." * 4 + "Model"), viewport={"width": width, "height": 800}
    )
    page.get_by_role("button", name="Open all").click()
    assert page.evaluate("document.documentElement.scrollWidth") == width


def test_landmarks_headings_and_labels_are_there_for_screen_readers(open_page: Open) -> None:
    page = open_page(small_report())
    for role in ("banner", "main", "search", "contentinfo"):
        expect(page.get_by_role(role)).to_have_count(1)
    expect(page.get_by_role("region", name="Layer calls")).to_be_visible()
    expect(page.get_by_role("img", name="5 rewritten, 4 missed, 1 unknown, 2 not captured, 1 excluded, 2 covered")).to_be_visible()
    expect(page.get_by_role("group", name="The layer calls of the model")).to_be_visible()
    expect(page.get_by_role("link", name="self_attn.rotary_pos_emb: 1 missed")).to_be_visible()
    for name in ("Layer", "Kernel", "Reason"):
        expect(page.get_by_role("combobox", name=name)).to_be_visible()


def test_names_with_markup_in_them_are_only_text(open_page: Open) -> None:
    calls = [rewritten_norm(f"model.{name}", name) for name in NAMES]
    calls += [replace(call(f"other.{name}", "RMSNorm", wrong_dtype()), layer_name=name, layer=name, location=name) for name in NAMES]
    page = open_page(Report(tuple(calls), notes=tuple(NAMES), model=f"module.{NAMES[0]}"))
    page.get_by_role("button", name="Open all").click()
    for name in NAMES:
        expect(page.locator(".call h3").get_by_text(name, exact=True)).to_have_count(2)
    expect(page.locator("script")).to_have_count(2)
    expect(page.locator("img:not([role]), [onclick]")).to_have_count(0)
    for number, name in enumerate(NAMES[:2]):
        page.locator(".pic a").nth(number).click()
        expect(page.locator(".call.here h3")).to_have_text(name)


def test_report_of_ten_thousand_operations_weighs_little_and_can_be_searched(open_page: Open) -> None:
    report = large_report(3_300)
    operations = sum(len(decision.before) for call in report.calls for decision in call.decisions)
    page = open_page(report)
    expect(page.locator("#shown")).to_have_text("3,300 of 3,300 calls")
    assert (operations > 10_000, len(page.content()) < 2_000_000) == (True, True)
    page.get_by_role("searchbox").fill("layers.5.input_layernorm")
    expect(page.locator(".entry:visible")).to_have_count(1)
