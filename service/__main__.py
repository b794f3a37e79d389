"""`python -m service`."""

import os
import signal
import sys

if __name__ == "__main__":
    # The kernel does not end a container's first process by a signal that it does not handle, and the imports take a while.
    # Nothing runs yet, so exit directly: an exception raised in the middle of an import might be caught there.
    if "serve" in sys.argv[1:2]:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: os._exit(0))
        if sys.stderr is None or not sys.stderr.isatty():
            signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        from service.cli import main

        sys.exit(main())
    except ModuleNotFoundError as exc:
        if exc.name is None or exc.name.startswith("service"):
            raise
        sys.exit(f"{exc.name} is not installed here: use .venv/run/bin/realtime-relay, which 'make run' installs")
    except BrokenPipeError:
        # The reader of stdout has closed it, as `head` does. Without this the interpreter reports it again when it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
