"""Which items a response gets as its input: `truncation` of the session, where the conversation exceeds the model's context.

Source: the API reference "truncation". The oldest items are left out of the input, and stay in the conversation; no event
says so, only the usage. With `retention_ratio` more of them are left out at once, so that the rest can be cached. With
`disabled` the response fails: the reference does not state the code.
"""

from service.realtime.usage import Tokens
from service.simulator.events import JSON, ApiError
from service.simulator.items import Item


class ContextExceeded(ApiError):
    """The conversation exceeds the context, and nothing may be left out."""

    def __init__(self) -> None:
        super().__init__("context_length_exceeded", "The conversation exceeds the model's input token limit.")


class Context:
    """The context of one session; `limit` in tokens of input, None: unlimited."""

    def __init__(self, limit: int | None) -> None:
        self._limit = limit
        self._left_out: set[str] = set()

    def input_of(self, items: tuple[Item, ...], truncation: JSON) -> tuple[Item, ...]:
        """Return the items that fit. Raises ContextExceeded."""
        kept = [item for item in items if item.item_id not in self._left_out]
        limit, ratio = self._limit, 1.0
        if isinstance(truncation, dict):
            limits = truncation.get("token_limits")
            own = limits.get("post_instructions") if isinstance(limits, dict) else None
            limit = own if isinstance(own, int) and (limit is None or own < limit) else limit
            ratio = float(str(truncation.get("retention_ratio", 1.0)))
        if limit is None or _count(kept) <= limit:
            return tuple(kept)
        if truncation == "disabled":
            raise ContextExceeded
        while len(kept) > 1 and _count(kept) > limit * ratio:
            self._left_out.add(kept.pop(0).item_id)
        return tuple(kept)


def _count(items: list[Item]) -> int:
    """All tokens of items."""
    return sum((item.tokens for item in items), Tokens()).total
