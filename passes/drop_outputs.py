"""Have a captured graph not return what only operations inside of layer calls need, as the logits beside a loss."""

from __future__ import annotations

from collections.abc import Iterable

from torch import fx

from .layer_call import LayerCall


def drop_outputs(graph: fx.Graph, calls: Iterable[LayerCall]) -> dict[int, str]:
    """Have a graph return no values that are computed inside of these calls and are none of their outputs.

    Args:
        graph: A captured graph, which returns a tuple.
        calls: Layer calls in it.

    Returns:
        The names of the values by the positions that they had among the graph's outputs.
    """
    inside = frozenset[fx.Node]().union(*(call.inside - {*call.outputs} for call in calls))
    output = graph.output_node()
    values = tuple(output.args[0])  # type: ignore[arg-type]  # a tuple
    dropped = {position: value.name for position, value in enumerate(values) if value in inside}
    if dropped:
        output.args = (tuple([value for value in values if value not in inside]),)
    return dropped
