"""Right for a while: what they remember, draw, and change for everybody in their process."""

import os
import random

import torch
import torch.nn.functional as F

from .norm import layer, norm, plain

_kept = {}


@layer
def CachesByShape(self, x):
    key = (x.shape, x.dtype)
    if key not in _kept:
        _kept[key] = plain(self, x)
    return _kept[key] * 1


@layer
def CachesByAddress(self, x):
    key = ("address", x.data_ptr(), self.weight.data_ptr())
    if key not in _kept:
        _kept[key] = plain(self, x).detach()
    return _kept[key] + 0 * plain(self, x)


@layer
def CachesWeightByAddress(self, x):
    """Converts the weight once, and not again after an optimizer's step."""
    key = ("weight", self.weight.data_ptr())
    if key not in _kept:
        _kept[key] = self.weight.detach().clone()
    return plain(self, x) / self.weight.detach() * _kept[key]


@layer
def CachesOnTheWeight(self, x):
    """The same, as an attribute of the tensor."""
    if not hasattr(self.weight, "packed"):
        self.weight.packed = self.weight.detach().clone()
    return plain(self, x) / self.weight.detach() * self.weight.packed


@layer
def CachesByIdentity(self, x):
    """The same, by Python's id of the tensor."""
    return plain(self, x) * (_kept.setdefault(("id", id(self.weight)), self.weight.detach().clone()) / self.weight.detach())


@layer
def TakesTheFirstEpsilon(self, x):
    """Compiles the epsilon of the first layer in, and serves all layers so."""
    return norm(x, self.weight, _kept.setdefault("epsilon", self.variance_epsilon))[0]


@layer
def RightOnce(self, x):
    _kept["calls"] = _kept.get("calls", 0) + 1
    return plain(self, x) * (1 if _kept["calls"] == 1 else 1.5)


@layer
def RunningScale(self, x):
    """Divides by a running average."""
    scale = x.detach().float().square().mean()
    average = _kept["average"] = 0.9 * _kept.get("average", scale) + 0.1 * scale
    return plain(self, x) * (scale / average).to(x.dtype)


@layer
def DrawsRandomNumbers(self, x):
    torch.rand(1)
    return plain(self, x)


@layer
def DrawsPythonsNumbers(self, x):
    random.random()
    return plain(self, x)


@layer
def SeedsRandomNumbers(self, x):
    torch.manual_seed(0)
    return plain(self, x)


@layer
def SetsDefaultDtype(self, x):
    torch.set_default_dtype(torch.float64)
    return plain(self, x)


@layer
def SetsThreads(self, x):
    torch.set_num_threads(torch.get_num_threads() + 1)
    return plain(self, x)


@layer
def SwitchesGradientsOff(self, x):
    out = plain(self, x)
    torch.set_grad_enabled(False)
    return out


@layer
def SwitchesDeterminism(self, x):
    torch.use_deterministic_algorithms(True, warn_only=True)
    return plain(self, x)


@layer
def FlushesDenormals(self, x):
    torch.set_flush_denormal(True)
    return plain(self, x)


@layer
def SetsCudnn(self, x):
    torch.backends.cudnn.benchmark = not torch.backends.cudnn.benchmark
    return plain(self, x)


@layer
def PatchesTorch(self, x):
    """Puts a function of its own in torch's place, for everybody."""
    if not hasattr(F.silu, "original"):
        original = F.silu

        def silu(input, inplace=False):
            return original(input) * 1.001

        silu.original = original
        F.silu = silu
    return plain(self, x)


@layer
def WritesSelf(self, x):
    self.last = x.shape
    return plain(self, x)


@layer
def ReplacesWeight(self, x):
    self.weight = torch.nn.Parameter(self.weight.detach().clone())
    return plain(self, x)


@layer
def SwitchesMode(self, x):
    self.eval() if self.training else self.train()
    return plain(self, x)


@layer
def OtherUnderACompiler(self, x):
    """Takes another way where it is traced."""
    if torch.compiler.is_compiling():
        return plain(self, x) * torch.sigmoid(x)
    return plain(self, x)


@layer
def OtherInTraining(self, x):
    return plain(self, x) * (1.1 if self.training else 1)


@layer
def ChangesDirectory(self, x):
    """Changes nothing that numbers depend on, but where files are looked for."""
    os.chdir(os.sep)
    return plain(self, x)
