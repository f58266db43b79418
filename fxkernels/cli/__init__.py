"""The command line: `fxkernels demo` and `fxkernels explain`.

Each command is a file. What it shows comes from the library; it decides nothing about kernels.
"""

from __future__ import annotations

import logging

import click
import torch

from .. import __version__
from .demo import demo
from .explain import explain

__all__ = ["main"]


# Both commands show the report itself; without a handler Python would print its summary, which is logged as a warning, a second time.
_SILENT = logging.NullHandler()


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 80})
@click.version_option(__version__, prog_name="fxkernels", message=f"%(prog)s %(version)s, torch {torch.__version__}")
def main() -> None:
    """Put compute kernels from the Hugging Face Hub into PyTorch models by rewriting their graphs.

    \b
    Examples:
      fxkernels demo                     rewrites, checks and times a small model
      fxkernels explain mymodel:build    shows what kernels would do in your model
    """
    logging.getLogger("fxkernels").addHandler(_SILENT)


main.add_command(demo)
main.add_command(explain)
