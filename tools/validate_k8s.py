"""`python -m tools.validate_k8s`: validates the rendered manifests.

kustomize renders the base, both overlays and each overlay with each component. kubernetes-validate checks the result against
the schemas of the oldest and the three newest Kubernetes versions; checkov checks the overlays. Prints one line per check.
Exit code 1 if a check fails, 3 if a tool is not available.
"""

import copy
import json
import re
import subprocess
import sys
import tempfile
import venv
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from tools.debian import PackageUnavailable
from tools.kustomize import Rendered, find_inconsistencies, find_kustomize, render_all
from tools.manifests import FOLDER, OLDEST_MINOR, ROOT

LOCK: Final = ROOT / "requirements" / "k8s.txt"
ENVIRONMENT: Final = ROOT / ".venv" / "k8s"
CHECKOV: Final = FOLDER / "checkov.yaml"
_NEWEST_COUNT: Final = 3


@dataclass(frozen=True, slots=True)
class Result:
    """The result of a check; `error` is empty if it passed."""

    check: str
    error: str = ""

    def __str__(self) -> str:
        return f"{'not ok' if self.error else 'ok'}  {self.check}" + (f"\n{self.error}" if self.error else "")


def main() -> int:
    """Run all checks, print the results, and return the exit code."""
    try:
        program = find_kustomize()
        tools = environment()
    except PackageUnavailable as exc:
        print(exc, file=sys.stderr)
        return 3
    failed = 0
    for result in run_checks(program, tools):
        print(result, flush=True)
        failed += bool(result.error)
    return 1 if failed else 0


def environment() -> Path:
    """The bin folder of the environment with the locked tools, rebuilt if the lock is newer; raises PackageUnavailable."""
    stamp, programs = ENVIRONMENT / ".stamp", ENVIRONMENT / "bin"
    if stamp.exists() and stamp.stat().st_mtime >= LOCK.stat().st_mtime:
        return programs
    venv.create(ENVIRONMENT, clear=True, with_pip=True)
    pip: list[str | Path] = [
        programs / "python",
        "-m",
        "pip",
        "install",
        "-q",
        "--disable-pip-version-check",
        "--require-hashes",
    ]
    done = subprocess.run([*pip, "-r", LOCK], check=False, stderr=subprocess.PIPE, text=True)
    if done.returncode:
        raise PackageUnavailable(f"the tools of requirements/k8s.txt cannot be installed: {done.stderr[-500:]}")
    stamp.touch()
    return programs


def versions() -> list[str]:
    """The oldest supported Kubernetes version and the three newest; that of the locked kubernetes-validate is the newest."""
    (minor,) = re.findall(r"^kubernetes-validate==1\.(\d+)\.", LOCK.read_text(encoding="utf-8"), re.MULTILINE)
    return [f"1.{number}" for number in (OLDEST_MINOR, *range(int(minor) - _NEWEST_COUNT + 1, int(minor) + 1))]


def run_checks(program: Path, tools: Path) -> Iterator[Result]:
    """Run all checks in sequence."""
    try:
        all_rendered = list(render_all(program))
    except subprocess.CalledProcessError as exc:
        yield Result("kustomize build", exc.stderr)
        return
    for rendered in all_rendered:
        kinds = ", ".join(item["kind"] for item in rendered.objects)
        yield Result(f"kustomize build {rendered.name}: {kinds}", "\n".join(find_inconsistencies(rendered)))
    for version in versions():
        for rendered in all_rendered:
            yield validate_schema(tools, version, rendered)
    yield validate_validator(tools, all_rendered[0])
    yield run_checkov(tools, [rendered for rendered in all_rendered if rendered.name.startswith("overlays/")])


def validate_schema(tools: Path, version: str, rendered: Rendered) -> Result:
    """Validate the core objects against the schema of one Kubernetes version; unknown fields are errors."""
    objects = rendered.core_objects
    output = validate(tools, version, objects)
    return Result(f"kubernetes-validate --strict {version}: {rendered.name}, {len(objects)} objects", output)


def validate_validator(tools: Path, rendered: Rendered) -> Result:
    """Verify that kubernetes-validate reports a misspelt field, so that a validator that never fails is detected."""
    misspelt = copy.deepcopy(rendered.of("Deployment"))
    misspelt[0]["spec"]["minReadySecond"] = 1
    output = validate(tools, versions()[-1], misspelt)
    return Result(
        "kubernetes-validate reports a misspelt field", "" if "minReadySecond" in output else "no error reported"
    )


def validate(tools: Path, version: str, objects: Iterable[Any]) -> str:
    """The output of kubernetes-validate; empty if the objects are valid."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "rendered.yaml"
        file.write_text(yaml.safe_dump_all(objects), encoding="utf-8")
        command: list[str | Path] = [tools / "kubernetes-validate", "--quiet", "--strict", "-k", version, file]
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=120)
    output = (done.stdout + done.stderr).strip()
    return output or f"exit code {done.returncode} without output" if done.returncode else ""


def run_checkov(tools: Path, overlays: Iterable[Rendered]) -> Result:
    """Run checkov on the overlays with k8s/checkov.yaml, which skips the explained findings."""
    with tempfile.TemporaryDirectory() as folder:
        for number, rendered in enumerate(overlays):
            text = yaml.safe_dump_all(rendered.objects)
            (Path(folder) / f"{number}.yaml").write_text(text, encoding="utf-8")
        command: list[str | Path] = [
            tools / "checkov",
            "--config-file",
            CHECKOV,
            "--output",
            "json",
            "--directory",
            folder,
        ]
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=300)
    try:
        report = json.loads(done.stdout)
        passed, failed = report["summary"]["passed"], report["results"]["failed_checks"]
    except (ValueError, KeyError, TypeError):
        return Result("checkov", f"no report: {done.stdout[-500:]}{done.stderr[-500:]}")
    errors = [f"{finding['check_id']} {finding['check_name']}: {finding['resource']}" for finding in failed]
    if not passed or bool(done.returncode) != bool(errors):
        errors.append(f"{passed} checks passed, exit {done.returncode}")
    return Result(f"checkov: {passed} checks passed", "\n".join(errors))


if __name__ == "__main__":
    sys.exit(main())
