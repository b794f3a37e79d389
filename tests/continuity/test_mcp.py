"""MCP servers across a swap: each connection lists their tools anew, and a call runs on after its response."""

import pytest

from service.simulator import Behaviour, End, Fault, Moment
from tests.continuity.caller import Caller, calling
from tests.continuity.relays import FAST, Stage, failing, renew, stage
from tests.support.harness import eventually

SERVER = {"type": "mcp", "server_label": "shop", "server_url": "https://mcp.example", "require_approval": "never"}
CALL = {"tool_choice": {"type": "mcp", "server_label": "shop", "name": "search"}}


async def configure(caller: Caller) -> None:
    """Have upstream list the tools."""
    caller.send("session.update", session={"type": "realtime", "tools": [SERVER]})
    await caller.until(lambda: caller.count("mcp_list_tools.completed") and caller.count("conversation.item.done"))


def listed(found: Stage) -> list[object]:
    """The tools that the second connection has listed."""
    lists = [item for item in found.conversations[1].items if item["type"] == "mcp_list_tools"]
    return [tool for item in lists for tool in item["tools"]]


async def test_renewal_waits_for_the_tools_and_hides_their_list() -> None:
    """An answer without them could not call any; the client was sent the list of the first connection."""
    slow = Behaviour(mcp_seconds=0.6)
    async with stage(FAST, slow) as found, calling(found.relay) as caller:
        await configure(caller)
        seen = len(caller.events)
        await renew(found)
        await eventually(lambda: found.swaps("renewal") == 1, 10)
        assert len(listed(found)) == 1
        caller.say("hello")
        await caller.until("conversation.item.done", 2)
        assert [event["type"] for event in caller.events[seen:]] == [
            "conversation.item.added",
            "conversation.item.done",
        ]
        caller.check()


@pytest.mark.parametrize(("seconds", "recovery_seconds"), [(0.3, "15"), (None, "5")])
async def test_recovery_waits_for_the_tools_for_a_while(seconds: float | None, recovery_seconds: str) -> None:
    """The user waits, but for an answer that needs them. The rest of a late list is hidden, too."""
    async with (
        stage(Behaviour(), Behaviour(mcp_seconds=seconds), RELAY_RECOVERY_SECONDS=recovery_seconds) as found,
        calling(found.relay) as caller,
    ):
        await configure(caller)
        seen = len(caller.events)
        await found.simulator.drop_all(End.RESET)
        await eventually(lambda: found.swaps("loss") == 1)
        assert len(listed(found)) == (seconds is not None)
        caller.say("hello")
        await caller.until("conversation.item.done", 2)
        assert [event["type"] for event in caller.events[seen:]] == [
            "conversation.item.added",
            "conversation.item.done",
        ]
        caller.check()


async def test_renewal_waits_for_a_call_that_runs() -> None:
    """It runs on after its response, and the next connection would know nothing of it."""
    async with stage(Behaviour(mcp_seconds=1.5)) as found, calling(found.relay) as caller:
        await configure(caller)
        caller.send("response.create", response=CALL)
        await caller.until("response.mcp_call.in_progress")
        assert caller.count("response.done") == 1
        await renew(found)
        await eventually(lambda: len(found.upstreams) == 2, 10)
        await caller.until("response.mcp_call.completed")  # which no other connection sends
        await eventually(lambda: found.swaps("renewal") == 1, 10)
        [result] = [item for item in found.conversations[1].items if item["type"] == "message"]
        assert result["content"][0]["text"] == "Tool search returned: found"
        caller.check()


@pytest.mark.parametrize(
    ("event", "count"),
    [
        ("response.output_item.added", 1),
        ("response.mcp_call_arguments.done", 1),
        ("response.done", 1),
        ("response.mcp_call.in_progress", 1),
    ],
)
async def test_call_that_a_loss_cuts_fails_and_is_not_called_again(event: str, count: int) -> None:
    """It may have run: what it does must not be done twice. The client learns that no result comes."""
    async with (
        stage(failing(Fault(Moment.AFTER_SENT, End.RESET, event=event, count=count))) as found,
        calling(found.relay) as caller,
    ):
        await configure(caller)
        caller.send("response.create", response=CALL)
        await eventually(lambda: found.swaps("loss") == 1)
        await caller.until("response.mcp_call.failed")
        await caller.until("response.done")
        caller.say("hello")
        await caller.until(lambda: caller.items[-1] in str(caller.of_type("conversation.item.done")))
        assert found.conversations[1].responses == []
        assert caller.count("response.created") == 1
        caller.check()


@pytest.mark.parametrize("seconds", [0.0, 1.5])
@pytest.mark.parametrize(
    "event",
    ["session.updated", "conversation.item.added", "mcp_list_tools.in_progress", "mcp_list_tools.completed"],
)
async def test_list_of_tools_that_a_loss_cuts_is_ended_once(event: str, seconds: float) -> None:
    """A client may wait for it. The next connection lists the tools anew, before it takes over or behind that."""
    fault = Fault(Moment.AFTER_SENT, End.RESET, event=event)
    async with (
        stage(failing(fault), Behaviour(mcp_seconds=seconds), RELAY_RECOVERY_SECONDS="5") as found,
        calling(found.relay) as caller,
    ):
        caller.send("session.update", session={"type": "realtime", "tools": [SERVER]})
        await caller.until("mcp_list_tools.completed")
        await caller.until("conversation.item.done")
        assert found.swaps("loss") == 1
        caller.say("hello")
        await caller.until("conversation.item.done", 2)
        [begun] = caller.of_type("mcp_list_tools.in_progress") or [{"item_id": caller.items[0]}]
        [ended], done = caller.of_type("mcp_list_tools.completed"), caller.of_type("conversation.item.done")[0]
        assert begun["item_id"] == ended["item_id"] == done["item"]["id"] == caller.items[0]
        assert done["item"]["tools"]
        assert len(caller.items) == 2
        assert caller.of_type("conversation.item.added")[1]["previous_item_id"] == caller.items[0]
        caller.check()


async def test_item_behind_a_hidden_list_is_placed_where_the_client_knows() -> None:
    """The list is the first item of the next connection, and here its only one."""
    async with stage(Behaviour(), Behaviour(mcp_seconds=0.3)) as found, calling(found.relay) as caller:
        await configure(caller)
        await found.simulator.drop_all(End.RESET)
        await eventually(lambda: found.swaps("loss") == 1)
        caller.say("hello")
        await caller.until("conversation.item.done", 2)
        assert found.conversations[1].items[0]["type"] == "mcp_list_tools"
        places = {event["previous_item_id"] for event in caller.events if "previous_item_id" in event}
        assert places <= {None, *caller.items}
        caller.check()


@pytest.mark.parametrize("call_type", ["mcp_call", "mcp_tool_call"])
async def test_result_of_a_call_is_known_behind_a_loss(call_type: str) -> None:
    """As text of the system, under the id of the call, whichever of its names upstream uses."""
    async with stage(Behaviour(mcp_call_type=call_type)) as found, calling(found.relay) as caller:
        await configure(caller)
        caller.send("response.create", response=CALL)
        await caller.until("conversation.item.done", 2)
        await found.simulator.drop_all(End.RESET)
        await eventually(lambda: found.swaps("loss") == 1)
        caller.say("And?")
        await caller.until("conversation.item.done", 3)
        [result] = [item for item in found.conversations[1].items if item["id"] == caller.items[1]]
        assert result["role"] == "system"
        assert result["content"] == [{"type": "input_text", "text": "Tool search returned: found"}]
        caller.check()


async def request_approval(caller: Caller) -> str:
    """Have the model ask for an approval; returns the id of the request."""
    answers = caller.count("response.done")
    caller.send("response.create", response={**CALL, "tools": [{**SERVER, "require_approval": "always"}]})
    await caller.until("response.done", answers + 1)
    return str(caller.of_type("response.done")[-1]["response"]["output"][0]["id"])


def approve(caller: Caller, request: str) -> None:
    """Answer it."""
    item = {"type": "mcp_approval_response", "approval_request_id": request, "approve": True}
    caller.send("conversation.item.create", item=item, event_id="approval")


async def test_renewal_follows_the_answer_to_a_request_for_approval() -> None:
    """And the call that this allows."""
    async with stage() as found, calling(found.relay) as caller:
        request = await request_approval(caller)
        await renew(found)
        await eventually(lambda: found.swaps("renewal", "postponed") >= 1, 10)
        assert len(found.upstreams) == 1
        approve(caller, request)
        await caller.until("response.mcp_call.completed")
        await eventually(lambda: found.swaps("renewal") == 1, 10)
        assert [item["type"] for item in found.conversations[1].items] == ["message"]
        assert not caller.count("error")
        caller.check()


@pytest.mark.parametrize("event", ["conversation.item.added", "conversation.item.done"])
async def test_approval_whose_call_has_not_begun_is_refused_at_a_loss(event: str) -> None:
    """The client waits for the call. The next connection knows neither the request nor the answer."""
    fault = Fault(Moment.AFTER_SENT, End.RESET, event=event, contains="mcp_approval_response")
    async with stage(failing(fault)) as found, calling(found.relay) as caller:
        approve(caller, request := await request_approval(caller))
        await caller.until("error")
        [error] = caller.of_type("error")
        assert str(request) in error["error"]["message"]
        await eventually(lambda: found.swaps("loss") == 1)
        caller.check()


async def test_request_for_approval_is_forgotten_at_a_loss() -> None:
    """The client's answer is refused by the next connection; another request of the model is answered as usual."""
    async with stage() as found, calling(found.relay) as caller:
        request = await request_approval(caller)
        await found.simulator.drop_all(End.RESET)
        await eventually(lambda: found.swaps("loss") == 1)
        approve(caller, request)
        await caller.until("error")
        [refused] = caller.of_type("error")
        assert (refused["error"]["event_id"], refused["error"]["param"]) == ("approval", "item.approval_request_id")
        approve(caller, await request_approval(caller))
        await caller.until("response.mcp_call.completed")
        caller.check()


async def test_request_for_approval_that_a_loss_cuts_is_not_shown_as_done() -> None:
    """The client would ask its user in vain: the answer is requested again, and with it another approval."""
    fault = Fault(Moment.AFTER_SENT, End.RESET, event="conversation.item.added")
    async with stage(failing(fault)) as found, calling(found.relay) as caller:
        caller.send("response.create", response={**CALL, "tools": [{**SERVER, "require_approval": "always"}]})
        await eventually(lambda: found.swaps("loss") == 1)
        await caller.until("response.done", 2)
        await caller.until("conversation.item.done")
        [request] = [event["item"] for event in caller.of_type("conversation.item.done")]
        assert request["id"] == found.conversations[1].items[-1]["id"]
        approve(caller, request["id"])
        await caller.until("response.mcp_call.completed")
        assert not caller.count("error")
        caller.check()
