"""Finding the culprit: which call's kernel makes a check fail (`bisection`), and how far each kernel is off (`numerics`).

Both capture a model once and then run its graphs with code of their own in the places of the kernels (`instruments`), on a model that
is afterwards as it was before (`untouched`). What they return are values that show themselves: `culprit` and `deviations`.
"""
