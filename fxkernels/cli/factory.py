"""Loads the model that the user names, as ``module:factory`` or ``hf:architecture``, and says what is wrong with it."""

from __future__ import annotations

import difflib
import importlib
import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple

import click
from torch import nn

from .architectures import PREFIX, load_architecture
from .output import CommandError, described

if TYPE_CHECKING:
    from ..mapping import KernelMapping

Arguments = tuple[Any, ...] | dict[str, Any]


class Example(NamedTuple):
    """A model and the arguments of a call of it."""

    model: nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


def target_arguments(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the argument and the options that name a model and say how it is explained."""
    for decorator in (
        click.option("--traceback", "show_traceback", is_flag=True, help="Show the whole traceback where your code raises."),
        click.option(
            "--builtin/--no-builtin",
            default=True,
            show_default=True,
            help="Offer the built-in kernels too; what the module registers comes first.",
        ),
        click.option(
            "--mode",
            type=click.Choice(["inference", "training"]),
            help="Call model.eval() or model.train() first.  [default: as the factory returns it]",
        ),
        click.option(
            "--config", multiple=True, metavar="KEY=VALUE", help="A setting of an hf: architecture; values are JSON or text. Repeatable."
        ),
        click.argument("target", metavar="TARGET"),
    ):
        command = decorator(command)
    return command


def load_example(target: str, config: Sequence[str], mode: str | None, device: str = "meta") -> Example:
    """Return the model of a command's TARGET with example arguments, in inference or training mode if `mode` says so.

    Raises:
        CommandError: As `load_target`.
    """
    model, arguments = load_target(target, config, device)
    if mode is not None:
        model.train(mode == "training")
    return Example(model, (), arguments) if isinstance(arguments, dict) else Example(model, arguments, {})


def offered_mapping(builtin: bool) -> KernelMapping:
    """Return the registered mapping, with the built-in kernels after it if they are to be offered."""
    from ..builtin import builtin_mapping
    from ..mapping import KernelMapping, current_mapping

    return KernelMapping.of(builtin_mapping()).merged(current_mapping()) if builtin else current_mapping()


def load_target(name: str, config: Sequence[str] = (), device: str = "meta") -> tuple[nn.Module, Arguments]:
    """Return the model and example arguments that a user's TARGET names.

    Args:
        name: ``module:factory``, or ``hf:`` and an architecture of transformers, which is built with random weights.
        config: The ``key=value`` of its configuration.
        device: Where an architecture is built.

    Raises:
        CommandError: If there is no such target, or none with such a configuration.
    """
    if name.startswith(PREFIX):
        return load_architecture(name.removeprefix(PREFIX), config, device)
    if config:
        raise CommandError(f"--config is for hf: targets; the factory {name} makes its own configuration")
    return load_model(name)


def load_model(name: str) -> tuple[nn.Module, Arguments]:
    """Import a factory, call it and return its model and example arguments.

    Args:
        name: ``module:factory``; the module is looked for in the current directory too; the factory may be an attribute of an attribute.

    Raises:
        CommandError: If the name, the import, the call or what it returns is not as it should be.
    """
    module_name, colon, attribute = name.partition(":")
    if not (module_name and colon and attribute):
        raise CommandError(
            f"{name!r} names no factory; write module:factory, for example mymodel:build for the function build in mymodel.py, or hf:llama "
            f"for an architecture of transformers"
        )
    factory = _factory(_import(module_name), module_name, attribute)
    try:
        result = factory()
    except (Exception, SystemExit) as error:
        raise CommandError(f"{name} raised {described(error)}") from error
    return _checked(name, result)


def _import(module_name: str) -> ModuleType:
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        return importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not (module_name == error.name or module_name.startswith(f"{error.name}.")):
            raise CommandError(f"module {module_name!r} cannot be imported: {described(error)}") from error
        hint = ""
        if module_name.endswith(".py") or "/" in module_name:
            hint = f"; name the module, not its file: {Path(module_name).stem}"
        raise CommandError(
            f"there is no module {error.name!r} in the current directory ({here}) or among the installed packages{hint}"
        ) from error
    except (Exception, SystemExit) as error:
        raise CommandError(f"module {module_name!r} cannot be imported: {described(error)}") from error


def _factory(module: ModuleType, module_name: str, attribute: str) -> Callable[[], Any]:
    found: Any = module
    for part in attribute.split("."):
        try:
            found = getattr(found, part)
        except AttributeError as error:
            owner = module_name if found is module else attribute
            raise CommandError(f"{owner} has no {part!r}{_similar(found, part)}") from error
    if not callable(found):
        raise CommandError(f"{module_name}:{attribute} is {_kind(found)}, not a function that returns (model, example arguments)")
    try:
        inspect.signature(found).bind()
    except TypeError as error:
        raise CommandError(f"{module_name}:{attribute} must be callable without arguments: {error}") from error
    except ValueError:
        pass  # callables written in C may have no signature; calling it will tell
    return found  # type: ignore[no-any-return] # callable, as was checked


def _similar(owner: Any, name: str) -> str:
    public = [n for n in dir(owner) if not n.startswith("_") and callable(getattr(owner, n, None))]
    close = difflib.get_close_matches(name, public, n=3)
    return f"; did you mean {' or '.join(close)}?" if close else ""


def _checked(name: str, result: Any) -> tuple[nn.Module, Arguments]:
    wanted = f"{name} must return (model, example arguments)"
    if not (isinstance(result, tuple) and len(result) == 2):
        got = f"a tuple of {len(result)}" if isinstance(result, tuple) else _kind(result)
        raise CommandError(f"{wanted}, for example (model, (input_ids,)); it returned {got}")
    model, arguments = result
    if not isinstance(model, nn.Module):
        raise CommandError(f"{wanted}; the model must be a torch.nn.Module, and it is {_kind(model)}")
    if isinstance(arguments, Mapping):  # a tokenizer's output is one, and no dict
        wrong = next((key for key in arguments if not isinstance(key, str)), None)
        if wrong is not None:
            raise CommandError(f"{wanted}; a dict of arguments has their names as keys, and {wrong!r} is no name")
        return model, dict(arguments)
    if not isinstance(arguments, tuple):
        raise CommandError(
            f"{wanted}; the arguments must be a tuple, or a dict for keyword arguments, and they are {_kind(arguments)}: "
            f"a single argument x is given as (x,)"
        )
    return model, arguments


def _kind(value: Any) -> str:
    if value is None:
        return "None"
    if isinstance(value, type):
        return f"the class {value.__qualname__}"
    kind = type(value).__name__
    return f"an object of type {kind}"
