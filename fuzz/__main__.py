"""`python -m fuzz [TARGET ...] [--runs N]`: fuzz the targets one after another; exits 1 if there was a finding.

Corpus and findings are kept under build/fuzz/, so that the next run goes on where this one ended. A finding is tried again
with `python -m fuzz --again FILE TARGET`.
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

HOME: Final = Path("build/fuzz")
MOST_BYTES: Final = 2048
SECONDS_FOR_ONE: Final = 10  # an input that takes longer is a finding, too
MEGABYTES: Final = 1024


def fuzz(target: str, runs: int) -> bool:
    """Try so many inputs on a target, tell how it went, and return whether nothing was found."""
    home = HOME / target
    corpus, findings = home / "corpus", home / "findings"
    for folder in (corpus, findings):
        folder.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(seeds_of(target)):
        (corpus / f"seed-{number:03}").write_bytes(seed)
    (home / "words").write_text(dictionary())
    known = set(findings.iterdir())
    command = [
        sys.executable, "-m", "fuzz.run", target, f"-atheris_runs={runs}", f"-max_len={MOST_BYTES}", "-verbosity=1",
        f"-timeout={SECONDS_FOR_ONE}", f"-rss_limit_mb={MEGABYTES}", f"-dict={home / 'words'}",
        f"-artifact_prefix={findings}/", str(corpus),
    ]  # fmt: skip
    started = time.monotonic()
    with (home / "log").open("w+b") as log:
        code = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, check=False).returncode  # noqa: S603 - ours
        log.seek(0)
        text = log.read().decode(errors="replace")
    tried = max((int(number) for number in re.findall(r"^(?:#|Done )(\d+)", text, re.MULTILINE)), default=0)
    found = sorted(set(findings.iterdir()) - known)
    is_well = code == 0 and tried >= runs and not found
    tell(
        f"fuzz {target}: {tried} inputs in {time.monotonic() - started:.0f} s, {'no finding' if is_well else 'FOUND:'}"
    )
    if not is_well:
        at = max(0, text.find("=== Uncaught"))
        tell(text[at : at + 4000] if at else text[-2000:])
        tell(f"exit code {code}; input: {', '.join(map(str, found)) or 'none saved'}; log: {home / 'log'}")
    return is_well


def tell(line: str) -> None:
    """Say it on the terminal."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main() -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(prog="python -m fuzz", description="Fuzz what reads strangers' bytes.")
    parser.add_argument("targets", nargs="*", metavar="target", help=f"some of: {', '.join(TARGETS)} (default: all)")
    parser.add_argument("--runs", type=int, default=1_000_000, help="inputs for each target (default: a million)")
    parser.add_argument("--again", type=Path, metavar="FILE", help="try one input, with its target, without atheris")
    arguments = parser.parse_args()
    targets = arguments.targets or list(TARGETS)
    if unknown := set(targets) - TARGETS.keys():
        parser.error(f"no such target: {', '.join(sorted(unknown))}")
    if arguments.again is not None:
        for target in targets:
            TARGETS[target](arguments.again.read_bytes())
        return 0
    results = [fuzz(target, arguments.runs) for target in targets]  # all of them, whatever is found in one
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
