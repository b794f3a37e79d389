"""Pure knowledge of the protocol: no asyncio, no aiohttp, no clock, no os."""
