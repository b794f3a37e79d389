"""MCP servers: the list of a server's tools, and the calls of a tool.

Source: the guide "Realtime with tools" and the example `mcp_approval.rb` of openai-ruby. A list is an item that the session
creates behind `session.created` or `session.updated`. A call runs on behind the end of its response, and the client then
asks for an answer to it. A call that needs an approval is a request first; where it is approved, an item of its own follows.
"""

import asyncio

from service.realtime.usage import Tokens
from service.simulator.connection import Connection
from service.simulator.conversation import Conversation
from service.simulator.events import JSON, JSONObject, server_event
from service.simulator.ids import new_id
from service.simulator.items import Item

_TOOL: JSONObject = {"name": "search", "description": "Search.", "input_schema": {"type": "object", "properties": {}}}


class McpServers:
    """Those of one session: each has one tool, and answers after `Behaviour.mcp_seconds`."""

    def __init__(self, connection: Connection, conversation: Conversation) -> None:
        self._connection = connection
        self._conversation = conversation
        self._labels: set[str] = set()

    def list_tools(self, tools: JSON) -> None:
        """List the tools of servers that are new."""
        for tool in tools if isinstance(tools, list) else ():
            if isinstance(tool, dict) and tool.get("type") == "mcp":
                label = str(tool["server_label"])
                if label not in self._labels:
                    self._labels.add(label)
                    self._connection.spawn(self._list(label))

    async def run_call(self, item: JSONObject) -> None:
        """Run a call, and end its item."""
        ids: JSONObject = {"item_id": item["id"], "output_index": 0}
        await self._send("response.mcp_call.in_progress", **ids)
        await self._wait()
        await self._send("response.mcp_call.completed", **ids)
        await self._end_item({**item, "output": "found"})

    async def approved(self, response: Item) -> None:
        """Run the call whose request the client approves."""
        request = self._conversation.find(str(response.body["approval_request_id"]), "retrieve").body
        call: JSONObject = {name: request[name] for name in ("object", "server_label", "name", "arguments")}
        kind = self._connection.behaviour.mcp_call_type
        call = {"id": new_id("item"), "type": kind, **call, "approval_request_id": request["id"], "output": None}
        previous = self._conversation.add(Item(call, Tokens()))
        await self._send("conversation.item.added", previous_item_id=previous, item=call)
        await self.run_call(call)

    async def _list(self, label: str) -> None:
        item: JSONObject = {"id": new_id("item"), "type": "mcp_list_tools", "server_label": label, "tools": []}
        previous = self._conversation.add(Item(item, Tokens()))
        await self._send("conversation.item.added", previous_item_id=previous, item=item)
        await self._send("mcp_list_tools.in_progress", item_id=item["id"])
        await self._wait()
        await self._send("mcp_list_tools.completed", item_id=item["id"])
        await self._end_item({**item, "tools": [_TOOL]})

    async def _end_item(self, item: JSONObject) -> None:
        self._conversation.replace_item(Item(item, Tokens()))
        await self._send("conversation.item.done", previous_item_id=None, item=item)

    async def _wait(self) -> None:
        seconds = self._connection.behaviour.mcp_seconds
        await (asyncio.Event().wait() if seconds is None else asyncio.sleep(seconds))

    async def _send(self, event_type: str, **fields: JSON) -> None:
        await self._connection.send(server_event(event_type, **fields))
