"""The provider's refusals after the upgrade: error messages, close codes and close reasons.

A refusal is an ``error`` event directly followed by a close frame. The close reason is the error's type and code, joined
by a dot, or the type alone if there is no code (seen on the wire in 2026-09). The provider uses 1013 (RFC 6455: try again
later) for an exhausted balance too.
"""

from dataclasses import dataclass

from service.simulator.events import ApiError
from service.simulator.scenarios import Scenario

_VISIBLE_PREFIX = 8
_VISIBLE_SUFFIX = 4


@dataclass(frozen=True, slots=True)
class Refusal:
    """An error event and a close frame. Without an error, or with `close_only`, only the close frame is sent."""

    error: ApiError | None
    close_code: int
    reason_override: str | None = None  # for a close reason that is not derived from the error
    close_only: bool = False

    @property
    def reason(self) -> str:
        """The close reason."""
        if self.reason_override is not None:
            return self.reason_override
        if self.error is None:
            return ""
        return self.error.error_type if self.error.code is None else f"{self.error.error_type}.{self.error.code}"


def mask_key(key: str) -> str:
    """Mask a key as the provider's messages do: the first 8 characters, a star for each hidden one, the last 4."""
    hidden = len(key) - _VISIBLE_PREFIX - _VISIBLE_SUFFIX
    return "*" * len(key) if hidden <= 0 else f"{key[:_VISIBLE_PREFIX]}{'*' * hidden}{key[-_VISIBLE_SUFFIX:]}"


def invalid_key_error(key: str) -> ApiError:
    """Return the error for a key that the provider does not know."""
    message = (
        f"Incorrect API key provided: {mask_key(key)}. "
        "You can find your API key at https://platform.openai.com/account/api-keys."
    )
    return ApiError("invalid_api_key", message)


def missing_scopes_error(scope: str) -> ApiError:
    """Return the error for a valid key without the required scope."""
    message = (
        f"You have insufficient permissions for this operation. Missing scopes: {scope}. Check that you have the "
        "correct role in your organization (Reader, Writer, Owner) and project (Member, Owner), and if you're using "
        "a restricted API key, that it has the necessary scopes."
    )
    return ApiError(None, message)


def model_not_found_error(model: str) -> ApiError:
    """Return the error for a model that is retired or not accessible to the project."""
    message = f"The model `{model}` does not exist or you do not have access to it."
    return ApiError("model_not_found", message)


def no_credit_error() -> ApiError:
    """Return the error for an exhausted credit balance."""
    message = (
        "You have no credits remaining. Add credits to continue using the API at "
        "https://platform.openai.com/settings/organization/billing/."
    )
    return ApiError("credit_balance_exhausted", message, error_type="insufficient_quota")


def rate_limit_error(model: str) -> ApiError:
    """Return the error for too many requests per minute."""
    message = (
        f"Rate limit reached for {model} in organization org-simulated on requests per min (RPM): Limit 200, "
        "Used 200, Requested 1. Please try again in 300ms. Visit https://platform.openai.com/account/rate-limits "
        "to learn more."
    )
    return ApiError("rate_limit_exceeded", message, error_type="rate_limit_error")


def internal_error(session_id: str) -> ApiError:
    """Return the error for an internal error of the provider during a response."""
    message = (
        "The server had an error while processing your request. Sorry about that! Please contact us through our help "
        f"center at help.openai.com if the error persists. (include session ID in your message: {session_id}). "
        "We recommend you retry your request."
    )
    return ApiError("server_error", message, error_type="server_error")


def key_rejected(key: str) -> Refusal:
    """Refuse a key that the provider does not know."""
    return Refusal(invalid_key_error(key), 3000)


def key_missing() -> Refusal:
    """Refuse a request without a key."""
    return Refusal(ApiError(None, "Missing bearer or basic authentication in header"), 3000)


def model_missing() -> Refusal:
    """Refuse a request that names no model."""
    message = "You must provide a model parameter, for example wss://api.openai.com/v1/realtime?model=gpt-realtime-1.5"
    return Refusal(ApiError("missing_model", message), 4000)


def model_unknown(model: str) -> Refusal:
    """Refuse an unknown model name."""
    return Refusal(ApiError("invalid_model", f'Model "{model}" is not supported in realtime mode.'), 4000)


def model_only_transcribes(model: str) -> Refusal:
    """Refuse a transcription model as the model of a conversation."""
    message = (
        f"Model {model} is a transcription model and cannot be used as the realtime session model. "
        "Pass this transcription model as audio.input.transcription.model instead."
    )
    return Refusal(ApiError("invalid_model", message), 4000)


def model_cannot_transcribe(model: str) -> Refusal:
    """Refuse a transcription session whose URL has a `model` parameter."""
    return Refusal(ApiError("invalid_model", f'Model "{model}" is not supported in transcription mode.'), 4000)


def no_credit() -> Refusal:
    """Refuse an account without credit."""
    return Refusal(no_credit_error(), 1013)


def beta_shape() -> Refusal:
    """Refuse the beta interface, which was retired on 2026-05-12."""
    message = "The Realtime Beta API is no longer supported. Please use /v1/realtime for the GA API."
    return Refusal(ApiError("beta_api_shape_disabled", message), 4000)


def session_expired(*, close_only: bool) -> Refusal:
    """Close a session at its maximum duration. The message names 60 minutes even if the simulator's limit is shorter."""
    message = "Your session hit the maximum duration of 60 minutes."
    return Refusal(ApiError("session_expired", message), 1001, reason_override=message, close_only=close_only)


def refusal_for_scenario(scenario: Scenario, key: str, model: str) -> Refusal | None:
    """Return the refusal that a scenario sends right after the upgrade; None if it sends none."""
    refusals = {
        Scenario.KEY_REJECTED: key_rejected(key),
        Scenario.KEY_MISSING: key_missing(),
        Scenario.KEY_FORBIDDEN: Refusal(missing_scopes_error("model.request"), 3000),
        Scenario.QUOTA_EXHAUSTED: no_credit(),
        Scenario.MODEL_NOT_FOUND: Refusal(model_not_found_error(model), 4004),
        Scenario.INVALID_MODEL: model_unknown(model),
        Scenario.BETA_SHAPE: beta_shape(),
        Scenario.RATE_LIMITED_INBAND: Refusal(rate_limit_error(model), 1013),
        Scenario.OVERLOADED: Refusal(None, 1013),
        Scenario.CLOSE_ONLY: Refusal(invalid_key_error(key), 3000, close_only=True),
    }
    return refusals.get(scenario)
