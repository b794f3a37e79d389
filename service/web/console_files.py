"""The files of the console: its pages, and the runbooks. Read once, at the start; only what was found then is served."""

import gzip
import hashlib
import json
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Final

from aiohttp import web

from service.web.console_access import HEADERS, ConsoleProblem

_PACKAGE: Final = Path(__file__).resolve().parents[1]
PAGES: Final = _PACKAGE / "console"
RUNBOOKS: Final = (_PACKAGE / "runbooks", _PACKAGE.parent / "docs" / "runbooks")
"""In the wheel and in the image they are in the package; in a checkout they are documents."""
_INDEX: Final = "index.html"
_TYPES: Final = {  # as in [tool.setuptools.package-data]
    ".html": "text/html",
    ".css": "text/css",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
    ".wav": "audio/wav",
}
_MARKDOWN: Final = "text/markdown; charset=utf-8"
_TEXTS: Final = frozenset({".html", ".css", ".js", ".svg"})

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True)
class StaticFile:
    """One file, with the validator of its content."""

    body: bytes
    content_type: str
    etag: str

    @classmethod
    def of(cls, body: bytes, content_type: str) -> "StaticFile":
        """The file with this content."""
        return cls(body, content_type, hashlib.sha256(body).hexdigest()[:32])

    @cached_property
    def gzipped(self) -> bytes | None:
        """The content of a text, compressed: a page is read over slow networks, too.

        Made for the first request that accepts it, in a millisecond or two. At the start, all files would take 20 ms.
        """
        return gzip.compress(self.body, mtime=0) if "charset" in self.content_type else None

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Handle a request."""
        return self.response(request)

    def response(self, request: web.Request) -> web.Response:
        """The file, or 304 for a browser that has it."""
        # A weak validator: the compressed and the plain file are one document (RFC 9110 section 8.8.1).
        headers = {**HEADERS, "Cache-Control": "no-cache", "ETag": f'W/"{self.etag}"', "Vary": "Accept-Encoding"}
        if any(tag.value in {self.etag, "*"} for tag in request.if_none_match or ()):
            return web.Response(status=304, headers=headers)
        body, headers["Content-Type"] = self.body, self.content_type
        if "gzip" in request.headers.get("Accept-Encoding", "") and self.gzipped is not None:
            body, headers["Content-Encoding"] = self.gzipped, "gzip"
        return web.Response(body=body, headers=headers)


@cache
def static_files(folder: Path) -> Mapping[str, StaticFile]:
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
            files["/" if name == _INDEX else f"/{name}"] = StaticFile.of(body, kind)
    return files


def page_files(name: str) -> dict[str, StaticFile]:
    """The files of a page, and under `/shared` those of both pages."""
    shared = static_files(PAGES / "shared").items()
    return {**static_files(PAGES / name), **{f"/shared{path}": file for path, file in shared if path != "/"}}


def file_answers(files: Mapping[str, StaticFile]) -> dict[str, Handler]:
    """Paths of aiohttp's router, with what answers them: one path for all files but the index.

    A path for each file took most of the time in which a relay builds its router.
    """
    by_name = {path.removeprefix("/"): file for path, file in files.items()}
    index = by_name.pop("", None)

    async def answer(request: web.Request) -> web.StreamResponse:
        return by_name[request.match_info["file"]].response(request)

    answers: dict[str, Handler] = {} if index is None else {"/": index.answer}
    return answers | ({f"/{{file:{'|'.join(map(re.escape, by_name))}}}": answer} if by_name else {})


@cache
def _markdown_files(folder: Path) -> Mapping[str, StaticFile]:
    return {path.stem: StaticFile.of(path.read_bytes(), _MARKDOWN) for path in sorted(folder.glob("*.md"))}


class Runbooks:
    """The runbooks by name, without `.md`; none if they are not installed."""

    def __init__(self) -> None:
        folder = next((folder for folder in RUNBOOKS if folder.is_dir()), None)
        self.files = _markdown_files(folder) if folder is not None else {}

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Respond with the runbook that the path names, as Markdown."""
        file = self.files.get(request.match_info["name"])
        return file.response(request) if file is not None else self._not_found()

    def _not_found(self) -> web.Response:
        remedy = (
            f"Use one of the names {', '.join(self.files)}." if self.files else "Read docs/runbooks of the sources."
        )
        return ConsoleProblem(404, "runbook_not_found", "There is no runbook with this name.", remedy).response()


def talk_routes(about: Mapping[str, object]) -> list[web.RouteDef]:
    """The routes of the public talk page; none if it is not installed. `about` is what its `/console.json` answers.

    They need no token: they hold what is public, and what the page connects to is protected.
    """
    files = page_files("talk")
    if "/" not in files:
        return []
    document = StaticFile.of(json.dumps(about).encode(), "application/json; charset=utf-8")
    answers = file_answers(files) | {"/console.json": document.answer, "/runbooks/{name}": Runbooks().answer}
    return [web.get(path, _unless_upgrade(answer)) for path, answer in answers.items()]


class WebSocketAtPage(web.HTTPNotFound):
    """A WebSocket handshake with the path of a page."""


def _unless_upgrade(answer: Handler) -> Handler:
    """Answers pages only: a WebSocket client with this path has lost its own, and gets the remedy of any wrong path."""

    async def answer_page(request: web.Request) -> web.StreamResponse:
        if request.headers.get("Upgrade", "").lower() == "websocket":
            raise WebSocketAtPage
        return await answer(request)

    return answer_page
