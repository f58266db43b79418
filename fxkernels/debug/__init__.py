"""Debugging a model that goes wrong with kernels: which call's kernel makes a check fail (`bisection`), and how far each kernel is from its
layer (`numerics`, whose results are `deviations`).

Both capture a model once and run its graphs with a hook in place of each kernel (`hooked`). The model is afterwards as it was before
(`preserve`).
"""
