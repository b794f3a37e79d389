"""`python -m tools.validate_k8s`: the manifests as a cluster would see them.

kustomize renders the base, both overlays and each overlay with each component; kubernetes-validate holds the result against
the three newest Kubernetes versions; checkov looks at the overlays. A line for each check; exit 1 if one fails, 3 if a tool
cannot be had.
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
from tools.kustomize import Rendered, kustomize, mistakes, render_all
from tools.manifests import FOLDER, ROOT

LOCK: Final = ROOT / "requirements" / "k8s.txt"
ENVIRONMENT: Final = ROOT / ".venv" / "k8s"
CHECKOV: Final = FOLDER / "checkov.yaml"
_NEWEST: Final = 3


@dataclass(frozen=True, slots=True)
class Result:
    """A check and what it found; nothing is right."""

    what: str
    wrong: str = ""

    def __str__(self) -> str:
        return f"{'not ok' if self.wrong else 'ok'}  {self.what}" + (f"\n{self.wrong}" if self.wrong else "")


def main() -> int:
    """Check everything, and say so."""
    try:
        program = kustomize()
        tools = environment()
    except PackageUnavailable as exc:
        print(exc, file=sys.stderr)
        return 3
    failed = 0
    for result in check(program, tools):
        print(result, flush=True)
        failed += bool(result.wrong)
    return 1 if failed else 0


def environment() -> Path:
    """The folder of the locked tools' programs, made when the lock is newer; raises NotToBeHad."""
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
    """The three newest Kubernetes versions: the locked kubernetes-validate has the number of the newest."""
    (minor,) = re.findall(r"^kubernetes-validate==1\.(\d+)\.", LOCK.read_text(encoding="utf-8"), re.MULTILINE)
    return [f"1.{int(minor) - back}" for back in reversed(range(_NEWEST))]


def check(program: Path, tools: Path) -> Iterator[Result]:
    """Every check in turn."""
    try:
        everything = list(render_all(program))
    except subprocess.CalledProcessError as exc:
        yield Result("kustomize build", exc.stderr)
        return
    for rendered in everything:
        kinds = ", ".join(one["kind"] for one in rendered.objects)
        yield Result(f"kustomize build {rendered.name}: {kinds}", "\n".join(mistakes(rendered)))
    for version in versions():
        for rendered in everything:
            yield validated(tools, version, rendered)
    yield noticed(tools, everything[0])
    yield checked(tools, [rendered for rendered in everything if rendered.name.startswith("overlays/")])


def validated(tools: Path, version: str, rendered: Rendered) -> Result:
    """What every cluster knows, held against one version's schema; unknown fields are mistakes."""
    objects = rendered.plain
    said = validate(tools, version, objects)
    return Result(f"kubernetes-validate --strict {version}: {rendered.name}, {len(objects)} objects", said)


def noticed(tools: Path, rendered: Rendered) -> Result:
    """A check that can never fail shows nothing: a misspelt field has to be found."""
    wrong = copy.deepcopy(rendered.of("Deployment"))
    wrong[0]["spec"]["minReadySecond"] = 1
    said = validate(tools, versions()[-1], wrong)
    return Result("kubernetes-validate notices a misspelt field", "" if "minReadySecond" in said else "it does not")


def validate(tools: Path, version: str, objects: Iterable[Any]) -> str:
    """What kubernetes-validate has to say; nothing if all is right."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "rendered.yaml"
        file.write_text(yaml.safe_dump_all(objects), encoding="utf-8")
        command: list[str | Path] = [tools / "kubernetes-validate", "--quiet", "--strict", "-k", version, file]
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=120)
    said = (done.stdout + done.stderr).strip()
    return said or "it failed and does not say why" if done.returncode else ""


def checked(tools: Path, overlays: Iterable[Rendered]) -> Result:
    """Checkov's findings in the overlays, without those that k8s/checkov.yaml explains."""
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
        passed, found = report["summary"]["passed"], report["results"]["failed_checks"]
    except (ValueError, KeyError, TypeError):
        return Result("checkov", f"no report: {done.stdout[-500:]}{done.stderr[-500:]}")
    wrong = [f"{one['check_id']} {one['check_name']}: {one['resource']}" for one in found]
    if not passed or bool(done.returncode) != bool(wrong):
        wrong.append(f"{passed} checks passed, exit {done.returncode}")
    return Result(f"checkov: {passed} checks passed", "\n".join(wrong))


if __name__ == "__main__":
    sys.exit(main())
