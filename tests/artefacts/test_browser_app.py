"""The app of docs/browser-app.md: its files work as they are written, with other ports."""

import asyncio
import contextlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import aiohttp
import pytest

from service.access.clients import digest_of
from tests.support.harness import RawClient, Relay, open_raw, simulated_relay
from tools.ports import free_port

TEXT: Final = (Path(__file__).parents[2] / "docs/browser-app.md").read_text(encoding="utf-8")
BLOCKS: Final = dict(re.findall(r"^```(toml|python|html)\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL))
TOKEN: Final = "token-of-the-apps-server"
PAGE_PATH: Final = re.findall(r'"ws://127\.0\.0\.1:8080(/[^"]+)"', BLOCKS["html"])[0]


async def secret_of(url: str, user: str) -> Any:
    """What the page gets from its server; waits until that listens."""
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=30)) as http:
        while True:
            with contextlib.suppress(aiohttp.ClientConnectorError):
                async with http.post(f"{url}/secret", headers={"X-User": user}) as reply:
                    return await reply.json()
            await asyncio.sleep(0.05)


async def ask(relay: Relay, url: str, user: str) -> list[str]:
    """The events that concern the budget, in a session as the page opens it."""
    secret = (await secret_of(url, user))["value"]
    offered = {"Sec-WebSocket-Protocol": f"realtime, openai-insecure-api-key.{secret}", "Origin": url}
    client = await open_raw(relay.app.public_port, PAGE_PATH, offered)
    assert 101 == client.answer.status
    found = await _conversation(client)
    await client.close()
    return found


async def _conversation(client: RawClient) -> list[str]:
    found: list[str] = []
    content = [{"type": "input_text", "text": "A ticket to Rome, please."}]
    client.send_event(type="conversation.item.create", item={"type": "message", "role": "user", "content": content})
    client.send_event(type="response.create")
    while (event := await client.next_event()) is not None:
        match event["type"]:
            case "session.created":
                assert "instructions" not in event["session"]
            case "error":
                found.append(event["error"]["code"])
            case "relay.budget_nearly_used":
                found.append(event["type"])
            case "response.done":
                found.append(event["type"])
                client.send_event(type="input_audio_buffer.clear")  # its answer follows what the response causes
            case "input_audio_buffer.cleared":
                break
    return found


async def test_users_of_the_app_have_budgets_of_their_own(tmp_path: Path) -> None:
    """The page gets secrets from app.py; alice ends at her budget, and is refused; bob is not."""
    port = free_port()
    clients = tmp_path / "clients.toml"
    clients.write_text(BLOCKS["toml"].replace("THE HASH", digest_of(TOKEN)))
    (tmp_path / "page.html").write_text(BLOCKS["html"])
    async with simulated_relay(RELAY_CLIENTS_FILE=str(clients)) as relay:
        program = BLOCKS["python"].replace("127.0.0.1:8080", f"127.0.0.1:{relay.app.public_port}")
        (tmp_path / "app.py").write_text(program.replace("8000", str(port)))
        app = await asyncio.create_subprocess_exec(
            sys.executable,
            "app.py",
            cwd=tmp_path,
            env={**os.environ, "TOKEN": TOKEN},
            stderr=asyncio.subprocess.DEVNULL,
        )
        url = f"http://127.0.0.1:{port}"
        try:
            talks: list[list[str]] = []
            while not talks or "budget_exhausted" not in talks[-1]:
                talks.append(await ask(relay, url, "alice"))
            assert any("relay.budget_nearly_used" in talk for talk in talks)
            assert ["budget_exhausted"] == await ask(relay, url, "alice")
            assert "response.done" in await ask(relay, url, "bob")
            async with aiohttp.ClientSession() as http, http.get(f"{url}/") as page:
                assert BLOCKS["html"] == await page.text()
        finally:
            app.terminate()
            await app.wait()


def test_script_of_the_page_is_valid(tmp_path: Path) -> None:
    """The syntax; the page was run in Chromium."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not installed")
    found = re.search(r'<script type="module">\n(.*?)</script>', BLOCKS["html"], re.DOTALL)
    assert found
    program = tmp_path / "page.mjs"
    program.write_text(found[1])
    assert 0 == subprocess.run([node, "--check", program], check=False, timeout=60).returncode
