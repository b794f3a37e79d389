"""What the catalogue holds for each reason: the types of a row."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import Final, Literal, get_args

RunbookPage = Literal["key", "account", "model", "network", "tls-and-proxy", "provider", "clients", "relay"]
"""A page of `docs/runbooks/`."""


class Blame(StrEnum):
    """The party that caused a failure or an ending."""

    CLIENT = "client"
    OPERATOR = "operator"
    PROVIDER = "provider"
    NETWORK = "network"
    RELAY = "relay"
    NONE = "nobody"  # a normal close


class Retry(StrEnum):
    """Whether the same attempt can succeed without a change of client, relay or account.

    A failure with NEVER is definite; one with NOW or LATER is temporary.
    """

    NEVER = "never"
    NOW = "now"
    LATER = "later"


class Level(IntEnum):
    """The log level of a row, numbered as in `logging`.

    ERROR: service is lost. WARNING: the operator can act. INFO: normal life cycle.
    """

    INFO = 20
    WARNING = 30
    ERROR = 40


_CLOSE_CODES_ON_REQUEST: Final[Mapping[int | None, int]] = {401: 3000, 403: 3003, 404: 4004, 421: 3003, 429: 1013}
"""HTTP status to close code, for refusals of admission whose row has no close code."""


@dataclass(frozen=True, slots=True)
class Row:
    """One reason for which a connection fails or a session ends.

    `page` is the runbook page that has its section. `http_status` is the status that the client receives instead of its
    101; None where the upgrade is already answered. `close_code` is sent to the client's socket; None where the refusal is an
    HTTP status unless the client asks for an event, or where the relay passes on the peer's own close code.

    `remedy` is for the client that receives it. `for_operator` is the operator's action where it differs; alerts,
    dashboards, log, health and doctor show it as `operator_action`.
    """

    reason: str
    page: RunbookPage
    blame: Blame
    http_status: int | None
    close_code: int | None
    retry: Retry
    level: Level
    sentence: str
    remedy: str
    for_operator: str | None = None

    @property
    def operator_action(self) -> str:
        """What the operator of the relay does about this reason."""
        return self.for_operator or self.remedy

    @property
    def event_close_code(self) -> int | None:
        """The close code for a client that asks for an error event; None if the reason is always an HTTP status."""
        return self.close_code or _CLOSE_CODES_ON_REQUEST.get(self.http_status)

    @property
    def is_definite(self) -> bool:
        """Whether repeating the attempt cannot succeed."""
        return self.retry is Retry.NEVER

    @property
    def close_text(self) -> str:
        """The reason text of a close frame: static, at most 123 bytes."""
        return f"{self.reason}: {self.sentence}"

    @property
    def anchor(self) -> str:
        """Path and anchor of this row in `docs/failures.md`."""
        return f"docs/failures.md#{self.reason}"

    @property
    def runbook(self) -> str:
        """Path and anchor of this row in the runbooks."""
        return f"docs/runbooks/{self.page}.md#{self.reason}"


def catalogue_of(*rows: Row) -> dict[str, Row]:
    """Return the rows by reason; raises ValueError for a reason that exists twice and for an unknown page."""
    table = {row.reason: row for row in rows}
    if len(table) != len(rows):
        raise ValueError("the catalogue defines a reason twice")
    for row in rows:
        if row.page not in get_args(RunbookPage):
            raise ValueError(f"{row.reason}: the page is {row.page!r}; write one of {', '.join(get_args(RunbookPage))}")
    return table
