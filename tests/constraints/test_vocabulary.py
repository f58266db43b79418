"""The vocabulary as it is documented for users."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from fxkernels.constraints import parse
from fxkernels.constraints.vocabulary import CALLABLE, TARGET_FACTS

TEXT = (Path(__file__).parent.parent.parent / "docs" / "constraints.md").read_text()
ROWS = [line.split(" | ") for line in TEXT.split("## Words")[1].split("\n\n")[1].splitlines()[2:]]


@pytest.mark.parametrize("word", [*CALLABLE, *TARGET_FACTS])
def test_every_word_is_in_the_table(word: str) -> None:
    assert any(re.search(rf"`{word}\b", row[0]) for row in ROWS)


@pytest.mark.parametrize("example", [row[2].strip(" |").strip("`") for row in ROWS])
def test_every_example_is_a_constraint(example: str) -> None:
    parse(example if not example.endswith("[0]") else f"none({example})")


@pytest.mark.parametrize("text", re.findall(r'"((?:dim|dtype)\([^"]+)"', TEXT))
def test_every_declaration_that_is_shown_is_one(text: str) -> None:
    parse(text)
