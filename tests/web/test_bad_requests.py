"""A malformed request is answered with what is wrong with it and what to send instead."""

import pytest

from tests.support.harness import eventually, open_raw, simulated_relay

MODEL = "/v1/realtime?model=gpt-realtime"


@pytest.mark.parametrize(
    ("key", "problem"),
    [
        ("SGVsbG8sIHdvcmxkIQ==", "decodes to 13 bytes; RFC 6455 requires 16"),  # "Hello, world!", copied from tutorials
        ("dGVzdA==", "decodes to 4 bytes"),
        ("MTIzNDU2Nzg5MDEyMzQ1Njc=", "decodes to 17 bytes"),
        ("AAAAAAAAAAAAAAAAAAAAAA", "is no base64 (22 characters)"),
        ("258EAFA5-E914-47DA-95CA-C5AB0DC85B11", "is no base64 (36 characters)"),
        ("<random key>", "is no base64"),
        ("\u00fcber", "is no base64"),
        (" ", "is empty"),
        ("", "is missing"),
    ],
)
async def test_malformed_key_is_named_with_its_length(key: str, problem: str) -> None:
    """In body and log. Without a valid key no 101 is possible, so the form is HTTP."""
    async with simulated_relay() as relay:
        client = await open_raw(relay.app.public_port, headers={"Sec-WebSocket-Key": key})
        await client.close()
        (line,) = relay.events("admission.refused")

    remedy = client.answer.error["remedy"]
    assert (400, "bad_request") == (client.answer.status, client.answer.error["code"])
    assert problem in remedy
    assert "openssl rand -base64 16" in remedy
    assert (True, remedy) == (problem in line["detail"], line["remedy"])


@pytest.mark.parametrize(
    ("path", "remedy"),
    [
        (f"{MODEL}&model=b", "at most once"),
        (f"{MODEL}&MODEL=b", "at most once"),
        (f"{MODEL}&Deployment=a&deploymenT=b", "at most once"),
        (f"{MODEL}&x={'%22' * 700}", "at most 2 kB"),
        (f"{MODEL}&x={'y' * 2100}", "at most 2 kB"),
        (MODEL + "".join(f"&p{n}=1" for n in range(17)), "at most 16"),
        (f"{MODEL}&x=%00", "control characters"),
        ("/v1/realtime?call_id=a%20b", "call_id"),
        (f"{MODEL}&intent=a%20b", "intent"),
        ("/v1/realtime?model=../../secret", "model"),
        (f"{MODEL}&draining_event=1", "draining_event=true"),
    ],
)
@pytest.mark.parametrize("form", ["http", "event"])
async def test_malformed_query_names_the_parameter(path: str, remedy: str, form: str) -> None:
    """In HTTP body and error event alike; the client's text is not repeated."""
    async with simulated_relay() as relay:
        client = await open_raw(relay.app.public_port, f"{path}&on_failure={form}")
        error = client.answer.error if form == "http" else (await client.next_event())["error"]
        await client.close()

    assert "bad_request" == error["code"]
    assert remedy in error["remedy"]
    assert "secret" not in error["remedy"]


async def test_unknown_form_of_failures_is_refused() -> None:
    """A misspelt value would else be found only when a connection fails."""
    async with simulated_relay() as relay:
        client = await open_raw(relay.app.public_port, f"{MODEL}&on_failure=events")
        await client.close()

    assert (400, "bad_request") == (client.answer.status, client.answer.error["code"])
    assert "Send on_failure=event or on_failure=http." == client.answer.error["remedy"]


async def test_unknown_intent_without_a_model_is_named() -> None:
    """A misspelt transcription needs no model: the intent is the mistake."""
    async with simulated_relay() as relay:
        client = await open_raw(relay.app.public_port, "/v1/realtime?intent=transcribe")
        await client.close()

    assert (400, "model_missing") == (client.answer.status, client.answer.error["code"])
    assert client.answer.error["remedy"].startswith("Correct 'intent'")


async def test_unknown_scenario_of_the_simulator_is_named() -> None:
    """It is no captive portal: the request is rejected, with the parameter in the remedy."""
    async with simulated_relay() as relay:
        client = await open_raw(relay.app.public_port, f"{MODEL}&simulate=nonsense")
        await client.close()

        error = client.answer.error
        assert ("request_rejected", "unknown_scenario") == (error["code"], error["upstream_code"])
        assert "Remove 'simulate' from the query" in error["remedy"]
        await eventually(lambda: relay.app.monitor.ready)


@pytest.mark.parametrize("coding", ["foo", "gzip, chunked"])
async def test_handshake_with_an_unknown_transfer_coding_is_refused(coding: str) -> None:
    """It got a 101, behind which its body was read as frames."""
    async with simulated_relay() as relay:
        client = await open_raw(relay.app.public_port, MODEL, {"Transfer-Encoding": coding})
        await client.close()

        assert (400, "bad_request") == (client.answer.status, client.answer.error["code"])
        assert "no body" in client.answer.error["remedy"]
        assert "close" == client.answer.headers["Connection"], "the end of the request is unknown"
