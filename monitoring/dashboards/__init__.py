"""Three boards: do callers get through; capacity and the data path; conversations and what they cost."""

from collections.abc import Callable
from typing import Final

from monitoring.dashboards import callers, capacity, conversations

BOARDS: Final[dict[str, Callable[[str], str]]] = {
    "callers": callers.render,
    "capacity": capacity.render,
    "conversations": conversations.render,
}
"""By the name of their file; each is given where the runbooks are served."""
