"""What does the page of a report cost: how large is it, how long does it take to make, and how long to open? One JSON line per row.

Reports are those of the tests (tests/report/reports.py), so that no model is needed. Opening is measured in headless Chromium, from the
request for the file until the page has been laid out and its filters answer; each run is a new page.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import click
from measure import compare, per_call, print_row

TESTS = Path(__file__).parents[1] / "tests"
sys.path[:0] = [str(TESTS)]

from playwright.sync_api import sync_playwright  # noqa: E402
from report.reports import large_report, llama_like  # noqa: E402

from fxkernels.report.html import render_html  # noqa: E402
from fxkernels.report.report import Report  # noqa: E402

READY = "() => document.getElementById('shown').textContent && document.body.offsetHeight > 0"


def operations(report: Report) -> int:
    """How many operations there are before and after, over all calls and graphs."""
    return sum(len(decision.before) + len(decision.after) for call in report.calls for decision in call.decisions)


def of_operations(number: int) -> Report:
    """A mixture of experts with about that many operations."""
    calls = large_report(2 * number // 5).calls
    total = 0
    for count, call in enumerate(calls):
        total += sum(len(decision.before) + len(decision.after) for decision in call.decisions)
        if total >= number:
            return Report(calls[: count + 1], model="model.MixtureOfExperts")
    return Report(calls, model="model.MixtureOfExperts")


def unlike(report: Report) -> Report:
    """The same calls under names that have nothing in common."""
    outer = [call for call in report.calls if call.status != "covered"]
    return replace(report, calls=tuple(replace(call, path=f"block_{number:x}.norm") for number, call in enumerate(outer)))


@click.group(help=__doc__)
def main() -> None:
    """Measure one question."""


@main.command()
@click.option("--runs", default=5, show_default=True)
def render(runs: int) -> None:
    """Making a page: the time per call of a large report against a tenth of it. About 1 is linear."""
    for name, make in (("mixture of experts", large_report), ("names that have nothing in common", lambda n: unlike(large_report(n)))):
        large, small = make(10_000), make(1_000)
        ratio = len(large.calls) / len(small.calls)
        sides: dict[str, Callable[[], float]] = {
            f"per {len(small.calls):,} of {len(large.calls):,} calls": scaled(per_call(lambda r=large: render_html(r)), ratio),  # type: ignore[misc]
            f"{len(small.calls):,} calls": per_call(lambda r=small: render_html(r)),  # type: ignore[misc]
        }
        row = compare(f"{name}, {len(large.calls):,} calls, {len(render_html(large).encode()) / 1e6:.2f} MB", sides, runs)
        print_row(row)


def scaled(run: Callable[[], float], ratio: float) -> Callable[[], float]:
    """A run whose seconds are divided."""
    return lambda: run() / ratio


@main.command(name="open")
@click.option("--runs", default=5, show_default=True)
@click.option("--chromium", envvar="FXKERNELS_CHROMIUM", default="/usr/bin/chromium", show_default=True)
def open_(runs: int, chromium: str) -> None:
    """Opening a page in Chromium, against that of a 4-layer decoder: what is left is what the size costs."""
    reports = {
        "32-layer decoder": llama_like(32, missed_in=[3]),
        "mixture of experts": of_operations(10_000),
        "names that have nothing in common": unlike(of_operations(11_600)),  # without those inside others: 10,000
        "mixture of experts, 10,000 calls": large_report(10_000),
    }
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium)

        def opened(file: Path) -> Callable[[], float]:
            def run() -> float:
                page = browser.new_page()
                start = time.perf_counter()
                page.goto(file.as_uri())
                page.wait_for_function(READY)
                seconds = time.perf_counter() - start
                page.close()
                return seconds

            run()
            return run

        small = opened(llama_like(4).save(Path(folder, "small.html")))
        for number, (name, report) in enumerate(reports.items()):
            file = report.save(Path(folder, f"{number}.html"))
            question = f"{name}: {operations(report):,} operations, {file.stat().st_size / 1e6:.2f} MB"
            print_row(compare(question, {"open": opened(file), "4-layer decoder": small}, runs))
        browser.close()


if __name__ == "__main__":
    main()
