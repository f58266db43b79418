"""Misses."""

from __future__ import annotations

from fxkernels.passes.miss import Miss


def test_message_is_the_template_filled_with_the_data() -> None:
    miss = Miss("layout", "{name} has stride {stride} in its last dimension", {"name": "x", "stride": 2})
    assert miss.message == "x has stride 2 in its last dimension"
    assert str(miss) == "layout: x has stride 2 in its last dimension"


def test_message_is_not_formatted_before_it_is_read() -> None:
    class Unprintable:
        def __format__(self, spec: str) -> str:
            raise AssertionError("formatted")

    Miss("state", "{what}", {"what": Unprintable()})
