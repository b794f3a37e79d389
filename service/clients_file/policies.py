"""The tables `policies` and `jwt` of a clients file. Pure."""

import math
from decimal import Decimal
from typing import Any, Final, get_args

from service.access.clients import JwtIssuer
from service.clients_file import values
from service.clients_file.mistakes import NotAccepted, described
from service.clients_file.tables import Table
from service.realtime.policy import JsonObject, Policy, PolicyField

_MAX_INSTRUCTIONS: Final = 100_000
_MAX_TOOLS: Final = 128
_MAX_DEPTH: Final = 32
_TOOLS_REMEDY: Final = (
    "Write an array of tables, each with type, and for a function with name, description and parameters"
)
_TURN_DETECTION: Final = '{ type = "server_vad" }, { type = "semantic_vad" } or "none"'
_ISSUER_EXAMPLE: Final = {
    "issuer": '"https://login.example.com/"',
    "audience": '"realtime-relay"',
    "jwks_url": '"https://login.example.com/.well-known/jwks.json"',
    "client": '"kiosk"',
}


def read_policy(name: str, table: Table) -> Policy:
    """One table of `policies`."""
    found: dict[str, Any] = {}
    table.take_into(found, "instructions", values.text(_MAX_INSTRUCTIONS, example='"Be brief."'), "instructions")
    table.take_into(found, "voice", _voice, "voice")
    table.take_into(found, "tools", _tools, "tools")
    table.take_into(found, "max_output_tokens", _max_output_tokens, "max_output_tokens")
    table.take_into(found, "turn_detection", _turn_detection, "turn_detection")
    locked = table.take("locked", values.each(values.one_of(get_args(PolicyField)), example='["instructions"]'))
    table.close()
    return Policy(name=name, locked=frozenset(locked or ()), **found)


def _max_output_tokens(value: object) -> int | str:
    if value == "inf":
        return "inf"
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 4096:  # noqa: PLR2004 - the API's maximum
        raise NotAccepted(f"is {described(value)}", 'Write a whole number from 1 to 4096, or "inf"')
    return value


def _voice(value: object) -> str | JsonObject:
    if isinstance(value, dict) and list(value) == ["id"]:
        return {"id": values.text(256, example='{ id = "voice_1234" }')(value["id"])}
    if isinstance(value, dict):
        raise NotAccepted("is a table with other keys than id", 'Write a name, or { id = "voice_1234" }')
    return values.text(64, example='"marin"')(value)


def _tools(value: object) -> tuple[JsonObject, ...]:
    if not isinstance(value, list):
        raise NotAccepted(f"is {described(value)}", _TOOLS_REMEDY)
    if len(value) > _MAX_TOOLS:
        raise NotAccepted(f"has {len(value)} items", f"Write at most {_MAX_TOOLS}")
    causes = {index: cause for index, tool in enumerate(value) if (cause := _mistake_in_tool(tool)) is not None}
    if causes:
        raise values.ItemsNotAccepted({index: NotAccepted(cause, _TOOLS_REMEDY) for index, cause in causes.items()})
    return tuple(_json_object(tool) for tool in value)


def _mistake_in_tool(tool: object) -> str | None:
    if not isinstance(tool, dict):
        return f"is {described(tool)}"
    if not isinstance(tool.get("type"), str):
        return "has no type"
    return None if tool["type"] != "function" or tool.get("name") else "has no name"


def _turn_detection(value: object) -> JsonObject | str:
    if value == "none":
        return "none"
    if not isinstance(value, dict) or value.get("type") not in ("server_vad", "semantic_vad"):
        what = "has no such type" if isinstance(value, dict) else f"is {described(value)}"
        raise NotAccepted(what, f"Write {_TURN_DETECTION}")
    return _json_object(value)


def _json_object(value: dict[str, Any]) -> JsonObject:
    parsed = _json(value)
    assert isinstance(parsed, dict)  # noqa: S101 - for the type checker
    return parsed


def _json(value: object, depth: int = 0) -> object:
    """A TOML value as JSON has it."""
    if depth > _MAX_DEPTH:
        raise NotAccepted(f"is nested more than {_MAX_DEPTH} deep", "Flatten it")
    match value:
        case bool() | str() | int():
            return value
        case Decimal():
            number = float(value) if value.is_finite() else math.inf
            if math.isinf(number):
                raise NotAccepted("holds a number that JSON does not have", "Write a finite number")
            return number
        case list():
            return [_json(item, depth + 1) for item in value]
        case dict():
            return {key: _json(item, depth + 1) for key, item in value.items()}
        case _:
            raise NotAccepted("holds a date or time, which JSON does not have", "Write it as a string")


def read_issuer(name: str, table: Table) -> JwtIssuer | None:
    """One table of `jwt`; None if it is not complete."""
    table.require("issuer", "audience", "jwks_url", "client", example=_ISSUER_EXAMPLE)
    issuer = table.take("issuer", values.issuer_url)
    audiences = table.take("audience", _audiences)
    jwks_url = table.take("jwks_url", values.jwks_url)
    client = table.take("client", values.reference)
    algorithms = table.take("algorithms", values.each(values.algorithm, example='["RS256", "ES256"]'))
    skew = table.take("clock_skew_seconds", values.whole(0, 300))
    end_at_expiry = table.take("end_at_expiry", values.boolean)
    table.close()
    if issuer is None or audiences is None or jwks_url is None or client is None:
        return None
    return JwtIssuer(
        name=name,
        issuer=issuer,
        audiences=audiences,
        jwks_url=jwks_url,
        algorithms=algorithms or ("RS256", "ES256"),
        client=client,
        clock_skew_seconds=60 if skew is None else skew,
        end_at_expiry=bool(end_at_expiry),
    )


def _audiences(value: object) -> tuple[str, ...]:
    one = values.text(256, example='"realtime-relay"')
    return values.each(one, example='["realtime-relay"]')(value) if isinstance(value, list) else (one(value),)
