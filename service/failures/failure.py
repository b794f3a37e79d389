"""A failed connection attempt, as the relay raises it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from service.failures.catalogue import CATALOGUE
from service.failures.row import Row


class Phase(StrEnum):
    """The step at which a connection failed: the `phase` label of `connection_failures_total`."""

    ACCESS = "access"
    DNS = "dns"
    CONNECT = "connect"
    UPGRADE = "upgrade"
    FIRST_EVENT = "first_event"
    BREAKER = "breaker"
    SESSION_START = "session_start"  # GPT-Live: from the 101 to `session.started`


@dataclass(slots=True)
class Failure(Exception):
    """A failed connection attempt: its reason in the catalogue, the step that failed, and what the provider sent.

    Raised by admission and dialling; caught by the request handler, which renders it for the client, and by the checks.
    `http_status` and `close_code` are the provider's, None where it sent none. `upstream_code` is the provider's error code
    if it has the shape of one, known or not, `close_reason` a close reason of the shape `type.code`: neither holds free text,
    and neither becomes a label. `hint` is the remedy where the evidence allows a better one than the row's; `client_hint` is
    the same for clients: without the address of the upstream, and with what only a client can do. `param` is
    the field of a request's body that is the cause. `evidence` holds facts
    by name, such as the path requested or the edge's ray id, for log, health and doctor; `detail` is for log and doctor.
    All are static or built from settings and validated facts, and never contain text from the provider.
    """

    reason: str
    phase: Phase = Phase.ACCESS
    http_status: int | None = None
    close_code: int | None = None
    upstream_code: str | None = None
    close_reason: str | None = None
    retry_after_seconds: int | None = None
    detail: str | None = None
    hint: str | None = None
    client_hint: str | None = None
    param: str | None = None
    evidence: Mapping[str, str] = field(default_factory=dict)

    @property
    def row(self) -> Row:
        """The row of this reason in the catalogue."""
        return CATALOGUE[self.reason]

    @property
    def remedy(self) -> str:
        """What the operator does: the hint if there is one, else the operator's action of the catalogue."""
        return self.hint or self.row.operator_action

    @property
    def client_remedy(self) -> str:
        """The remedy as a client sees it, in a response, an event, or a close frame."""
        return self.client_hint or self.hint or self.row.remedy

    @property
    def wire_status(self) -> int | None:
        """The status that the provider sent: its close code if there is one, else its HTTP status."""
        return self.close_code if self.close_code is not None else self.http_status

    def forget_frames(self) -> None:
        """Drop the tracebacks of this failure and of those before it: their frames hold sockets, and often refer to it."""
        found: BaseException | None = self
        while found is not None:
            found.__traceback__ = None
            found.__context__, found = None, found.__context__

    def __str__(self) -> str:
        return self.row.sentence
