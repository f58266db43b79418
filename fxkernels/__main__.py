"""``python -m fxkernels`` is the command line."""

from fxkernels.cli import main

main(prog_name="fxkernels")
