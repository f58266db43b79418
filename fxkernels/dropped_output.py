"""What a model returns in the place of an output that is not returned, because ``drop_outputs=`` says that nothing reads it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, NoReturn

from .errors import DroppedOutputError


class DroppedOutput:
    """An output that was not returned. It can be handed on; whatever is done with it raises an error.

    Args:
        layer_names: The layer names that ``drop_outputs=`` has.
    """

    def __init__(self, layer_names: Sequence[str]) -> None:
        self._layer_names = tuple(layer_names)

    def __repr__(self) -> str:
        return f"DroppedOutput({', '.join(self._layer_names)})"

    def _refuse(self, *args: object) -> NoReturn:
        raise DroppedOutputError(
            "this output of the model was not returned by the compiled code\n"
            f"  drop_outputs={self._layer_names!r} said that nothing reads it; leave that out to get it."
        )

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)  # copy, pickle and others look for protocols
        self._refuse()

    @classmethod
    def __torch_function__(
        cls, function: Callable[..., Any], types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        next(_dropped_in([args, kwargs or {}]))._refuse()

    __eq__ = __ne__ = __lt__ = __le__ = __gt__ = __ge__ = _refuse
    __hash__ = object.__hash__
    __getitem__ = __setitem__ = __iter__ = __len__ = __bool__ = __int__ = __float__ = __array__ = _refuse
    __neg__ = __pos__ = __abs__ = __invert__ = __round__ = _refuse
    __add__ = __sub__ = __mul__ = __truediv__ = __floordiv__ = __mod__ = __pow__ = __matmul__ = __and__ = __or__ = __xor__ = _refuse
    __radd__ = __rsub__ = __rmul__ = __rtruediv__ = __rfloordiv__ = __rmod__ = __rpow__ = __rmatmul__ = _refuse
    __rand__ = __ror__ = __rxor__ = _refuse


def _dropped_in(value: Any) -> Iterator[DroppedOutput]:
    """The dropped outputs among the arguments of a function, which may be nested as those of `torch.stack` are."""
    if isinstance(value, DroppedOutput):
        yield value
    elif isinstance(value, list | tuple | dict):
        for each in value.values() if isinstance(value, dict) else value:
            yield from _dropped_in(each)


def with_dropped(compiled: Callable[..., Any], positions: Collection[int], layer_names: Sequence[str]) -> Callable[..., Any]:
    """Return a compiled graph with `DroppedOutput` where outputs were dropped.

    Args:
        compiled: The compiled graph, which returns the other outputs.
        positions: Where the dropped ones were, ascending.
        layer_names: The layer names that ``drop_outputs=`` has.
    """
    if not positions:
        return compiled
    dropped = DroppedOutput(layer_names)

    def run(*args: Any) -> tuple[Any, ...]:
        outputs = [*compiled(*args)]
        for position in positions:
            outputs.insert(position, dropped)
        return tuple(outputs)

    return run
