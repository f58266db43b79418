"""Misses, and the freeze on their public codes."""

from __future__ import annotations

import pytest

from fxkernels.passes.miss import CODES, Miss

# Reports and CI checks store these. Append new ones at the end; never rename, reorder or remove one.
FROZEN = """
    forward_overridden excluded condition_false not_captured graph_break covered mutation random escape state opaque_argument
    no_mapping no_device capability no_mode untrusted no_variant offline digest load_error
    signature own_state missing_attribute no_backward not_compilable dtype rank layout shape dynamic_shape tensor_subclass
    output_metadata conflict numerics gradient mutates_input crash timeout unprobed not_profitable
""".split()


def test_published_codes_are_never_changed_only_appended_to() -> None:
    assert list(CODES[: len(FROZEN)]) == FROZEN


def test_codes_are_unique() -> None:
    assert len(set(CODES)) == len(CODES)


def test_message_is_the_template_filled_with_the_data() -> None:
    miss = Miss("layout", "{name} has stride {stride} in its last dimension", {"name": "x", "stride": 2})
    assert miss.message == "x has stride 2 in its last dimension"
    assert str(miss) == "layout: x has stride 2 in its last dimension"


def test_message_is_not_formatted_before_it_is_read() -> None:
    class Unprintable:
        def __format__(self, spec: str) -> str:
            raise AssertionError("formatted")

    Miss("state", "{what}", {"what": Unprintable()})


def test_unknown_code_is_an_error_that_names_the_list() -> None:
    with pytest.raises(ValueError, match=r"'slow'.*passes/miss\.py"):
        Miss("slow", "too slow")
