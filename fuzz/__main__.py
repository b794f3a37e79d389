"""`python -m fuzz [TARGET ...] [--runs N]`: fuzz the targets one after another; exits 1 if there is a finding.

Corpus and findings are kept under build/fuzz/, and the next run continues from that corpus. To run one finding again, use
`python -m fuzz --again FILE TARGET`.
"""

import argparse
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

from fuzz.seeds import dictionary, seeds_of
from fuzz.targets import TARGETS

FUZZ_DIRECTORY: Final = Path("build/fuzz")
MAX_INPUT_BYTES: Final = 2048
INPUT_TIMEOUT_SECONDS: Final = 10  # a slower input is a finding
MEMORY_LIMIT_MB: Final = 1024


def fuzz(target: str, runs: int) -> bool:
    """Run a target with `runs` inputs, print the result, and return whether there was no finding."""
    directory = FUZZ_DIRECTORY / target
    corpus, findings = directory / "corpus", directory / "findings"
    for folder in (corpus, findings):
        folder.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(seeds_of(target)):
        (corpus / f"seed-{number:03}").write_bytes(seed)
    (directory / "dictionary").write_text(dictionary())
    known = set(findings.iterdir())
    command = [
        sys.executable, "-m", "fuzz.run", target, f"-atheris_runs={runs}", f"-max_len={MAX_INPUT_BYTES}", "-verbosity=1",
        f"-timeout={INPUT_TIMEOUT_SECONDS}", f"-rss_limit_mb={MEMORY_LIMIT_MB}", f"-dict={directory / 'dictionary'}",
        f"-artifact_prefix={findings}/", str(corpus),
    ]  # fmt: skip
    started = time.monotonic()
    with (directory / "log").open("w+b") as log:
        code = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, check=False).returncode  # noqa: S603 - ours
        log.seek(0)
        text = log.read().decode(errors="replace")
    count = max((int(number) for number in re.findall(r"^(?:#|Done )(\d+)", text, re.MULTILINE)), default=0)
    found = sorted(set(findings.iterdir()) - known)
    passed = code == 0 and count >= runs and not found
    print_line(
        f"fuzz {target}: {count} inputs in {time.monotonic() - started:.0f} s, {'no finding' if passed else 'FINDING:'}"
    )
    if not passed:
        start = max(0, text.find("=== Uncaught"))
        print_line(text[start : start + 4000] if start else text[-2000:])
        print_line(f"exit code {code}; input: {', '.join(map(str, found)) or 'none saved'}; log: {directory / 'log'}")
    return passed


def print_line(line: str) -> None:
    """Print a line immediately."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m fuzz", description="Fuzz the code that parses untrusted bytes.")
    parser.add_argument(
        "targets", nargs="*", metavar="target", help=f"one or more of: {', '.join(TARGETS)} (default: all)"
    )
    parser.add_argument("--runs", type=int, default=1_000_000, help="inputs for each target (default: a million)")
    parser.add_argument("--again", type=Path, metavar="FILE", help="run one input with its target, without atheris")
    arguments = parser.parse_args()
    targets = arguments.targets or list(TARGETS)
    if unknown := set(targets) - TARGETS.keys():
        parser.error(f"no such target: {', '.join(sorted(unknown))}")
    if arguments.again is not None:
        for target in targets:
            TARGETS[target](arguments.again.read_bytes())
        return 0
    results = [fuzz(target, arguments.runs) for target in targets]  # a finding in one target does not stop the others
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
