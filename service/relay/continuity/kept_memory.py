"""What one session keeps in memory, among the sessions of the process."""

from service.relay.continuity.kept_conversation import KeptConversation
from service.relay.continuity.pool import ContinuityPool


class KeptMemory:
    """Counts the bytes of one session until `leave`. Beyond the bound of the process, this session may have to free them."""

    def __init__(self, kept: KeptConversation, pool: ContinuityPool) -> None:
        self._kept = kept
        self._pool = pool
        self._counted = 0
        pool.join()

    def update(self, *, is_lost: bool) -> None:
        """Count what is kept now. A session without upstream frees nothing, since it would end: its client is not read."""
        if is_lost and not self._pool.has_room:
            self._kept.hold_client()
        elif self._pool.must_free(self._counted):
            self._kept.continuity.give_up("over_budget")
        size = self._kept.kept_bytes
        self._pool.account(size - self._counted)
        self._counted = size

    def leave(self) -> None:
        """Count nothing more: the session ends."""
        self._pool.leave(self._counted)
        self._counted = 0
