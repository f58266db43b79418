from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from report.reports import small_report

from fxkernels.report.json import SCHEMA, to_json
from fxkernels.report.json.rows import TABLES

DOCUMENT = (Path(__file__).parents[3] / "docs" / "report-json.md").read_text()


def test_the_documented_program_reads_a_report_without_fxkernels(tmp_path: Path) -> None:
    (tmp_path / "report.json").write_text(to_json(small_report()))
    (program,) = re.findall(r"```python\n(.*?)```", DOCUMENT, re.DOTALL)
    done = subprocess.run([sys.executable, "-I", "-c", program], cwd=tmp_path, check=False, capture_output=True, text=True)
    lines = done.stdout.splitlines()
    assert lines[0] == "model.layers.0.input_layernorm: rewritten by acme/norms"
    assert lines[-1] == "lm_head.proj: missed (no_mapping)"


def test_the_documented_schema_and_tables_are_those_that_are_written() -> None:
    assert f'"{SCHEMA}"' in DOCUMENT
    for table in (*TABLES.values(), "layers", "calls"):
        assert f"`{table}`" in DOCUMENT
