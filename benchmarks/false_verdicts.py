"""Are there kernels that admission judges wrongly? Probes every kernel of tests/hazard_variants.py and counts:

    python benchmarks/false_verdicts.py > benchmarks/results/false_verdicts.jsonl

A wrong kernel that is admitted is a false admission, a right one that is refused a false refusal. Wrong ones that end the process are
probed in one of their own by tests/admission/test_worker.py and are not counted here.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections import Counter
from pathlib import Path

TESTS = Path(__file__).parent.parent / "tests"
sys.path[:0] = [str(TESTS)]

from hazard_variants import REPAIRED, TWINS, VARIANTS, Variant  # noqa: E402

from fxkernels.admission.probe import probe  # noqa: E402


def became(variant: Variant) -> str:
    with contextlib.redirect_stdout(sys.stderr):  # some of them print
        verdict = probe(variant.case())
    if verdict.code is not None:
        return "refused"
    return REPAIRED if verdict.repairs.copied_inputs or verdict.repairs.reordered_outputs else "admitted"


def main() -> None:
    """Print one row for wrong kernels and one for right ones."""
    for kind, variants, false in (("wrong", VARIANTS, "admitted"), ("right", TWINS, "refused")):
        found = Counter(became(variant) for variant in variants)
        print(json.dumps({"kernels": kind, "tried": len(variants), **dict(sorted(found.items())), "false": found[false]}))


if __name__ == "__main__":
    main()
