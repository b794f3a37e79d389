"""Client tokens, as RELAY_CLIENT_TOKENS lists them."""

from dataclasses import dataclass

from service.realtime.keys import Secret


@dataclass(frozen=True, slots=True)
class ClientToken:
    """A credential of a client. Logs and limits use `name`, never the secret."""

    name: str
    secret: Secret
