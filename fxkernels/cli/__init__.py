"""The command line: `fxkernels demo`, `explain` and `numerics` for models, `diff` and `check` for saved reports, `download`, `lock`,
`verify`, `versions` and `info` for kernel repositories, `admitted` for the records of probed kernels, `env` for bug reports.

Each command is a file. What it shows comes from the library; it decides nothing about kernels.
"""

from __future__ import annotations

import logging

import click
import torch

from .. import __version__
from ..versions import installed_versions, untested
from .admitted import admitted
from .cache import download, verify
from .compare import check, diff
from .demo import demo
from .env import env
from .explain import explain
from .info import info, versions
from .lock import lock
from .measure import numerics, tune

__all__ = ["main"]


# The commands show reports and warnings themselves; without a handler Python would print what is logged as a warning a second time.
_SILENT = logging.NullHandler()


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 80})
@click.version_option(__version__, prog_name="fxkernels", message=f"%(prog)s %(version)s, torch {torch.__version__}")
def main() -> None:
    """Put compute kernels from the Hugging Face Hub into PyTorch models by rewriting their graphs.

    \b
    Examples:
      fxkernels demo                     rewrites, checks and times a small model
      fxkernels explain mymodel:build    shows what kernels would do in your model
      fxkernels tune mymodel:build -o plan.json   measures which kernels pay
      fxkernels check report.json mymodel:build   fails when a kernel was lost
      fxkernels info acme/norms          shows what a kernel repository has
      fxkernels lock                     pins the kernels of a project
    """
    logging.getLogger("fxkernels").addHandler(_SILENT)
    if (sentence := untested(installed_versions())) is not None:
        click.echo(f"Warning: {sentence}", err=True)


for command in (demo, explain, tune, numerics, diff, check, download, lock, verify, versions, info, admitted, env):
    main.add_command(command)
