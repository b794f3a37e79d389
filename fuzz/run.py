"""Runs one target with atheris: `python -m fuzz.run TARGET [options of libFuzzer]`.

The instrumented modules are imported here, within atheris' hook. No other module may import them earlier.
"""

import sys

import atheris  # type: ignore[import-untyped,import-not-found,unused-ignore]  # only in the fuzzing environment

with atheris.instrument_imports(include=["service.realtime", "service.access", "service.web"]):
    from fuzz.targets import TARGETS

if __name__ == "__main__":
    atheris.Setup([sys.argv[0], *sys.argv[2:]], TARGETS[sys.argv[1]])
    atheris.Fuzz()
