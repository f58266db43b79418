"""What the README shows of a report: docs/report.png, the page in a browser, and docs/report.txt, the same on a terminal.

The model is a Llama of transformers with random weights, kernelized on the CPU with the built-in kernels. Needs Chromium, and looks best
with the fonts Inter and JetBrains Mono.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import click
import torch
from playwright.sync_api import sync_playwright

from fxkernels import kernelize
from fxkernels.builtin import builtin_mapping
from fxkernels.report.report import Report
from fxkernels.report.terminal import render_text

DOCS = Path(__file__).parents[1] / "docs"


def llama(layers: int) -> Report:
    """Return the report of a Llama that was kernelized."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(hidden_size=512, intermediate_size=1376, num_hidden_layers=layers, num_attention_heads=8, num_key_value_heads=4)
    torch.manual_seed(0)
    model = LlamaForCausalLM(config).to(torch.bfloat16).eval()
    fast = kernelize(
        model, mapping=builtin_mapping(), example_args=(torch.ones(1, 128, dtype=torch.long),), verify="probe", capture="dynamo"
    )
    report: Report = fast.report
    return report


def photograph(page_file: Path, image: Path, chromium: str, scheme: str) -> None:
    """Open the first call of the page and take a picture of the first screen."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium)
        page = browser.new_page(viewport={"width": 1360, "height": 1190}, device_scale_factor=1.25, color_scheme=scheme)
        page.goto(page_file.as_uri())
        page.locator(".call > summary").first.click()
        page.locator("h1").hover()
        page.locator(".after li").first.hover()
        page.screenshot(path=image)
        browser.close()


@click.command(help=__doc__)
@click.option("--layers", default=32, show_default=True)
@click.option("--chromium", envvar="FXKERNELS_CHROMIUM", default="/usr/bin/chromium", show_default=True)
@click.option("--scheme", type=click.Choice(["light", "dark"]), default="light", show_default=True)
@click.option("--into", type=click.Path(path_type=Path, file_okay=False), default=DOCS, help="Folder of the two files.")
def main(layers: int, chromium: str, scheme: str, into: Path) -> None:
    report = llama(layers)
    into.mkdir(exist_ok=True)
    (into / "report.txt").write_text(render_text(report, 80) + "\n")
    with tempfile.TemporaryDirectory() as folder:
        photograph(report.save(Path(folder, "report.html")), into / "report.png", chromium, scheme)


if __name__ == "__main__":
    main()
