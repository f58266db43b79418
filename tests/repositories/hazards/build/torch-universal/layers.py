"""All layers; what is wrong with them stands in the modules."""

from .gradients import *  # noqa: F403
from .memory import *  # noqa: F403
from .outputs import *  # noqa: F403
from .process import *  # noqa: F403
from .sizes import *  # noqa: F403
from .state import *  # noqa: F403
from .values import *  # noqa: F403
