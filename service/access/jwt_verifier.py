"""Finds the client of a credential where the clients file accepts the tokens of OpenID providers.

A token of the relay's own always comes first. A JWT is checked in this order: form, issuer and algorithm, signature, claims.
So its sender learns nothing from the claims' checks unless the provider has signed the token.
"""

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final

from service.access import jwt
from service.access.clients import ClientDirectory, Identity, JwtIssuer
from service.access.jwt import ParsedToken, TokenRefused
from service.failures import Failure
from service.telemetry.tokens import TokenMetrics

if TYPE_CHECKING:  # it needs the extra `jwt`, which a file without issuers does not
    import aiohttp

    from service.access.jwks_source import JwksSource

POLL_SECONDS: Final = 1.0
RETRY_SECONDS: Final = 10
_REASONS: Final[Mapping[str, str]] = {
    "expired": "token_expired",
    "not_yet_valid": "token_not_yet_valid",
    "no_keys": "jwks_unavailable",
}
_HINTS: Final[Mapping[str, str]] = {
    "audience": "Request the token from the identity provider for the audience of this relay. Operator: audience of the "
    "table [jwt.NAME] in RELAY_CLIENTS_FILE lists what is accepted.",
}
_OTHER_HINT: Final = (
    "Request a new access token from the identity provider of this app, and send it unchanged. Operator: the log field "
    "detail states what is wrong with the token."
)


class JwtVerifier:
    """Authenticates with the clients and the issuers of a directory, as the file has them at that time.

    `prepare` waits for keys that a token needs; `authenticate` then waits for nothing.
    """

    def __init__(
        self, directory: ClientDirectory, metrics: TokenMetrics, *, wall_clock: Callable[[], float] = time.time
    ) -> None:
        self._directory = directory
        self._metrics = metrics
        self._wall_clock = wall_clock
        self._session: aiohttp.ClientSession | None = None
        self._sources: dict[str, JwksSource] = {}
        self._known: tuple[JwtIssuer, ...] = ()  # those that `_sources` fits

    # -- the credential -----------------------------------------------------------------------------------------------

    async def prepare(self, token: str | None) -> None:
        """Fetch the keys for a token if they are missing. Raises nothing: `authenticate` refuses what cannot be checked."""
        if not token or not self._directory.file.issuers or not jwt.is_jwt(token):
            return
        try:
            parsed = jwt.parse(token)
            issuer = jwt.choose_issuer(parsed, self._directory.file.issuers)
        except TokenRefused:
            return
        await self._source_of(issuer).prepare(parsed.key_id)

    def authenticate(self, token: str | None) -> Identity:
        """Return whose token it is; raises Failure as `ClientDirectory.authenticate` does, and for a JWT that is refused."""
        try:
            return self._directory.authenticate(token)
        except Failure as failure:
            issuers = self._directory.file.issuers
            if failure.reason != "token_invalid" or not token or not issuers or not jwt.is_jwt(token):
                raise
        try:
            identity = self._verify(token, issuers)
        except TokenRefused as refused:
            self._metrics.checks.labels(refused.cause).inc()
            raise _failure_of(refused) from None
        if not identity.client.is_enabled:
            raise Failure("client_disabled", detail=f"client {identity.client.name} has enabled = false")
        self._metrics.checks.labels("accepted").inc()
        return identity

    def _verify(self, token: str, issuers: tuple[JwtIssuer, ...]) -> Identity:
        parsed = jwt.parse(token)
        issuer = jwt.choose_issuer(parsed, issuers)
        self._check_signature(parsed, issuer)
        accepted = jwt.check_claims(parsed, issuer, self._wall_clock())
        client = self._directory.clients[issuer.client]
        expires_at = accepted.expires_at + issuer.clock_skew_seconds
        ends_at = expires_at if issuer.end_at_expiry else None
        return Identity(client, issuer.credential, user=accepted.user, ends_at=ends_at, expires_at=expires_at)

    def _check_signature(self, token: ParsedToken, issuer: JwtIssuer) -> None:
        source = self._source_of(issuer)
        keys = source.find(token.key_id)
        if any(key.verifies(token) for key in keys):
            return
        place = f"the JWKS of [jwt.{issuer.name}]"
        if keys:
            raise TokenRefused("signature", f"the signature of the JWT is by no key of {place}")
        if source.problem is not None or not source.has_keys:
            problem = source.problem or "has not been fetched yet"
            raise TokenRefused("no_keys", f"{place} {problem}")
        kid = (
            "has no key with the kid of the JWT" if token.key_id is not None else "has several keys, and the JWT no kid"
        )
        raise TokenRefused("unknown_key", f"{place} {kid}")

    # -- the keys -----------------------------------------------------------------------------------------------------

    def _source_of(self, issuer: JwtIssuer) -> "JwksSource":
        self._follow_directory()
        return self._sources[issuer.jwks_url]

    def _follow_directory(self) -> None:
        """Have a source for each URL that the file names now, and no other."""
        issuers = self._directory.file.issuers
        if issuers is self._known:
            return
        from service.access.jwks_source import JwksSource, open_session  # noqa: PLC0415 - needs the extra `jwt`

        if self._session is None:
            self._session = open_session()
        names: dict[str, tuple[str, ...]] = {}
        for issuer in issuers:
            names[issuer.jwks_url] = (*names.get(issuer.jwks_url, ()), issuer.name)
        for url in self._sources.keys() - names.keys():
            self._sources.pop(url).close()
        for url, tables in names.items():
            if url in self._sources:
                self._sources[url].names = tables
            else:
                self._sources[url] = JwksSource(url, tables, self._session, self._metrics)
        self._known = issuers

    async def keep_keys(self) -> None:
        """Fetch each key set before it is needed, and again in time, until cancelled."""
        while True:
            if self._directory.file.issuers or self._sources:
                self._follow_directory()
            for source in self._sources.values():
                source.refresh()
            self._metrics.failing.set(sum(source.problem is not None for source in self._sources.values()))
            await asyncio.sleep(POLL_SECONDS)

    def notes(self) -> list[str]:
        """What detailed health reports."""
        return [note for source in self._sources.values() if (note := source.note()) is not None]

    async def close(self) -> None:
        """End all fetches."""
        for source in self._sources.values():
            source.close()
        if self._session is not None:
            await self._session.close()


def _failure_of(refused: TokenRefused) -> Failure:
    reason = _REASONS.get(refused.cause, "token_invalid")
    hint = _HINTS.get(refused.cause, _OTHER_HINT) if reason == "token_invalid" else None
    retry_after = RETRY_SECONDS if reason == "jwks_unavailable" else None
    return Failure(reason, detail=refused.detail, hint=hint, retry_after_seconds=retry_after)
