"""The lists of tools that upstream asks of MCP servers, each of them an item that upstream begins by itself. Pure.

A new upstream asks the servers anew. The client is sent one whole list of each server: what it has of one that a loss cut
is continued by that of the new upstream, and of a list that it does not need it is sent neither beginning nor end.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Final

from service.realtime.continuity import kept
from service.realtime.continuity.kept import text
from service.realtime.values import child

LIST_TYPES: Final = frozenset({kept.MCP_LISTING, kept.MCP_LISTED, kept.MCP_NOT_LISTED, kept.ITEM_DONE})
"""The types of events with which a list goes on. The item is done before or after the list."""
_BEGINNINGS: Final = frozenset({kept.ITEM_ADDED, kept.MCP_LISTING})
_ENDS: Final = (kept.ITEM_DONE, kept.MCP_LISTED)


def _item_of(body: Mapping[str, Any]) -> str:
    return text(body.get("item_id")) or text(child(body, "item").get("id"))


def _end_of(event_type: str) -> str:
    return kept.ITEM_DONE if event_type == kept.ITEM_DONE else kept.MCP_LISTED


class ToolLists:
    """The lists of one upstream, or those that the client has been sent."""

    def __init__(self) -> None:
        self.servers: dict[str, str] = {}
        """By item."""
        self._open: dict[str, set[str]] = {}  # the events that are due, by item
        self._read_again: dict[str, set[str]] = {}  # that have come, by item
        self._listed: list[str] = []  # servers, also those that failed

    def added(self, item: Mapping[str, Any]) -> bool:
        """Take up an item of `conversation.item.added`; returns whether it is a list."""
        if item.get("type") != "mcp_list_tools":
            return False
        item_id = text(item.get("id"))
        self.servers[item_id] = text(item.get("server_label"))
        self._open[item_id] = set(_ENDS)
        return True

    def goes_on(self, event_type: str, body: Mapping[str, Any]) -> bool:
        """Take up an event of `LIST_TYPES`; returns whether it is about one of these lists."""
        item_id = _item_of(body)
        due = self._open.get(item_id)
        if due is None:
            return False
        if event_type != kept.MCP_LISTING:
            self._listed.append(self.servers[item_id])
            due.discard(_end_of(event_type))
            if not due:
                del self._open[item_id]
        return True

    def keep_due(self, item_id: str, event_type: str) -> None:
        """Note that an event is read again once the upstream has taken over."""
        if event_type not in _BEGINNINGS:
            self._read_again.setdefault(item_id, set()).add(_end_of(event_type))

    def due(self, item_id: str) -> set[str]:
        """The ends of a list that are still to be read."""
        return self._open.get(item_id, set()) | self._read_again.get(item_id, set())

    def has(self, item_id: str) -> bool:
        """Whether an item is one of these lists."""
        return item_id in self.servers

    @property
    def are_any(self) -> bool:
        """Whether there is such an item."""
        return bool(self.servers)

    def open_of(self, server: str) -> str:
        """The item of a list of a server of which events are due; empty if there is none."""
        return next((item_id for item_id in self._open if self.servers[item_id] == server), "")

    def have_whole(self, server: str) -> bool:
        """Whether the list of a server has ended, and its item."""
        return server in self.servers.values() and not self.open_of(server)

    def have(self, servers: Iterable[str]) -> bool:
        """Whether upstream has asked all these servers."""
        return all(server in self._listed for server in servers)


class ShownLists:
    """What the client is sent of the lists that an upstream has begun before it took over."""

    def __init__(self) -> None:
        self._shown_as: dict[str, str] = {}  # the item that the client knows
        self._due: dict[str, set[str]] = {}  # the ends of a list that come
        self._wanted: dict[str, set[str]] = {}  # and those that the client lacks

    def adopt(self, lists: ToolLists, clients: ToolLists) -> None:
        """Compare the lists of the new upstream with those that the client has been sent."""
        self._shown_as, self._due, self._wanted = {}, {}, {}
        for item_id, server in lists.servers.items():
            if due := lists.due(item_id):
                open_item = clients.open_of(server)
                self._shown_as[item_id] = open_item or item_id
                self._due[item_id] = due
                self._wanted[item_id] = clients.due(open_item)
                if not (open_item or clients.have_whole(server)):
                    self._wanted[item_id] = set(_ENDS)

    @property
    def are_open(self) -> bool:
        """Whether events of a list are due."""
        return bool(self._due)

    def hides(self, event_type: str, body: Mapping[str, Any]) -> bool | None:
        """Whether the client is not sent an event; None: it is not about one of these lists."""
        item_id = _item_of(body)
        due, wanted = self._due.get(item_id), self._wanted.get(item_id)
        if due is None or wanted is None:
            return None
        if event_type in _BEGINNINGS:
            return not wanted or self._shown_as[item_id] != item_id
        end = _end_of(event_type)
        due.discard(end)
        if not due:
            del self._due[item_id]
        return end not in wanted

    def renamed(self, body: Mapping[str, Any]) -> dict[str, Any] | None:
        """Return an event that is shown with the item that the client knows; None: it is that of the event."""
        item_id = _item_of(body)
        shown_as = self._shown_as.get(item_id, item_id)
        if shown_as == item_id:
            return None
        if "item_id" in body:
            return {**body, "item_id": shown_as}
        return {**body, "item": {**child(body, "item"), "id": shown_as}}
