"""Decisions: a small model answers questions about the conversation, for a delegation, a trigger, or ``decision.create``.

Source: the types of openai-python 3.57; none of it has been seen on the wire. Each question gets its first answer.
"""

import asyncio

from service.simulator.connection import Connection
from service.simulator.events import JSON, ApiError, JSONObject, encode, invalid_value, require_string, server_event
from service.simulator.ids import new_id
from service.simulator.live.configuration import LiveConfiguration, live_tokens
from service.simulator.live.events import invalid_event

_ITEM_TYPES = ("message", "function_call", "function_call_output", "custom_tool_call", "custom_tool_call_output")
_ROLES = ("user", "assistant", "developer", "system")
_MAX_ITEMS = 128  # an assumption
_OUTPUT_TOKENS = 4  # of an answer
_TRIGGER_MODEL = "gpt-decisions"  # a trigger names none


class Decisions:
    """The decisions of one session, and the items that all of them take into account."""

    def __init__(self, connection: Connection, configuration: LiveConfiguration) -> None:
        self._connection = connection
        self._configuration = configuration
        self._items: dict[str, JSONObject] = {}
        self._event_ids: set[str] = set()

    def create_item(self, item: JSONObject) -> JSONObject:
        """Add an item; return it with its identifier. Raises ApiError."""
        kind = str(item.get("type", "message"))
        if kind not in _ITEM_TYPES:
            raise invalid_value("item.type", kind, _ITEM_TYPES)
        if kind == "message" and item.get("role") not in _ROLES:
            raise invalid_value("item.role", str(item.get("role")), _ROLES)
        item_id = str(item.get("id") or new_id("item"))
        if item_id in self._items or len(self._items) >= _MAX_ITEMS:
            raise ApiError("invalid_value", "The item exists already, or there are too many.", param="item")
        self._items[item_id] = {**item, "id": item_id, "type": kind}
        return self._items[item_id]

    def delete_item(self, item_id: str) -> None:
        """Remove an item from later decisions. Raises ApiError."""
        if self._items.pop(item_id, None) is None:
            raise invalid_value("item_id", item_id, tuple(self._items) or ("none",))

    def create(self, event: JSONObject) -> None:
        """Answer the questions of the delegation by order of the client. Raises ApiError."""
        if self._configuration.delegation != "decisions":
            raise invalid_event("This event requires a session with the delegation type 'decisions'.")
        event_id = require_string(event, "event_id")
        if event_id in self._event_ids:
            raise ApiError("invalid_value", "The 'event_id' was used before in this session.", param="event_id")
        self._event_ids.add(event_id)
        self._decide(self._configuration.decisions, delegation_id=new_id("item"))

    async def delegate(self, offset_ms: int) -> None:
        """Answer the questions of the delegation by order of the voice model, at a position in the session's audio."""
        delegation_id = new_id("item")
        delegation: JSONObject = {"id": delegation_id, "type": "delegation", "target": "decisions"}
        event = server_event("session.delegation.created", offset_ms=offset_ms, delegation=delegation)
        await self._connection.send(event)
        self._decide(self._configuration.decisions, delegation_id=delegation_id)

    def transcript_sent(self, transcript: JSONObject) -> None:
        """Answer the questions of the triggers that wait for a transcript of this type."""
        for trigger in self._configuration.triggers:
            if trigger.get("event_type") == transcript["type"]:
                settings = trigger.get("decisions")
                self._decide(
                    settings if isinstance(settings, dict) else {},
                    trigger_id=new_id("trigger"),
                    source_event_id=transcript["event_id"],
                    source_event_type=transcript["type"],
                )

    def _decide(self, settings: JSONObject, **links: JSON) -> None:
        self._connection.spawn(self._send_decision(settings, links))

    async def _send_decision(self, settings: JSONObject, links: JSONObject) -> None:
        await asyncio.sleep(self._connection.options.live.response_seconds)
        given = settings.get("questions")
        questions = [question for question in given if isinstance(question, dict)] if isinstance(given, list) else []
        read, written = live_tokens(encode([*self._items.values(), *questions])), _OUTPUT_TOKENS * len(questions)
        decision: JSONObject = {
            "answers": [_answer(question) for question in questions],
            "model": settings.get("model") or _TRIGGER_MODEL,
            "usage": {
                "input_tokens": read,
                "input_tokens_details": {"cache_write_tokens": 0, "cached_tokens": 0},
                "output_tokens": written,
                "output_tokens_details": {"reasoning_tokens": 0},
                "total_tokens": read + written,
            },
        }
        nested: JSONObject = {"type": "decision.completed", "decision": decision}
        await self._connection.send(server_event("decision.event", **links, event=nested))


def _answer(question: JSONObject) -> JSONObject:
    kind, name = question.get("type"), question.get("name")
    first = _first(question.get("choices" if kind == "choice" else "levels"))
    if kind == "predicate":
        return {"type": kind, "name": name, "probability": 1.0}
    if kind == "choice" and "value" in first:
        probabilities: list[JSON] = [{"value": first["value"], "probability": 1.0}]
        return {"type": kind, "name": name, "choice": first["value"], "confidence": 1.0, "probabilities": probabilities}
    if kind == "score" and "value" in first:
        levels: list[JSON] = [{"label": str(first.get("label", "")), "value": first["value"], "probability": 1.0}]
        return {"type": kind, "name": name, "score": first["value"], "confidence": 1.0, "probabilities": levels}
    return {"type": "refusal", "name": name}


def _first(values: JSON) -> JSONObject:
    first = values[0] if isinstance(values, list) and values else None
    return first if isinstance(first, dict) else {}
