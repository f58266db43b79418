"""What a command says when the user's target cannot be used."""

from __future__ import annotations

import textwrap
import traceback

import click

_LONGEST = 400
"""Characters of a foreign error's message; Dynamo's have pages. The traceback has all of it."""


class FactoryError(click.ClickException):
    """What the user named cannot be used: exit code 2 and one paragraph on stderr.

    Its cause, where there is one, is what the user's code raised.
    """

    exit_code = 2


def described(error: BaseException) -> str:
    """Return one line about an exception of the user's code: its type, its message and the file and line that raised it."""
    message = textwrap.shorten(str(error), _LONGEST, placeholder=" ...")
    text = f"{type(error).__name__}: {message}" if message else type(error).__name__
    if isinstance(error, SyntaxError):  # its own text names the file and line, and the frames are the importer's
        return text
    frames = traceback.extract_tb(error.__traceback__)
    return f"{text} (at {frames[-1].filename}:{frames[-1].lineno})" if frames else text
