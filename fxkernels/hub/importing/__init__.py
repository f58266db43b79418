"""A build as a Python module: under its own id, from verified source, with the kernels that it depends on."""
