"""Finds the client's address of a request, and reports a trusted proxy that does not send it."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import structlog
from aiohttp.web_request import BaseRequest

from service.access.forwarded import ClientAddress, Network, Problem, client_address, parse_address

_LOG_INTERVAL_SECONDS: Final = 600.0
_SENTENCES: Final[Mapping[Problem, str]] = {
    "missing": "A trusted proxy sends no X-Forwarded-For: all its clients count as one in limits and logs.",
    "unknown": "A trusted proxy sends 'unknown' in X-Forwarded-For: these clients count as one in limits and logs.",
    "obfuscated": "A trusted proxy sends an identifier in place of an address in X-Forwarded-For; limits and logs use it.",
    "unreadable": "A trusted proxy sends no address in X-Forwarded-For: its clients count as one in limits and logs.",
}
_REMEDIES: Final[Mapping[Problem, str]] = {
    "missing": "Configure the proxy to append the client's address to X-Forwarded-For. If clients connect from this address "
    "themselves, remove it from RELAY_TRUSTED_PROXIES. The relay does not read the header Forwarded.",
    "unknown": "Configure the proxy to send the client's address in X-Forwarded-For (Squid: 'forwarded_for on'), or remove "
    "it from RELAY_TRUSTED_PROXIES.",
    "obfuscated": "Configure the proxy to send the client's address in X-Forwarded-For. An identifier that changes with each "
    "request makes the limits for each address ineffective: then remove the proxy from RELAY_TRUSTED_PROXIES.",
    "unreadable": "Configure the proxy to send the client's address in X-Forwarded-For, or correct RELAY_TRUSTED_PROXIES: it "
    "lists an address that is no proxy of yours.",
}


_OTHER_HEADERS: Final = (
    "X-Forwarded-For", "Forwarded", "X-Real-IP", "X-Client-IP", "True-Client-IP", "CF-Connecting-IP", "Fastly-Client-IP",
    "Fly-Client-IP",
)  # fmt: skip
"""Headers that show that a request came through a proxy, which an empty X-Forwarded-For does too."""


class ClientAddressReader:
    """Reads the client's address of requests. Each kind of problem is logged at most every 10 minutes, with its count."""

    def __init__(self, trusted_proxies: Sequence[Network], clock: Callable[[], float] = time.monotonic) -> None:
        self._trusted = tuple(trusted_proxies)
        self._clock = clock
        self._logged_at: dict[Problem, float] = {}
        self._unlogged: dict[Problem, int] = {}

    def is_trusted_proxy(self, address: str) -> bool:
        """Whether an address is listed in RELAY_TRUSTED_PROXIES."""
        parsed = parse_address(address)
        return parsed is not None and any(parsed in network for network in self._trusted)

    def read(self, request: BaseRequest) -> str:
        """Return the client's address; raises nothing."""
        found = client_address(request.remote, request.headers.getall("X-Forwarded-For", []), self._trusted)
        if found.problem is not None:
            self._report(found.problem, found, request)
        return found.address

    def behind_proxy(self, request: BaseRequest) -> str | None:
        """Return the address that X-Forwarded-For of a trusted proxy names, or the proxy's identifier; reports nothing."""
        found = client_address(request.remote, request.headers.getall("X-Forwarded-For", []), self._trusted)
        return None if self.is_trusted_proxy(found.address) else found.address

    def _report(self, problem: Problem, found: ClientAddress, request: BaseRequest) -> None:
        self._unlogged[problem] = self._unlogged.get(problem, 0) + 1
        now = self._clock()
        logged_at = self._logged_at.get(problem)
        if logged_at is not None and now - logged_at < _LOG_INTERVAL_SECONDS:
            return
        log = structlog.get_logger()
        headers = [name for name in _OTHER_HEADERS if name in request.headers]
        # A client that connects from the proxy's address directly sends none of them.
        report = log.warning if headers else log.info
        report(
            "access.address_unreadable",
            message=_SENTENCES[problem],
            remedy=_REMEDIES[problem],
            problem=problem,
            hop=found.hop or None,
            received_headers=headers,
            peer=request.remote,
            address=found.address,
            requests=self._unlogged[problem],
        )
        self._logged_at[problem], self._unlogged[problem] = now, 0
