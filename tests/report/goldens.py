"""Golden files: what a rendering shows, kept under `golden/`.

After a change that is meant, write them anew: ``FXKERNELS_WRITE_GOLDEN=1 python -m pytest tests/report``.
"""

from __future__ import annotations

import os
from pathlib import Path

GOLDEN = Path(__file__).parent / "golden"


def check_golden(name: str, text: str) -> None:
    path = GOLDEN / name
    if os.environ.get("FXKERNELS_WRITE_GOLDEN"):
        path.write_text(text + "\n", encoding="utf-8")
    assert text + "\n" == path.read_text(encoding="utf-8")
