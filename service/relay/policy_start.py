"""Applies a policy to a session before its client is answered: the relay's `session.update` is the first event upstream."""

import re
from typing import Final

from service.deadlines import Deadline
from service.failures import Failure, Phase
from service.realtime.events import parse_object
from service.realtime.frames import Opcode, build_frame
from service.realtime.policy import (
    SESSION_CREATED,
    SESSION_UPDATED,
    Policy,
    created_as_updated,
    policy_settings,
    sets,
    update_event,
)
from service.realtime.scanner_items import Item, Message, MessageEnd
from service.realtime.secret_request import BoundSession
from service.realtime.values import child
from service.upstream.dial import UpstreamConnection
from service.upstream.first_event import FirstEventReader

_PARAM: Final = re.compile(r"[A-Za-z0-9_.\[\]]{1,100}")
_OF_THE_REQUEST: Final = frozenset({"request_rejected", "upstream_error", "bad_reply"})
"""Reasons of an error that concerns neither key, account, model nor load: then the policy is its cause."""


async def apply_policy(
    connected: UpstreamConnection, policy: Policy | None, session: BoundSession | None, timeout_seconds: float
) -> None:
    """Send a policy, and the session that a client secret is bound to, and wait for the provider's answer.

    `connected.items` then shows a session that has both. Raises Failure with policy_rejected or session_rejected if the
    provider refuses them, with first_event_timeout after the timeout, or with what else upstream reports; or CancelledError.
    The caller owns the connection in each case.
    """
    update = update_event(policy) if session is None else _update_of(policy, session)
    if update is None:
        return
    reader = FirstEventReader(connected.leg, connected.scanner, awaited_type=SESSION_UPDATED)
    reader.take(connected.items)
    connected.progress.enter(Phase.FIRST_EVENT)
    try:
        connected.leg.start(reader)
        connected.leg.send_event(update)
        async with Deadline(timeout_seconds):
            connected.items = await reader.items
    except TimeoutError:
        raise reader.known_failure() or Failure("first_event_timeout", Phase.FIRST_EVENT) from None
    except Failure as failure:
        raise _refusal(failure, reader.refusal, policy, session) from None
    finally:
        connected.progress.finish()
        reader.items.cancel()
        del reader  # it refers to the exception, and that to this frame
    # In place: the reader adds what arrives until the session starts.
    connected.items[:] = _with_policy(connected.items)


def _update_of(policy: Policy | None, session: BoundSession) -> bytes | None:
    return update_event(policy, session.settings, "transcription" if session.is_transcription else "realtime")


def _refusal(failure: Failure, refusal: bytes | None, policy: Policy | None, session: BoundSession | None) -> Failure:
    if refusal is None or failure.reason not in _OF_THE_REQUEST:
        return failure
    param = child(parse_object(refusal), "error").get("param")
    place = param if isinstance(param, str) and _PARAM.fullmatch(param) else None
    is_bound = session is not None and sets(session.settings, (place or "").removeprefix("session."))
    if policy is None or is_bound or not policy_settings(policy):
        return Failure(
            "session_rejected",
            Phase.FIRST_EVENT,
            upstream_code=failure.upstream_code,
            param=place,
            detail=place,
            hint=f"Create the client secret with another value of {place}, or without it." if place else None,
        )
    where = f", {place}" if place else ""
    return Failure(
        "policy_rejected",
        Phase.FIRST_EVENT,
        upstream_code=failure.upstream_code,
        detail=f"[policies.{policy.name}]{where}",
    )


def _with_policy(items: list[Item]) -> list[Item]:
    """The items without `session.updated`, which answers the relay's event, and its content in `session.created`."""
    updated = next(item for item in items if isinstance(item, Message) and item.type == SESSION_UPDATED)
    kept: list[Item] = []
    is_left_out = False
    for item in items:
        if item is updated:
            is_left_out = True
        elif is_left_out and isinstance(item, MessageEnd):
            is_left_out = False
        elif isinstance(item, Message) and item.type == SESSION_CREATED:
            payload = created_as_updated(item.payload, updated.payload)
            kept.append(Message(item.type, payload, build_frame(Opcode.TEXT, payload)))
        else:
            kept.append(item)
    return kept
