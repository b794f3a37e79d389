"""Installs the program into the virtual environment that runs this: `VENV/bin/python tools/install_command.py [FOLDER]`.

`VENV/bin/realtime-relay` and `VENV/bin/python -m service` then run the `service` of FOLDER, by default this checkout, from
any folder. This needs no build backend and no network; pip needs both for a checkout, and accepts none with --require-hashes.
"""

import sys
import sysconfig
from pathlib import Path
from typing import Final

COMMAND: Final = "realtime-relay"
_LAUNCHER: Final = """#!/bin/sh
# -P: a folder named `service` in the current folder must not replace the program.
exec "$(dirname -- "$(readlink -f -- "$0")")/python" -P -m service "$@"
"""


def install(folder: Path) -> Path:
    """Add `folder` to the modules of this environment, and return the path of its new launcher."""
    packages = Path(sysconfig.get_path("purelib"))
    (packages / "realtime_relay.pth").write_text(f"{folder}\n", encoding="utf-8")
    launcher = Path(sys.prefix) / "bin" / COMMAND
    launcher.write_text(_LAUNCHER, encoding="utf-8")
    launcher.chmod(0o755)
    return launcher


if __name__ == "__main__":
    if sys.prefix == sys.base_prefix:
        sys.exit("This Python is not in a virtual environment; run it with .venv/run/bin/python.")
    install(Path(sys.argv[1] if sys.argv[1:] else __file__.rpartition("/tools/")[0] or ".").resolve())
