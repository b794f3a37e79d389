"""`make scan`: known vulnerabilities of the image's packages. Exit codes: 0 none, 1 some, 2 the scan is incomplete.

pip-audit reports a package that its database does not answer for as "skipped" and succeeds, so that offline it finds
nothing. Therefore this scan accepts no skipped package, and first looks up a release with known vulnerabilities.
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
KNOWN_VULNERABLE: Final = ("aiohttp", "3.8.0")  # CVE-2023-37276 and many more since
IMAGE: Final = "realtime-relay:local"
SCANNERS: Final = {
    "trivy": ("image", "--quiet", "--exit-code", "1", "--ignore-unfixed", "--severity", "HIGH,CRITICAL", IMAGE),
    "grype": ("--quiet", "--fail-on", "high", "--only-fixed", IMAGE),
}
OK, FOUND, INCOMPLETE = 0, 1, 2


class ScanIncomplete(Exception):
    """The scan has no result; the message names the cause."""


def vulnerabilities(requirements: Path, *options: str) -> list[str]:
    """The known vulnerabilities of these packages, one line each; raises ScanIncomplete if a package has no answer."""
    command = [sys.executable, "-m", "pip_audit", "--disable-pip", "--progress-spinner=off", "--format=json", *options]
    done = subprocess.run(
        [*command, "--requirement", str(requirements)], capture_output=True, text=True, timeout=300, check=False
    )
    try:
        packages = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError):
        lines = (done.stderr or done.stdout).strip().splitlines() or ["no output"]
        raise ScanIncomplete(f"pip-audit: {lines[-1][:300]}") from None
    skipped = [package["name"] for package in packages if "skip_reason" in package]
    if skipped or not packages:
        raise ScanIncomplete(f"the database does not answer for {', '.join(skipped) or 'any package'}")
    return [
        f"{package['name']} {package['version']}: {found['id']}, fixed in {', '.join(found['fix_versions']) or 'no release'}"
        for package in packages
        for found in package["vulns"]
    ]


def scan_packages() -> list[str]:
    """The known vulnerabilities of the locked packages; raises ScanIncomplete."""
    name, version = KNOWN_VULNERABLE
    with tempfile.TemporaryDirectory() as folder:
        canary = Path(folder) / "canary.txt"
        canary.write_text(f"{name}=={version}\n", encoding="utf-8")
        if not vulnerabilities(canary, "--no-deps"):
            raise ScanIncomplete(f"the database reports nothing for {name} {version}, which has known vulnerabilities")
    return vulnerabilities(LOCKED, "--require-hashes")


def scan_image() -> int | None:
    """The exit code of the first image scanner that is installed; None if there is none."""
    for name, arguments in SCANNERS.items():
        program = shutil.which(name)
        if program is not None:
            return subprocess.run([program, *arguments], check=False).returncode
    return None


def main() -> int:
    """Scan the packages, and the image where a scanner is installed; returns the exit code."""
    try:
        found = scan_packages()
    except (ScanIncomplete, subprocess.TimeoutExpired) as exc:
        sys.stderr.write(f"SCAN INCOMPLETE: {exc}\n")
        return INCOMPLETE
    sys.stdout.write("".join(f"{line}\n" for line in found) or "No known vulnerability in requirements/runtime.txt\n")
    image = scan_image()
    if image is None:
        sys.stderr.write(f"NOT RUN: a scan of {IMAGE}, since neither {' nor '.join(SCANNERS)} is installed\n")
    elif image:
        return FOUND
    return FOUND if found else OK


if __name__ == "__main__":
    sys.exit(main())
