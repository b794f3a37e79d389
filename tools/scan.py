"""`make scan`: known vulnerabilities of what the image holds. Exit codes: 0 none, 1 some, 2 it could not be found out.

pip-audit calls a package that its database does not answer for "skipped" and ends well: offline it finds nothing and says
so in green. So nothing may be skipped here, and a release with a known vulnerability has to be recognised first.
"""

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
LOCKED: Final = ROOT / "requirements" / "runtime.txt"
KNOWN_BAD: Final = ("aiohttp", "3.8.0")  # CVE-2023-37276 and many more since
IMAGE: Final = "realtime-relay:local"
SCANNERS: Final = {
    "trivy": ("image", "--quiet", "--exit-code", "1", "--ignore-unfixed", "--severity", "HIGH,CRITICAL", IMAGE),
    "grype": ("--quiet", "--fail-on", "high", "--only-fixed", IMAGE),
}
OK, FOUND, UNKNOWN = 0, 1, 2


class NotFoundOut(Exception):
    """The scan says nothing; the message says why."""


def vulnerabilities(requirements: Path, *options: str) -> list[str]:
    """What the database knows of these packages; raises NotFoundOut unless it answers for every one."""
    command = [sys.executable, "-m", "pip_audit", "--disable-pip", "--progress-spinner=off", "--format=json", *options]
    done = subprocess.run(
        [*command, "--requirement", str(requirements)], capture_output=True, text=True, timeout=300, check=False
    )
    try:
        packages = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError):
        lines = (done.stderr or done.stdout).strip().splitlines() or ["no output"]
        raise NotFoundOut(f"pip-audit: {lines[-1][:300]}") from None
    skipped = [package["name"] for package in packages if "skip_reason" in package]
    if skipped or not packages:
        raise NotFoundOut(f"the database does not answer for {', '.join(skipped) or 'anything'}")
    return [
        f"{package['name']} {package['version']}: {found['id']}, fixed in {', '.join(found['fix_versions']) or 'nothing'}"
        for package in packages
        for found in package["vulns"]
    ]


def scan_packages() -> list[str]:
    """The vulnerabilities of the locked packages; raises NotFoundOut."""
    name, version = KNOWN_BAD
    with tempfile.TemporaryDirectory() as folder:
        canary = Path(folder) / "canary.txt"
        canary.write_text(f"{name}=={version}\n", encoding="utf-8")
        if not vulnerabilities(canary, "--no-deps"):
            raise NotFoundOut(f"the database knows nothing of {name} {version}, which is full of holes")
    return vulnerabilities(LOCKED, "--require-hashes")


def scan_image() -> int | None:
    """The exit code of the scanner that is there; None if there is none."""
    for name, words in SCANNERS.items():
        program = shutil.which(name)
        if program is not None:
            return subprocess.run([program, *words], check=False).returncode
    return None


def main() -> int:
    """Scan the packages, and the image where a scanner is installed."""
    try:
        found = scan_packages()
    except (NotFoundOut, subprocess.TimeoutExpired) as why:
        sys.stderr.write(f"SCAN NOT DONE: {why}\n")
        return UNKNOWN
    sys.stdout.write("".join(f"{line}\n" for line in found) or "No known vulnerability in requirements/runtime.txt\n")
    image = scan_image()
    if image is None:
        sys.stderr.write(f"NOT RUN: a scan of {IMAGE}, since neither {' nor '.join(SCANNERS)} is installed\n")
    elif image:
        return FOUND
    return FOUND if found else OK


if __name__ == "__main__":
    sys.exit(main())
