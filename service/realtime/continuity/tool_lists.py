"""The lists of tools that upstream asks of MCP servers, each of them an item that upstream begins by itself. Pure.

A new upstream asks the servers anew. The client was not sent the beginning of a list that it begins before it takes over,
so it must not be sent the end either.
"""

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from typing import Any, Final

from service.realtime.continuity import kept
from service.realtime.continuity.kept import text
from service.realtime.values import child

LIST_TYPES: Final = frozenset({kept.MCP_LISTING, kept.MCP_LISTED, kept.MCP_NOT_LISTED, kept.ITEM_DONE})
"""The types of events with which a list goes on. The item is done before or after the list."""


class ToolLists:
    """The lists that one upstream has begun before it takes over."""

    def __init__(self) -> None:
        self._servers: dict[str, str] = {}  # by item
        self._open: dict[str, set[str]] = {}  # the events that are due, by item
        self._listed: set[str] = set()  # servers, also those that failed

    def added(self, item: Mapping[str, Any]) -> None:
        """Take up an item of `conversation.item.added`."""
        if item.get("type") == "mcp_list_tools":
            item_id = text(item.get("id"))
            self._servers[item_id] = text(item.get("server_label"))
            self._open[item_id] = {kept.ITEM_DONE, kept.MCP_LISTED}

    def goes_on(self, event_type: str, body: Mapping[str, Any]) -> bool:
        """Take up an event of `LIST_TYPES`; returns whether it is about one of these lists."""
        item_id = text(body.get("item_id")) or text(child(body, "item").get("id"))
        due = self._open.get(item_id)
        if due is None:
            return False
        if event_type != kept.MCP_LISTING:
            self._listed.add(self._servers[item_id])
            due.discard(kept.ITEM_DONE if event_type == kept.ITEM_DONE else kept.MCP_LISTED)
            if not due:
                del self._open[item_id]
        return True

    def has(self, item_id: str) -> bool:
        """Whether an item is one of these lists, of which the client does not know."""
        return item_id in self._servers

    @property
    def are_any(self) -> bool:
        """Whether there is such an item."""
        return bool(self._servers)

    @property
    def are_open(self) -> bool:
        """Whether events of a list are due."""
        return bool(self._open)

    def have(self, servers: AbstractSet[str]) -> bool:
        """Whether upstream has asked all these servers."""
        return servers <= self._listed
