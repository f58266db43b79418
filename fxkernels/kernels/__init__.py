"""Kernel layers: what one is, the contract that it keeps, and how it runs in the place of a reference.

`layer` (the loaded class and its identity), `contract` with `signature` and `attributes` (the gates that need nothing to be run), and the
call of a kernel inside a graph. Finding and importing the repositories that kernel layers come from is the business of `fxkernels.hub`.
"""
