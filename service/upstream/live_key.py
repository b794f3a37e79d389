"""Whether the provider accepts the key for GPT-Live, without starting a session, which would be billed.

The upgrade of `/live/sessions/{id}/attach` with an id that does not exist: the provider checks the key first (401), then the
session (404 `session_id_not_found`). Source: refusals of closed sessions in public reports; the provider documents no such
check. Access to GPT-Live, model and credit are checked only after `session.start`.
"""

from typing import Final

from service.failures import Failure, Phase
from service.upstream.dial import Dialler
from service.upstream.target import DialRequest

ABSENT_SESSION: Final = "live_u1_000000000000000000000"
"""An id of the provider's form. Its time, the five characters after `live_u1_`, is that of the year 1970."""
UNPROVEN: Final = (
    "This shows that GPT-Live knows the key. It is unproven that sessions start: the provider checks access, model, voice "
    "and credit only after session.start, which is billed."
)
_REQUEST: Final = DialRequest(endpoint="attach", live_session=ABSENT_SESSION)
_NO_SUCH_CHECK_HINT: Final = (
    "The server answers for a session id that does not exist in another way than OpenAI. The check shows nothing about this "
    "server: set RELAY_HEALTH_LIVE=false."
)


async def check_live_key(dialler: Dialler) -> None:
    """Return if the provider accepts the key; raises Failure for any other answer, and if there is none."""
    try:
        connected = await dialler.dial(_REQUEST)
    except Failure as failure:
        if failure.reason != "call_not_found":
            raise
        if failure.upstream_code == "session_id_not_found":
            return
        raise _shows_nothing("wrong_base_url", failure.http_status) from None
    await connected.close()
    raise _shows_nothing("bad_reply", 101)


def _shows_nothing(reason: str, http_status: int | None) -> Failure:
    return Failure(
        reason,
        Phase.UPGRADE,
        http_status=http_status,
        detail="the answer to a session id that does not exist is not OpenAI's",
        hint=_NO_SUCH_CHECK_HINT,
    )
