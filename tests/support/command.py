"""A command of the program in this process: a process of its own takes half a second of CPU for its imports."""

import os
from dataclasses import dataclass

import pytest

from service import cli
from tests.support.relay_process import environment


@dataclass
class Command:
    """Runs `python -m service` with its settings, in the working directory, but no relay: that changes the whole process."""

    monkeypatch: pytest.MonkeyPatch
    capsys: pytest.CaptureFixture[str]

    def __call__(self, *words: str, **settings: str) -> tuple[int, str, str]:
        """Run it; returns exit code, stdout and stderr."""
        assert "serve" not in words
        with self.monkeypatch.context() as patch:
            for name in os.environ.keys() - environment().keys():
                patch.delenv(name)
            for name, value in settings.items():
                patch.setenv(name, value)
            code = cli.main(list(words))
        output = self.capsys.readouterr()
        return code, output.out, output.err
