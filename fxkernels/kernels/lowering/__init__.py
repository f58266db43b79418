"""How a kernel layer enters a compiled graph: three lowerings, chosen by what the kernel is and by trying.

`choose` decides, and the value in `lowering` says what and why. `case` is what there is to know of one kernel and one form of call.

- *traced*: the compiler follows the kernel's Python. `trial` finds out on fake tensors, forward and backward.
- *triton*: the same; its raw Triton launches are shown to the compiler (`triton`).
- *opaque*: an operator whose implementation runs the kernel and whose fake is the reference (`opaque`, named by `names`). Before it is used
  it runs on random tensors (`rehearsal`, `samples`), which shows what it writes and what its backward needs; `own_backward` makes a
  backward operator out of that, with the sizes of what is saved as formulas (`layouts`), and `memory` keeps outputs apart from inputs.

`autocast` is the state that a graph carries from its capture to its run. What does not live here: the gradient of the reference
(`kernels/recompute.py`), the private torch APIs that all this rests on (`capture/_torch`, handed in as `case.Tools`), and whether a kernel
is right, which no lowering asks.
"""
