"""From mapping and target to a decision about one layer call: the candidates, and the gates that each must pass."""

from .decider import Decider
from .memory import Chooser
from .request import Request

__all__ = ["Chooser", "Decider", "Request"]
