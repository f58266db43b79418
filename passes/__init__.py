"""Passes over ``torch.fx`` graphs: a graph goes in, a graph comes out.

`pipeline` is the compiler on one page. Here live the layer call as a value, finding the calls, planning and rewriting. Here lives
nothing that knows the Hub, a mapping, a kernel repository, Dynamo or the machine: values are passed in. Nothing of fxkernels is imported.

The one name of this package is ``fxkernels.passes``.
"""

# The folder lies at the top level so that it can be read without the library. A checkout on sys.path would therefore offer it as `passes`,
# a name that collides with users' own modules and under which every class here would exist a second time.
if __name__ == "passes":
    raise ImportError("this package is named fxkernels.passes: write `import fxkernels.passes`, not `import passes`")
