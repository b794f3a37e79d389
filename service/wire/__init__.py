"""WebSocket frames on sockets; the only package that depends on the internals of aiohttp."""
