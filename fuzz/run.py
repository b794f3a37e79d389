"""Runs one target with atheris: `python -m fuzz.run TARGET [options of libFuzzer]`.

The instrumented modules are imported here, within atheris' hook. No other module may import them earlier.
"""

import atexit
import signal
import sys

import atheris  # type: ignore[import-untyped,import-not-found,unused-ignore]  # only in the fuzzing environment

with atheris.instrument_imports(include=["service.realtime", "service.access", "service.web"]):
    from fuzz.targets import TARGETS

if __name__ == "__main__":
    atheris.Setup([sys.argv[0], *sys.argv[2:]], TARGETS[sys.argv[1]])
    # Atheris' timer for slow inputs goes on behind the last one, while Python restores the default action of SIGALRM before
    # it frees its modules. If the timer expires meanwhile, the process is killed although nothing was found.
    atexit.register(signal.setitimer, signal.ITIMER_REAL, 0)
    atheris.Fuzz()
