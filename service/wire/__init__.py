"""Frames on sockets: the only room that knows the inside of aiohttp."""
