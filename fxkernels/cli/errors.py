"""The error of a command whose arguments cannot be used."""

from __future__ import annotations

import textwrap
import traceback
from pathlib import Path

import click

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
