"""Imports a package that nobody has."""

import a_package_that_does_not_exist
from torch import nn


class RMSNorm(nn.Module):
    """Never gets this far."""

    def forward(self, hidden_states):
        return a_package_that_does_not_exist.rms_norm(hidden_states)
