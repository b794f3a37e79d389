"""WebRTC and SIP calls: their state is the provider's, so it outlives each sideband connection to it."""

from dataclasses import dataclass

from service.simulator.configuration import SessionConfiguration
from service.simulator.conversation import Conversation


@dataclass(frozen=True, slots=True)
class Call:
    """The state of one call."""

    configuration: SessionConfiguration
    conversation: Conversation


class Calls:
    """The calls of one simulator, by identifier."""

    def __init__(self, call_ids: frozenset[str]) -> None:
        self._known = set(call_ids)
        self._started: dict[str, Call] = {}

    def __contains__(self, call_id: str) -> bool:
        return call_id in self._known

    def state(self, call_id: str, new: Call) -> Call:
        """Return the state of a call, which is `new` at its first connection."""
        return self._started.setdefault(call_id, new)

    def end(self, call_id: str) -> None:
        """End a call: from then on a connection to it is refused with 404."""
        self._known.discard(call_id)
        self._started.pop(call_id, None)
