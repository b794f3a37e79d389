"""The store in the memory of one process."""

from collections.abc import Mapping, Sequence

from service.store.interface import Held, Limits, Member, Refused, Registration, Scope, SecretState, Spending, Totals
from service.store.state import StoreState


class MemoryBackend:
    """Implements `StoreBackend` on a state of its own. Never fails, never waits."""

    def __init__(self, state: StoreState) -> None:
        self._state = state

    async def register(self, pod: str) -> Registration:
        """See `StoreBackend`."""
        return self._state.register(pod)

    async def hold(self, member: Member, held: Sequence[Held]) -> tuple[str, ...] | None:
        """See `StoreBackend`."""
        return self._state.hold(member, held)

    async def heartbeat(self, member: Member, released: Sequence[str]) -> str | None:
        """See `StoreBackend`."""
        return self._state.heartbeat(member, released)

    async def acquire(self, member: Member, lease: str, limits: Sequence[Limits]) -> Refused | bool:
        """See `StoreBackend`."""
        return self._state.acquire(member, lease, limits)

    async def leave(self, member: Member) -> None:
        """See `StoreBackend`."""
        self._state.leave(member)

    async def spend(self, reports: Sequence[Spending]) -> Mapping[Scope, Totals]:
        """See `StoreBackend`."""
        return self._state.spend(reports)

    async def totals(self, scopes: Sequence[Scope]) -> Mapping[Scope, Totals]:
        """See `StoreBackend`."""
        return self._state.totals(scopes)

    async def put_secret(self, digest: str, payload: bytes, ttl_seconds: int) -> bool:
        """See `StoreBackend`."""
        return self._state.put_secret(digest, payload, ttl_seconds)

    async def read_secret(self, digest: str) -> SecretState | bytes:
        """See `StoreBackend`."""
        return self._state.read_secret(digest)

    async def take_secret(self, digest: str) -> SecretState | bytes:
        """See `StoreBackend`."""
        return self._state.take_secret(digest)

    async def close(self) -> None:
        """Nothing is open."""
