"""The compiled ops."""

from pathlib import Path

import torch

torch.ops.load_library(str(Path(__file__).parent / "libops.so"))

ops = torch.ops.fxtest_cpp_out
