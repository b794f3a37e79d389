"""`python -m service`."""

import os
import signal
import sys

if __name__ == "__main__":
    # The system ends no container's first process by a signal that it does not handle, and loading takes a while. Nothing has
    # been started by then, and an exception in the middle of an import might be caught by whoever imports.
    if "serve" in sys.argv[1:2]:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: os._exit(0))
        if not sys.stderr.isatty():
            signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        from service.cli import main

        sys.exit(main())
    except ModuleNotFoundError as exc:
        if exc.name is None or exc.name.startswith("service"):
            raise
        sys.exit(f"{exc.name} is not installed here: use .venv/run/bin/python -m service, which 'make run' sets up")
    except BrokenPipeError:
        # Whoever read us has heard enough, as `head` does; without this the interpreter complains once more at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
