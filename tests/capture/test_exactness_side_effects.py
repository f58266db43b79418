from __future__ import annotations

import weakref
from collections import deque

import pytest
from torch import nn

from fxkernels.capture.exactness import PythonState


class Holder:
    def __init__(self) -> None:
        self.values = [1]


@pytest.fixture
def model() -> nn.Module:
    model = nn.Module()
    model.numbers, model.table, model.names, model.queue = [1, 2], {"a": [1]}, {"x"}, deque([1])
    model.holder = Holder()
    model.nested = ((Holder(),),)
    return model


CHANGES = {
    "numbers": lambda model: model.numbers.append(3),
    "numbers in place": lambda model: model.numbers.__setitem__(0, 5),
    "table": lambda model: model.table["a"].append(2),
    "table.b": lambda model: model.table.update(b=1),
    "names": lambda model: model.names.add("y"),
    "queue": lambda model: model.queue.popleft(),
    "holder.new": lambda model: setattr(model.holder, "new", 1),
    "holder": lambda model: model.holder.values.clear(),
    "nested": lambda model: model.nested[0][0].values.append(2),
    "late": lambda model: setattr(model, "late", 1),
}


def contents(model: nn.Module) -> str:
    return repr((model.numbers, model.table, model.names, model.queue, vars(model.holder), model.nested[0][0].values, sorted(vars(model))))


@pytest.mark.parametrize("path", CHANGES)
def test_a_change_is_named_and_put_back(model, path):
    before = contents(model)
    snapshot = PythonState({"": model})
    CHANGES[path](model)
    assert contents(model) != before
    assert snapshot.restore() == path.removesuffix(" in place")
    assert contents(model) == before


def test_nothing_changed_is_none(model):
    assert PythonState({"": model}).restore() is None


def test_the_path_of_the_module_is_part_of_the_name(model):
    snapshot = PythonState({"blocks.0": model})
    model.numbers.append(3)
    assert snapshot.restore() == "blocks.0.numbers"


def test_objects_that_refer_to_themselves_or_to_what_is_gone_are_no_trouble(model):
    model.numbers.append(model.numbers)
    object.__setattr__(model, "gone", weakref.proxy(Holder()))
    assert PythonState({"": model}).restore() is None
