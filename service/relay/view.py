"""What an operator sees of an open session. Made when it is asked for: the data path keeps nothing for it."""

from dataclasses import dataclass

from service.relay.pipe import Pipe
from service.relay.session_info import SessionInfo
from service.relay.spent import Spent


@dataclass(frozen=True, slots=True)
class SessionView:
    """An open session at one moment. `ending_as` is the reason of one that is being closed.

    `idle_seconds` is measured twice a second, from the last message; in GPT-Live from the last one that was no audio.
    """

    info: SessionInfo
    age_seconds: float
    idle_seconds: float
    ending_as: str | None
    to_upstream: Pipe
    to_client: Pipe
    spending: Spent
    renewals: int = 0  # of the upstream connection, before the provider's limit
    recoveries: int = 0  # after a loss

    def as_object(self) -> dict[str, object]:
        """The object of the JSON document."""
        info, spending = self.info, self.spending
        return {
            "id": info.session_id,
            "api": info.api,
            "client": info.client,
            "user": info.user,
            "address": info.address,
            "model": info.model,
            "age_seconds": round(self.age_seconds, 1),
            "last_event_seconds_ago": round(self.idle_seconds, 1),
            "state": "open" if self.ending_as is None else "ending",
            "ending_as": self.ending_as,
            "client_to_upstream": _direction(self.to_upstream),
            "upstream_to_client": _direction(self.to_client),
            "tokens": spending.tokens,
            "billed_seconds": round(spending.billed_seconds, 3),
            "cost_usd": round(spending.cost_usd, 6),
            "cost_is_complete": spending.is_priced,
            "renewals": self.renewals,
            "recoveries": self.recoveries,
        }


def _direction(pipe: Pipe) -> dict[str, object]:
    return {
        "messages": pipe.messages,
        "bytes": pipe.forwarded_bytes,
        "held_back": pipe.is_held_back,
        "held_back_seconds": round(pipe.held_back_so_far(), 3),
    }
