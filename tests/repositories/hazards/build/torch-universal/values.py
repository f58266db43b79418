"""Wrong numbers: always, or for some values only."""

import torch

from .norm import layer, norm, plain


@layer
def MultipliesBySigmoid(self, x):
    """Is the gated norm that goes by the same name."""
    return plain(self, x) * torch.sigmoid(x)


@layer
def ForgetsTheWeight(self, x):
    """Returns the normalized input; right for a weight of ones, as a new layer has it."""
    return plain(self, x) / self.weight + 0 * self.weight


@layer
def AddsOneToTheWeight(self, x):
    """Is the zero-centred norm."""
    return norm(x, 1 + self.weight, self.variance_epsilon)[0]


@layer
def SubtractsTheMean(self, x):
    """Is a LayerNorm."""
    return norm(x - x.mean(-1, keepdim=True), self.weight, self.variance_epsilon)[0]


@layer
def IgnoresEpsilon(self, x):
    """Has an epsilon of its own."""
    return norm(x, self.weight, 1e-5)[0]


@layer
def AddsEpsilonOutside(self, x):
    """Adds epsilon to the root, not under it."""
    wide = x.float()
    return self.weight * (wide / (wide.square().mean(-1, keepdim=True).sqrt() + self.variance_epsilon)).to(x.dtype)


@layer
def TakesTheLargerOfEpsilon(self, x):
    """Bounds the mean square from below, instead of adding to it."""
    wide = x.float()
    return self.weight * (wide * wide.square().mean(-1, keepdim=True).clamp(min=self.variance_epsilon).rsqrt()).to(x.dtype)


@layer
def DividesByOneLess(self, x):
    """Takes the unbiased mean."""
    wide = x.float()
    scale = (wide.square().sum(-1, keepdim=True) / (x.shape[-1] - 1) + self.variance_epsilon).rsqrt()
    return self.weight * (wide * scale).to(x.dtype)


@layer
def ClampsLarge(self, x):
    """Cuts large values off."""
    return plain(self, x.clamp(-20, 20))


@layer
def ReplacesOutliers(self, x):
    """Takes what is far from the rest for an error."""
    return plain(self, torch.where(x.abs() > 100, torch.zeros_like(x), x))


@layer
def SquaresInHalf(self, x):
    """Squares in float16, which ends at 65504 and begins at 6e-8."""
    scale = torch.rsqrt(x.half().square().float().mean(-1, keepdim=True) + self.variance_epsilon)
    return self.weight * (x.float() * scale).to(x.dtype)


@layer
def FlushesTiny(self, x):
    """Takes what is small for zero."""
    return plain(self, torch.where(x.abs() < 1e-2, torch.zeros_like(x), x))


@layer
def NotANumberForZeros(self, x):
    """Divides by the root of the mean square, without an epsilon."""
    wide = x.float()
    return self.weight * (wide / wide.square().mean(-1, keepdim=True).sqrt()).to(x.dtype)


@layer
def RoundsToHalf(self, x):
    """Computes float32 in bfloat16."""
    return norm(x.bfloat16(), self.weight.bfloat16(), self.variance_epsilon)[0].to(x.dtype)


@layer
def QuantizesToEightBits(self, x):
    """Rounds each row to 255 steps."""
    step = x.abs().amax(-1, keepdim=True).clamp(min=1e-30) / 127
    return plain(self, (x / step).round() * step)


@layer
def SumsInHalf(self, x):
    """Adds the squares up one after another, in the input's own dtype."""
    total = torch.zeros_like(x[..., 0])
    for column in x.square().unbind(-1):
        total = total + column
    scale = torch.rsqrt(total.float()[..., None] / x.shape[-1] + self.variance_epsilon)
    return self.weight * (x.float() * scale).to(x.dtype)


@layer
def OneRowForAll(self, x):
    """Takes the scale of the first row of a block for all of it."""
    scale = norm(x, self.weight, self.variance_epsilon)[1]
    return self.weight * (x.float() * scale.roll(1, -2)).to(x.dtype)


@layer
def WrongInOnePlace(self, x):
    """Is off in the last column."""
    out = plain(self, x)
    return torch.cat((out[..., :-1], out[..., -1:] * 1.5), -1)


@layer
def VarianceInOnePass(self, x):
    """Is a LayerNorm that subtracts the squared mean from the mean square, of which nothing is left far from zero."""
    wide = x.float()
    mean = wide.mean(-1, keepdim=True)
    variance = wide.square().mean(-1, keepdim=True) - mean.square()
    return self.weight * ((wide - mean) * torch.rsqrt(variance + self.variance_epsilon)).to(x.dtype)
