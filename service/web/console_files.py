"""The files of the console: its pages, and the runbooks. Read once, at the start; only what was found then is served."""

import hashlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from aiohttp import web

from service.web.console_access import HEADERS

_PACKAGE: Final = Path(__file__).resolve().parents[1]
PAGES: Final = _PACKAGE / "console"
RUNBOOKS: Final = (_PACKAGE / "runbooks", _PACKAGE.parent / "docs" / "runbooks")
"""In the wheel and in the image they are in the package; in a checkout they are documents."""
_INDEX: Final = "index.html"
_TYPES: Final = {
    ".html": "text/html",
    ".css": "text/css",
    ".js": "text/javascript",
    ".json": "application/json",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".wav": "audio/wav",
}
_TEXTS: Final = frozenset({".html", ".css", ".js", ".json", ".svg"})

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True)
class StaticFile:
    """One file, with the validator of its content."""

    body: bytes
    content_type: str
    etag: str

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Respond with the file, or with 304 to a browser that has it."""
        headers = {**HEADERS, "Cache-Control": "no-cache", "ETag": f'"{self.etag}"'}
        if any(tag.value in {self.etag, "*"} for tag in request.if_none_match or ()):
            return web.Response(status=304, headers=headers)
        return web.Response(body=self.body, headers={**headers, "Content-Type": self.content_type})


def static_files(folder: Path) -> dict[str, StaticFile]:
    """The files of a folder by path, such as `/` for its index and `/page.js`; none if the folder is missing.

    Other types, hidden files and what would hide an interface of the relay are left out.
    """
    files = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        is_hidden = any(part.startswith(".") for part in name.split("/")) or name.startswith(("api/", "v1/"))
        if path.suffix in _TYPES and not is_hidden and path.is_file():
            body = path.read_bytes()
            kind = _TYPES[path.suffix] + ("; charset=utf-8" if path.suffix in _TEXTS else "")
            files["/" if name == _INDEX else f"/{name}"] = StaticFile(body, kind, hashlib.sha256(body).hexdigest()[:32])
    return files


def talk_routes() -> list[web.RouteDef]:
    """The routes of the public talk page. It needs no token: it holds nothing, and what it connects to is protected."""
    return [web.get(path, file.answer) for path, file in static_files(PAGES / "talk").items()]


def runbooks() -> dict[str, bytes]:
    """The runbooks by name, without `.md`; none if they are not installed."""
    folder = next((folder for folder in RUNBOOKS if folder.is_dir()), None)
    return {} if folder is None else {path.stem: path.read_bytes() for path in sorted(folder.glob("*.md"))}
