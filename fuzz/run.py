"""Hands one target to atheris: `python -m fuzz.run TARGET [libFuzzer's options]`.

What is read by coverage is imported here, within atheris' hook; nothing may import it before.
"""

import sys

import atheris  # type: ignore[import-untyped,import-not-found,unused-ignore]  # only in the fuzzing environment

with atheris.instrument_imports(include=["service.realtime"]):
    from fuzz.targets import TARGETS

if __name__ == "__main__":
    atheris.Setup([sys.argv[0], *sys.argv[2:]], TARGETS[sys.argv[1]])
    atheris.Fuzz()
