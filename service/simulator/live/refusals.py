"""The refusals of a start: an ``error`` in place of ``session.started``, and the end of the connection two seconds later.

Codes and messages as seen on the wire in 2026-09. Unlike at the Realtime API, an exhausted balance has the type of an invalid
request. The provider's form of a rate limit is unknown.
"""

from service.simulator.events import ApiError
from service.simulator.live.events import forbidden
from service.simulator.live.options import LiveOptions
from service.simulator.refusals import invalid_key_error, no_credit_error, rate_limit_error
from service.simulator.scenarios import Scenario

OVERLOADED_CLOSE_CODE = 1013
_TOKEN_PREFIX = "eyJ"  # noqa: S105 - how an access token (a JSON Web Token) begins


def check_start(scenario: Scenario, key: str, model: str, options: LiveOptions, *, is_azure: bool) -> None:
    """Raise the ApiError with which the start of a valid session is refused, if it is."""
    refused = {
        Scenario.KEY_FORBIDDEN: forbidden(),
        Scenario.QUOTA_EXHAUSTED: ApiError("credit_balance_exhausted", no_credit_error().message),
        Scenario.MODEL_NOT_FOUND: invalid_model(model),
        Scenario.INVALID_MODEL: invalid_model(model),
        Scenario.RATE_LIMITED_INBAND: rate_limit_error(model),
        Scenario.OVERLOADED: ApiError(None, "The server is overloaded.", error_type="server_error"),
        Scenario.CLOSE_ONLY: invalid_key_error(key),
    }
    if scenario in refused:
        raise refused[scenario]
    if not is_azure and key.startswith(_TOKEN_PREFIX):  # a token of ChatGPT; at Azure it is an Entra token
        raise forbidden()
    if not is_azure and model not in options.models:
        raise invalid_model(model)


def invalid_model(model: str) -> ApiError:
    """Return the error for a model that GPT-Live does not have, such as one of the Realtime API."""
    return ApiError("invalid_model", f'Model "{model}" is not supported in realtime mode.')
