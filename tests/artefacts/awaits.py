"""Finds the waits of the program's code that may last for ever: `await`, `async with` and `async for` without a deadline.

A wait has a deadline

* within `asyncio.timeout`, `timeout_at` or `Deadline`, as the timeout of `asyncio.wait` or `wait_for`, in `asyncio.sleep`;
* if it awaits a coroutine of the program's own, whose waits are judged themselves;
* in a function whose every call has one.

Calls are resolved by name. A name that foreign coroutines have as well is the program's own only where it is called on
`self`, as a plain name, or on an object of `_OWN_RECEIVERS`.
"""

import ast
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

_DEADLINES: Final = frozenset({"asyncio.timeout", "asyncio.timeout_at", "Deadline"})
_FOREIGN: Final = frozenset({
    "close", "run", "wait", "get", "read", "start", "connect", "serve", "stop", "cleanup", "drain", "prepare", "setup",
    "send", "write", "request", "aclose", "wait_closed", "readany", "finish_response", "resolve", "_handle_request",
    "_prepare_headers",
})  # fmt: skip
"""Names of coroutines of asyncio and aiohttp."""
_OWN_RECEIVERS: Final = frozenset({
    "app", "chain", "connected", "network", "self._connected", "self._dials", "self._dials_in_flight", "self._live_session",
    "self._reader", "self._stream", "self._supervisor", "self.drainer",
})  # fmt: skip
"""On which such a name is nevertheless the program's own."""


@dataclass
class Wait:
    """One wait: where it is, and what is waited for. `bounded` if it has a deadline of its own."""

    file: str
    function: str
    expression: str
    bounded: bool
    in_deadline: bool

    @property
    def key(self) -> tuple[str, str, str]:
        """What an entry of the list of exceptions names."""
        return self.file, self.function, self.expression


@dataclass
class Code:
    """The coroutines of the program, their waits, and where they are called."""

    own: set[tuple[str, str]] = field(default_factory=set)  # file and name
    contexts: set[str] = field(default_factory=set)  # own classes and functions that are async context managers
    waits: list[Wait] = field(default_factory=list)
    calls: dict[tuple[str, str], list[tuple[tuple[str, str], bool]]] = field(default_factory=lambda: defaultdict(list))
    """By coroutine function: the functions that call it, and whether within a deadline."""

    def named(self, file: str, callee: str) -> set[tuple[str, str]]:
        """The program's coroutine functions that a call in a file may mean."""
        receiver, _, name = callee.rpartition(".")
        if receiver in {"", "self"} and (file, name) in self.own:
            return {(file, name)}
        if name in _FOREIGN and receiver not in _OWN_RECEIVERS:
            return set()
        return {function for function in self.own if function[1] == name}

    def unbounded(self) -> Iterator[Wait]:
        """The waits without a deadline."""
        covered = self._covered()
        for wait in self.waits:
            if not (wait.bounded or wait.in_deadline or (wait.file, wait.function.rpartition(".")[2]) in covered):
                yield wait

    def _covered(self) -> set[tuple[str, str]]:
        """The coroutine functions whose every call has a deadline, or is in such a function."""
        covered = {function for function in self.own if self.calls[function] and function[1] not in _FOREIGN}
        while True:
            left = {f for f in covered if all(is_in or caller in covered for caller, is_in in self.calls[f])}
            if left == covered:
                return covered
            covered = left


def read_code(root: Path, files: list[Path]) -> Code:
    """Read the program's code."""
    code = Code()
    trees = {str(path.relative_to(root)): ast.parse(path.read_text(encoding="utf-8")) for path in files}
    for file, tree in trees.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.AsyncFunctionDef):
                code.own.add((file, node.name))
                if any("contextmanager" in ast.unparse(decorator) for decorator in node.decorator_list):
                    code.contexts.add(node.name)
            elif isinstance(node, ast.ClassDef) and any(
                isinstance(item, ast.AsyncFunctionDef) and item.name == "__aenter__" for item in node.body
            ):
                code.contexts.add(node.name)
    for name, tree in trees.items():
        _Reader(code, name).visit(tree)
    return code


class _Reader(ast.NodeVisitor):
    def __init__(self, code: Code, file: str) -> None:
        self._code = code
        self._file = file
        self._scope: list[str] = []
        self._deadlines = 0

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        self._visit_scope(node)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        self._visit_scope(node)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> None:
        self._visit_scope(node)

    def _visit_scope(self, node: ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        deadlines, self._deadlines = self._deadlines, 0
        self._scope.append(node.name)
        self.generic_visit(node)
        self._scope.pop()
        self._deadlines = deadlines

    def visit_Call(self, node: ast.Call) -> None:
        caller = (self._file, self._scope[-1] if self._scope else "")
        for function in self._code.named(self._file, ast.unparse(node.func)):
            self._code.calls[function].append((caller, bool(self._deadlines)))
        self.generic_visit(node)

    def visit_AsyncWith(self, node: ast.AsyncWith) -> None:
        entered = 0
        for item in node.items:
            if _is_deadline(item.context_expr):
                entered += 1
                self._deadlines += 1
            else:
                self._add(item.context_expr, is_bounded=self._is_own_context(item.context_expr))
            self.visit(item.context_expr)
        for statement in node.body:
            self.visit(statement)
        self._deadlines -= entered

    def visit_AsyncFor(self, node: ast.AsyncFor) -> None:
        self._add(node.iter, is_bounded=False)
        self.generic_visit(node)

    def visit_Await(self, node: ast.Await) -> None:
        self._add(node.value, is_bounded=self._is_bounded(node.value))
        self.generic_visit(node)

    def _is_own_context(self, node: ast.expr) -> bool:
        return isinstance(node, ast.Call) and _last_name(node.func) in self._code.contexts

    def _is_bounded(self, node: ast.expr) -> bool:
        if not isinstance(node, ast.Call):
            return False
        callee = ast.unparse(node.func)
        if callee in {"asyncio.shield", "asyncio.ensure_future", "asyncio.create_task"}:
            return self._is_bounded(node.args[0])
        if callee == "asyncio.gather":
            return all(self._is_bounded(argument) for argument in node.args)
        if callee == "asyncio.sleep":
            return True
        if callee in {"asyncio.wait", "asyncio.wait_for"}:
            timeouts = [keyword.value for keyword in node.keywords if keyword.arg == "timeout"] + node.args[1:2]
            return any(not _is_none(timeout) for timeout in timeouts)
        if callee.endswith(".enter_async_context"):
            return self._is_own_context(node.args[0])
        return bool(self._code.named(self._file, callee))

    def _add(self, node: ast.expr, *, is_bounded: bool) -> None:
        text = ast.unparse(node)
        if isinstance(node, ast.Call):
            text = f"{ast.unparse(node.func)}({'...' if node.args or node.keywords else ''})"
        self._code.waits.append(Wait(self._file, ".".join(self._scope), text, is_bounded, bool(self._deadlines)))


def _is_deadline(node: ast.expr) -> bool:
    return isinstance(node, ast.Call) and ast.unparse(node.func) in _DEADLINES and not _is_none(node.args[0])


def _is_none(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is None


def _last_name(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""
