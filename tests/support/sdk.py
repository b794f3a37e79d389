"""The official SDK as a client, imported when a test uses it: that takes half a second of each process of the tests."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from openai import AsyncOpenAI


def openai_client(api_key: str, base_url: str) -> "AsyncOpenAI":
    """A client with the SDK's own settings."""
    from openai import AsyncOpenAI  # noqa: PLC0415 - see above

    return AsyncOpenAI(api_key=api_key, base_url=base_url)
