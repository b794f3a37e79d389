"""Who a session belongs to."""

from dataclasses import dataclass, field

from service.realtime.events import Api


@dataclass(frozen=True, slots=True)
class SessionInfo:
    """Identifies a session in log lines. Contains no secret, and nothing from the client that is not escaped."""

    session_id: str
    client: str
    address: str
    model: str | None
    limited_as: str = ""  # the client as the limit on its sessions counts it
    api: Api = Api.REALTIME
    credential: str = field(default="", repr=False)  # the hash of the client's token
    user: str | None = None  # of the client, if its token names one; never a metric's label
