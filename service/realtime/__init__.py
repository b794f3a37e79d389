"""The WebSocket and Realtime protocols as pure functions: no asyncio, aiohttp, clock or os."""
