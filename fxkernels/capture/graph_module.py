"""The graph module that symbolic capture gives: a graph over the modules of a clone."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

from torch import fx, nn

_GRAPH = "_graph"


class FunctionCall(nn.Module):
    """An annotated function as a module below the one whose code calls it: its calls are nodes of the graph, and follow the training flag
    of that module.

    Args:
        function: The annotated function.
        training: The flag of the module that calls it.
    """

    def __init__(self, function: Callable[..., Any], training: bool) -> None:
        super().__init__()
        self.function = function
        self.training = training

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(*args, **kwargs)

    def extra_repr(self) -> str:
        return getattr(self.function, "__name__", repr(self.function))


class LayerGraph(fx.GraphModule):
    """A graph module that has the submodules, parameters, buffers, hooks and attributes of the module that was traced, object for object.

    A plain `fx.GraphModule` has the called submodules only, registers tensor attributes as buffers (new state-dict keys), and forgets on
    copying which buffers are not persistent.
    """

    @classmethod
    def over(cls, root: nn.Module, graph: fx.Graph, functions: Mapping[str, Callable[..., Any]]) -> LayerGraph:
        """Return the graph over `root`, whose state it takes over.

        Args:
            root: A module.
            graph: A graph of its calls.
            functions: By path, the annotated functions that the graph calls as modules.
        """
        for path, function in functions.items():
            owner, _, name = path.rpartition(".")
            caller = root.get_submodule(owner)
            vars(caller)["_modules"][name] = FunctionCall(function, caller.training)
        module = cls(root, graph, type(root).__name__)
        state, of_every_module = vars(module), vars(nn.Module())
        for name, value in vars(root).items():
            if name in of_every_module or name not in state:
                state[name] = value
        return module

    def _state(self) -> dict[str, Any]:
        state: dict[str, Any] = self.__getstate__()  # type: ignore[no-untyped-call]
        del state[_GRAPH]
        return state

    def __deepcopy__(self, memo: dict[int, Any]) -> LayerGraph:
        memo[id(self)] = module = _empty(type(self).__name__)
        vars(module).update(copy.deepcopy(self._state(), memo))
        module.graph = copy.deepcopy(self.graph)
        return module

    def __reduce__(self) -> tuple[Any, ...]:
        # torch pickles the generated code of a plain graph module, and traces that code where it is unpickled. Annotations must not be in
        # it: those that are strings, as with `from __future__ import annotations`, it cannot write (torch 2.13).
        graph = copy.deepcopy(self.graph)
        for node in graph.nodes:
            node.type = None
        return _empty, (type(self).__name__,), (self._state(), fx.GraphModule(self, graph))

    def __setstate__(self, state: tuple[dict[str, Any], fx.GraphModule]) -> None:
        attributes, plain = state
        vars(self).update(attributes)
        self.graph = plain.graph


def _empty(name: str) -> LayerGraph:
    module: LayerGraph = LayerGraph.__new__(LayerGraph)
    type(module).__name__ = name  # torch.fx gives each graph module a class of its own
    return module
