"""What commands print: lines or ``--json``, exit codes, and errors without tracebacks; and options that several commands have."""

from __future__ import annotations

import functools
import json
import logging
import sys
import textwrap
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import FxKernelsError
from ..hub import machine

if TYPE_CHECKING:
    from ..target import Target

_LONGEST = 400
"""Characters of a foreign error's message; Dynamo's have pages. The traceback has all of it."""


class CommandError(click.ClickException):
    """A model, file or option that the user named cannot be used: exit code 2 and one paragraph on stderr.

    Its cause, if it has one, is the error of the user's code.
    """

    exit_code = 2


def check_output(path: Path, suffix: str) -> None:
    """Raise if a file cannot be written. It is checked before the work, which takes a while."""
    if path.suffix.lower() != suffix or not path.parent.is_dir():
        raise CommandError(f"{path} has to be a {suffix} file in a folder that exists")


def described(error: BaseException) -> str:
    """Return one line about an exception of the user's code: its type, its message and the file and line that raised it."""
    message = textwrap.shorten(str(error), _LONGEST, placeholder=" ...")
    text = f"{type(error).__name__}: {message}" if message else type(error).__name__
    if isinstance(error, SyntaxError):  # its own text names the file and line, and the frames are the importer's
        return text
    frames = traceback.extract_tb(error.__traceback__)
    return f"{text} (at {frames[-1].filename}:{frames[-1].lineno})" if frames else text


WIDTH = 80


@dataclass(frozen=True, slots=True)
class CommandOutput:
    """The output of a command.

    Args:
        value: The object that ``--json`` prints, with the keys ``ok`` and ``failure`` added.
        lines: The lines that are printed otherwise.
        failure: Why the exit code is 1; None for 0.
    """

    value: dict[str, Any]
    lines: tuple[str, ...]
    failure: str | None = None


def prints_output(function: Callable[..., CommandOutput]) -> Callable[..., None]:
    """Return a click callback that prints the output of `function` and ends with an exit code for CI.

    0: success. 1: the check failed, or the repository cannot be loaded. 2: wrong usage.
    """

    @click.option("--json", "as_json", is_flag=True, help="Print one JSON object, also for an error.")
    @functools.wraps(function)
    def callback(*args: Any, as_json: bool, **kwargs: Any) -> None:
        with _warnings_on_stderr():
            _no_bars_in_logs()
            try:
                output = function(*args, **kwargs)
            except (FxKernelsError, OSError) as error:
                _fail(str(error), getattr(error, "code", "error"), 1, as_json)
            except (ValueError, TypeError) as error:
                _fail(str(error), "usage", 2, as_json)
            except click.UsageError as error:
                if not as_json:
                    raise
                _fail(error.format_message(), "usage", 2, as_json)
        if as_json:
            failure = {} if output.failure is None else {"failure": output.failure}
            click.echo(json.dumps({"ok": output.failure is None, **failure, **output.value}, indent=2, sort_keys=True))
            click.get_current_context().exit(0 if output.failure is None else 1)
        for line in output.lines:
            click.echo(line)
        if output.failure is not None:
            raise click.ClickException(output.failure)

    return callback


def request_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add ``--version`` and ``--revision``."""
    version = click.option("--version", type=click.IntRange(min=0), metavar="N", help="The version, see `fxkernels versions`.")
    revision = click.option("--revision", metavar="NAME", help="A commit, tag or branch, instead of a version.")
    return version(revision(function))


def trust_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add ``--trust``."""
    text = "Allow this repository although its publisher is not trusted on the Hub; may be given several times."
    return click.option("--trust", "trusted", multiple=True, metavar="REPO", help=text)(function)


def target_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add ``--for``."""
    text = 'The target, e.g. "cuda:sm90 torch2.11 cu130".  [default: this machine]'
    return click.option("--for", "target", metavar="TARGET", help=text)(function)


def target_of(text: str | None) -> Target:
    """Return the target that ``--for`` names, by default this machine.

    Raises:
        ValueError: If it cannot be parsed.
    """
    from ..target import Target

    return machine() if text is None else Target.parse(text)


def paragraph(text: str, indent: str = "", first: str | None = None) -> tuple[str, ...]:
    """Return text as lines of at most `WIDTH` characters. Line breaks in the text are kept."""
    lines: list[str] = []
    for number, part in enumerate(text.splitlines()):
        start = first if first is not None and number == 0 else indent
        depth = len(part) - len(part.lstrip())
        wrapped = click.wrap_text(part.strip(), WIDTH, initial_indent=start + part[:depth], subsequent_indent=indent + part[:depth] + "  ")
        lines += wrapped.splitlines()
    return tuple(lines)


def size(count: int) -> str:
    """Return a number of bytes in a readable unit."""
    amount, units = float(count), ["bytes", "kB", "MB", "GB"]
    while amount >= 1000 and len(units) > 1:
        amount /= 1000
        units.pop(0)
    return f"{count} bytes" if units[0] == "bytes" else f"{amount:.1f} {units[0]}"


def _fail(message: str, code: str, exit_code: int, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps({"ok": False, "error": {"code": code, "message": message}}, indent=2, sort_keys=True))
        click.get_current_context().exit(exit_code)
    raise CommandError(message) if exit_code == 2 else click.ClickException(message)


def _no_bars_in_logs() -> None:
    """Disable huggingface_hub's progress bars outside of terminals, unless the user has configured them."""
    from huggingface_hub import constants
    from huggingface_hub.utils import disable_progress_bars

    if constants.HF_HUB_DISABLE_PROGRESS_BARS is None and not sys.stderr.isatty():
        disable_progress_bars()


@contextmanager
def _warnings_on_stderr() -> Iterator[None]:
    """Print the warnings that the library logs."""
    logger, handler = logging.getLogger("fxkernels"), _Echo(logging.WARNING)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


class _Echo(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        click.echo(f"Warning: {record.getMessage()}", err=True)
