"""MCP servers: the list of tools is an item of its own, and a call runs on behind its response."""

from typing import Any

import pytest

from service.simulator import Simulator
from tests.support.simulator_client import connect, event_types

SERVER = {"type": "mcp", "server_label": "shop", "server_url": "https://mcp.example"}

CHOICE = {"type": "mcp", "server_label": "shop", "name": "search"}


async def test_tools_are_listed_once(sim: Simulator) -> None:
    """Behind the update that names the server first."""
    async with connect(sim) as client:
        await client.update_session(tools=[SERVER])
        events = await client.read_until("conversation.item.done")
        await client.update_session(tools=[SERVER], instructions="Again.")
        following = await client.run_text_turn("hello")
    assert event_types(events) == [
        "conversation.item.added",
        "mcp_list_tools.in_progress",
        "mcp_list_tools.completed",
        "conversation.item.done",
    ]
    assert events[-1]["item"]["tools"][0]["name"] == "search"
    assert "mcp_list_tools.in_progress" not in event_types(following)


async def test_call_runs_on_behind_its_response(sim: Simulator) -> None:
    """The client asks for an answer once it is completed."""
    choice = {"type": "mcp", "server_label": "shop", "name": "search"}
    async with connect(sim) as client:
        await client.update_session(tools=[SERVER])
        await client.read_until("conversation.item.done")
        await client.send("response.create", response={"tool_choice": choice})
        response = await client.read_until("response.done")
        call = await client.read_until("conversation.item.done")
    ends = [name for name in event_types(response) if not name.endswith(".delta")]
    assert ends == [
        "response.created",
        "response.output_item.added",
        "conversation.item.added",
        "response.mcp_call_arguments.done",
        "response.output_item.done",
        "response.done",
    ]
    assert [name for name in event_types(call) if name != "rate_limits.updated"] == [
        "response.mcp_call.in_progress",
        "response.mcp_call.completed",
        "conversation.item.done",
    ]
    assert (call[-1]["item"]["type"], call[-1]["item"]["output"]) == ("mcp_call", "found")


@pytest.mark.parametrize("approve", [True, False])
async def test_call_waits_for_its_approval(sim: Simulator, approve: bool) -> None:
    """The request is the only output of its response; the call is an item of its own, or there is none."""
    async with connect(sim) as client:
        await client.update_session(tools=[{**SERVER, "require_approval": "always", "authorization": "secret"}])
        await client.read_until("conversation.item.done")
        await client.send("response.create", response={"tool_choice": CHOICE})
        [request] = (await client.read_until("response.done"))[-1]["response"]["output"]
        answer = {"type": "mcp_approval_response", "approval_request_id": request["id"], "approve": approve}
        await client.send("conversation.item.create", item=answer)
        await client.read_until("conversation.item.done")
        await client.send("input_audio_buffer.clear")
        events = await client.read_until("conversation.item.done" if approve else "input_audio_buffer.cleared")
    assert request["type"] == "mcp_approval_request"
    assert ("response.mcp_call.completed" in event_types(events)) is approve
    if approve:
        assert events[-1]["item"]["approval_request_id"] == request["id"]


@pytest.mark.parametrize(
    "item",
    [
        {"type": "mcp_list_tools", "server_label": "shop", "tools": []},
        {"type": "mcp_call", "server_label": "shop", "name": "search", "arguments": "{}"},
        {"type": "mcp_approval_request", "server_label": "shop", "name": "search", "arguments": "{}"},
        {"type": "mcp_approval_response", "approval_request_id": "item_1", "approve": True},
    ],
)
async def test_items_of_a_client_are_refused(sim: Simulator, item: dict[str, Any]) -> None:
    """But for the answer to a request that is in the conversation."""
    async with connect(sim) as client:
        await client.send("conversation.item.create", item=item)
        error = (await client.read_until("error"))[-1]["error"]
    assert error["code"] == "invalid_value"
    assert error["param"] == ("item.approval_request_id" if "approve" in item else "item.type")


async def test_session_shows_no_credentials_of_a_server(sim: Simulator) -> None:
    """Whether the provider shows them is not known."""
    async with connect(sim) as client:
        [tool] = (await client.update_session(tools=[{**SERVER, "authorization": "secret"}]))["tools"]
    assert tool == SERVER


async def test_responses_outside_the_conversation_run_beside_its_own(sim: Simulator) -> None:
    """Neither refuses the other."""
    async with connect(sim) as client:
        await client.send("response.create")
        await client.send("response.create", response={"conversation": "none", "output_modalities": ["text"]})
        events = [*await client.read_until("response.done"), *await client.read_until("response.done")]
    assert "error" not in event_types(events)
    ended = [event["response"] for event in events if event["type"] == "response.done"]
    assert {response["conversation_id"] is None for response in ended} == {True, False}
