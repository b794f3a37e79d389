"""Refusals in the words of the provider: which error, and which close code and reason go with it.

A refusal that comes after the upgrade is an ``error`` event and a CLOSE back to back. The reason of the CLOSE is the
error's type and code joined by a dot, or the type alone where there is no code (seen on the wire 2026-09); 1013 means
"no credit" here, not "try again".
"""

from dataclasses import dataclass

from service.simulator.events import Mistake
from service.simulator.scenarios import Scenario

_SHOWN_FIRST = 8
_SHOWN_LAST = 4


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a socket is closed, and how. Without an error, or with a silent one, only the CLOSE is sent."""

    error: Mistake | None
    close_code: int
    stated_reason: str | None = None  # where the reason is not made of type and code
    silent: bool = False

    @property
    def reason(self) -> str:
        """The text of the CLOSE."""
        if self.stated_reason is not None:
            return self.stated_reason
        if self.error is None:
            return ""
        return self.error.kind if self.error.code is None else f"{self.error.kind}.{self.error.code}"


def masked(key: str) -> str:
    """Show a key as the provider's messages do: the first 8, a star for each hidden character, the last 4."""
    hidden = len(key) - _SHOWN_FIRST - _SHOWN_LAST
    return "*" * len(key) if hidden <= 0 else f"{key[:_SHOWN_FIRST]}{'*' * hidden}{key[-_SHOWN_LAST:]}"


def wrong_key(key: str) -> Mistake:
    """The key is not one of theirs."""
    message = (
        f"Incorrect API key provided: {masked(key)}. "
        "You can find your API key at https://platform.openai.com/account/api-keys."
    )
    return Mistake("invalid_api_key", message)


def missing_scopes(scope: str) -> Mistake:
    """The key is theirs, but may not do this."""
    message = (
        f"You have insufficient permissions for this operation. Missing scopes: {scope}. Check that you have the "
        "correct role in your organization (Reader, Writer, Owner) and project (Member, Owner), and if you're using "
        "a restricted API key, that it has the necessary scopes."
    )
    return Mistake(None, message)


def model_not_found(model: str) -> Mistake:
    """The model is known but retired, or not for this project."""
    message = f"The model `{model}` does not exist or you do not have access to it."
    return Mistake("model_not_found", message)


def no_credit() -> Mistake:
    """The balance is empty."""
    message = (
        "You have no credits remaining. Add credits to continue using the API at "
        "https://platform.openai.com/settings/organization/billing/."
    )
    return Mistake("credit_balance_exhausted", message, kind="insufficient_quota")


def too_many_requests(model: str) -> Mistake:
    """The limit of requests per minute is reached."""
    message = (
        f"Rate limit reached for {model} in organization org-simulated on requests per min (RPM): Limit 200, "
        "Used 200, Requested 1. Please try again in 300ms. Visit https://platform.openai.com/account/rate-limits "
        "to learn more."
    )
    return Mistake("rate_limit_exceeded", message, kind="rate_limit_error")


def server_error(session_id: str) -> Mistake:
    """The provider's own fault, in a response."""
    message = (
        "The server had an error while processing your request. Sorry about that! Please contact us through our help "
        f"center at help.openai.com if the error persists. (include session ID in your message: {session_id}). "
        "We recommend you retry your request."
    )
    return Mistake("server_error", message, kind="server_error")


def key_rejected(key: str) -> Refusal:
    """Refuse a wrong key."""
    return Refusal(wrong_key(key), 3000)


def key_missing() -> Refusal:
    """Refuse a request without a key."""
    return Refusal(Mistake(None, "Missing bearer or basic authentication in header"), 3000)


def model_missing() -> Refusal:
    """Refuse a request that names no model."""
    message = "You must provide a model parameter, for example wss://api.openai.com/v1/realtime?model=gpt-realtime-1.5"
    return Refusal(Mistake("missing_model", message), 4000)


def model_unknown(model: str) -> Refusal:
    """Refuse a name that no realtime model has."""
    return Refusal(Mistake("invalid_model", f'Model "{model}" is not supported in realtime mode.'), 4000)


def model_only_transcribes(model: str) -> Refusal:
    """Refuse a transcription model as the model of a conversation."""
    message = (
        f"Model {model} is a transcription model and cannot be used as the realtime session model. "
        "Pass this transcription model as audio.input.transcription.model instead."
    )
    return Refusal(Mistake("invalid_model", message), 4000)


def model_cannot_transcribe(model: str) -> Refusal:
    """Refuse a model named in the address of a transcription session."""
    return Refusal(Mistake("invalid_model", f'Model "{model}" is not supported in transcription mode.'), 4000)


def beta_shape() -> Refusal:
    """Refuse the beta interface, which was retired on 2026-05-12."""
    message = "The Realtime Beta API is no longer supported. Please use /v1/realtime for the GA API."
    return Refusal(Mistake("beta_api_shape_disabled", message), 4000)


def session_expired(*, silent: bool) -> Refusal:
    """End a session at its cap. The sentence says 60 minutes however short the cap was made."""
    message = "Your session hit the maximum duration of 60 minutes."
    return Refusal(Mistake("session_expired", message), 1001, stated_reason=message, silent=silent)


def refusal_of(scenario: Scenario, key: str, model: str) -> Refusal | None:
    """Look up how a scenario refuses right after the upgrade; None if it does not."""
    refusals = {
        Scenario.KEY_REJECTED: key_rejected(key),
        Scenario.KEY_MISSING: key_missing(),
        Scenario.KEY_FORBIDDEN: Refusal(missing_scopes("model.request"), 3000),
        Scenario.QUOTA_EXHAUSTED: Refusal(no_credit(), 1013),
        Scenario.MODEL_NOT_FOUND: Refusal(model_not_found(model), 4004),
        Scenario.INVALID_MODEL: model_unknown(model),
        Scenario.BETA_SHAPE: beta_shape(),
        Scenario.RATE_LIMITED_INBAND: Refusal(too_many_requests(model), 1013),
        Scenario.OVERLOADED: Refusal(None, 1013),
        Scenario.CLOSE_ONLY: Refusal(wrong_key(key), 3000, silent=True),
    }
    return refusals.get(scenario)
