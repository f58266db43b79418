from __future__ import annotations

from pathlib import Path

import pytest
from report.reports import small_report

from fxkernels.report.report import Report


def test_suffix_says_in_which_form_a_report_is_saved(tmp_path: Path) -> None:
    page = small_report().save(tmp_path / "report.html")
    data = small_report().save(str(tmp_path / "report.JSON"))
    assert page.read_text(encoding="utf-8").startswith("<!doctype html>")
    assert Report.from_json(data.read_text(encoding="utf-8")).to_json() == small_report().to_json()


@pytest.mark.parametrize("name", ["report", "report.txt", "report.html.gz"])
def test_other_suffixes_are_errors_that_list_the_ones_there_are(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match=r"report.* one of \.html, \.json"):
        small_report().save(tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_the_readme_shows_the_text_that_the_screenshot_command_has_written() -> None:
    root = Path(__file__).parent.parent.parent
    assert (root / "docs/report.txt").read_text().rstrip() in (root / "README.md").read_text()
