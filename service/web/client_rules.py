"""What one client may do, and the remedies that name its table in the clients file. Pure.

A remedy of the catalogue names a setting of the relay, which applies to a client without a table of its own.
"""

import dataclasses
import hmac
from typing import Final

from service.access.budgets import budgets_of, rates_of
from service.access.clients import Client, ClientDirectory, Identity
from service.access.secrets import PresentedSecret
from service.failures import CATALOGUE, Failure
from service.realtime.keys import Secret
from service.realtime.policy import SESSION_EVENT_TYPES
from service.realtime.policy_review import locked_field
from service.realtime.pricing import OTHER, model_label, translation_usd_per_second
from service.realtime.secret_request import BoundSession
from service.upstream.target import DialRequest, Endpoint

_FILE: Final = "RELAY_CLIENTS_FILE"
_ONE_API: Final = (
    "Connect to /v1/realtime, or use a client token of the relay: a client secret opens sessions only there."
)


def key_of(client: Client, key: str) -> str:
    """Where a value of a client is set, as the end of "add it to"."""
    return f"{key} of [clients.{client.name}] in {_FILE}"


def limit_setting(client: Client) -> str:
    """Where the limit on a client's sessions is set."""
    return key_of(client, "max_sessions") if client.is_from_file else "RELAY_MAX_SESSIONS_PER_CLIENT"


def limit_key(client: Client, key: str, *, of_user: bool) -> str:
    """Where a limit of the client, or of each of its users, is set."""
    return f"{key} of [clients.{client.name}.per_user] in {_FILE}" if of_user else key_of(client, key)


def origin_place(clients: ClientDirectory) -> str:
    """Where an origin is set that no client allows, as the end of "add it to"."""
    settings = "RELAY_ALLOWED_ORIGINS and restart the relay"
    return f"origins of a client in {_FILE}, or to {settings}" if clients.file.clients else settings


def check_api(client: Client, endpoint: Endpoint) -> None:
    """Raise Failure with api_refused for an API that the client may not use."""
    api = "live" if endpoint == "attach" else endpoint
    if api in client.apis:
        return
    raise Failure(
        "api_refused",
        detail=f"API: {api}",
        hint=f"Use an API that the operator allows for this client: {', '.join(sorted(client.apis))}. Operator: to allow "
        f"this one, add {api} to {key_of(client, 'apis')}.",
    )


def unpriced_hint(identity: Identity) -> str | None:
    """The remedy for a model without a known price, if the client has a budget in USD; None if such a model is allowed."""
    client = identity.client
    if not client.is_from_file or rates_of(client) is not None or not budgets_of(client, identity.user).count_money:
        return None
    place = key_of(client, "unpriced_usd_per_million_tokens and unpriced_usd_per_minute")
    return f"Request a model whose price the relay knows. Operator: to allow others, set {place}."


def check_price(identity: Identity, request: DialRequest) -> None:
    """Raise Failure with model_refused for a model without a price, if the client has a budget in USD."""
    hint = unpriced_hint(identity)
    if hint is None:
        return
    if request.endpoint == "translation":
        is_priced = translation_usd_per_second(request.model) is not None
    else:
        is_transcription = ("intent", "transcription") in request.query
        is_priced = request.endpoint != "realtime" or is_transcription or model_label(request.model) != OTHER
    if not is_priced:
        raise Failure(
            "model_refused",
            detail="the price of the model is unknown, and the client has a budget in USD",
            hint=hint,
        )


def check_model(client: Client, model: str | None) -> None:
    """Raise Failure with model_refused for a model that the client may not use."""
    if model is not None and client.models and model not in client.models:
        raise Failure("model_refused", hint=model_hint(client))


def locked_param(client: Client, session: BoundSession) -> str | None:
    """The first field of a session to be bound that the policy of the client locks; None if there is none."""
    if client.policy is None or not client.policy.locked:
        return None
    refusal = locked_field(client.policy, session.configuration, "session")
    return refusal.param if refusal is not None else None


def for_client_secret(request: DialRequest, secret: PresentedSecret) -> DialRequest:
    """The request for the session to which a client secret is bound; raises Failure with api_refused for another API.

    The policy of the client may lock since then what the secret sets: it would precede the policy.
    """
    if request.endpoint != "realtime":
        raise Failure("api_refused", detail=f"a client secret at {request.endpoint}", hint=_ONE_API)
    locked = locked_param(secret.identity.client, secret.grant.session)
    if locked is not None:
        raise Failure("secret_expired", detail=f"the policy of the client has locked {locked} since it was created")
    if not secret.grant.session.settings and not secret.grant.session.locked:
        return request
    return dataclasses.replace(request, further_types=request.further_types | SESSION_EVENT_TYPES)


def with_safety_identifier(
    request: DialRequest, identity: Identity, secret: PresentedSecret | None, key: Secret
) -> DialRequest:
    """The request with the name of the user for the provider; whatever the client sent, since it could name another user.

    The name is what the server of the app sent for the client secret, else a keyed hash of client and user. Only a client
    without a user names one itself.
    """
    if identity.user is None:
        return request
    named = secret.grant.safety_identifier if secret is not None else None
    return dataclasses.replace(request, safety_identifier=named or _hashed_user(identity.client, identity.user, key))


def _hashed_user(client: Client, user: str, key: Secret) -> str:
    names = f"{client.name}\0{user}".encode("utf-8", "surrogatepass")
    digest = hmac.digest(key.reveal().encode("utf-8", "surrogatepass"), names, "sha256")
    return f"user-{digest.hex()[:32]}"


def with_policy(client: Client, request: DialRequest) -> DialRequest:
    """The request for a session with the client's policy; raises Failure with policy_unsupported if it can have none."""
    if client.policy is None:
        return request
    intent = dict(request.query).get("intent", "realtime")
    if request.endpoint != "realtime" or request.has("call_id") or intent != "realtime":
        place = key_of(client, "policy")
        raise Failure(
            "policy_unsupported",
            detail=f"policy: {client.policy.name}",
            hint=f"{CATALOGUE['policy_unsupported'].remedy} Operator: the policy is {place}.",
        )
    return dataclasses.replace(request, further_types=request.further_types | SESSION_EVENT_TYPES)


def model_hint(client: Client) -> str | None:
    """The remedy for a model that the client may not use; None for the catalogue's."""
    if not client.is_from_file:
        return None
    place = key_of(client, "models")
    return f"Request a model that the operator allows for this client. Operator: add it to {place}."


def session_limit_hint(client: Client, place: str) -> str | None:
    """The remedy for a client at its limit of sessions, which `place` sets; None for the catalogue's."""
    if not client.is_from_file:
        return None
    return f"Close a session, or wait for one to end, before you open another. Operator: the limit is {place}."
