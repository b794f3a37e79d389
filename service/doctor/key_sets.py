"""The step `jwks`: the key sets of the identity providers that the clients file names. Needs the extra `jwt`."""

from collections.abc import Sequence

from service.access.clients import JwtIssuer
from service.access.jwks_source import JwksUnavailable, fetch_key_set, open_session
from service.doctor.steps import Finding, StepFailed
from service.failures import Failure


async def fetch_key_sets(issuers: Sequence[JwtIssuer]) -> Finding:
    """Fetch each key set once, as the relay does; the first that cannot be used fails the step."""
    found, notes = [], []
    async with open_session() as session:
        for issuer in issuers:
            try:
                key_set = await fetch_key_set(session, issuer.jwks_url)
            except JwksUnavailable as problem:
                failure = Failure("jwks_unavailable", detail=f"the JWKS of [jwt.{issuer.name}] {problem}")
                raise StepFailed.from_failure(failure) from None
            found.append(f"[jwt.{issuer.name}] {len(key_set.keys)}")
            notes += [f"[jwt.{issuer.name}]: {clause}. This key is not used." for clause in key_set.ignored]
    return Finding(f"keys of the identity providers: {', '.join(found)}", notes, "warn" if notes else "ok")
