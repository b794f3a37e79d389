"""Makes Autobahn's `wstest` runnable, once for each machine. It exists for Python 2.7 only.

Two ways: a Python 2.7 of this machine, in a virtual environment; or a small Debian 11 in a folder, entered by chroot, which
needs root, some minutes and 700 MB. Both are kept in a cache folder, whose name carries a digest of what is installed.
"""

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tools.debian import PackageUnavailable, unpack

PINS: Final = Path(__file__).with_name("wstest.txt")
VIRTUALENV: Final = ("virtualenv==20.15.1", "distlib==0.4.4", "filelock==3.19.1", "platformdirs==2.6.2", "six==1.17.0")
"""The last release that makes environments for Python 2.7, pip and setuptools included, and what it depends on."""
VIRTUALENV_PYTHON: Final = "3.9"
"""The Python 3 of Debian 11; what is fetched for it runs on later ones, too."""

DEBIAN: Final = "bullseye"
"""The last Debian with Python 2.7."""
DEBIAN_PACKAGES: Final = (
    "ca-certificates", "python2.7", "python2.7-dev", "python3", "python3-distutils",
    "gcc", "libc6-dev", "libffi-dev", "libssl-dev",
)  # fmt: skip

WAYS: Final = ("python2", "chroot")
STEP_SECONDS: Final = 900

# wstest listens on every address, on the port of its URL, which it also compares with the Host header. Here it listens on
# loopback, on any free port, and says which; its URL names the port of the front that callers know.
_LAUNCH: Final = """
import sys
from autobahntestsuite.wstest import run
from twisted.internet import reactor
listen_anywhere = reactor.listenTCP
def listen_on_loopback(port, factory, backlog=50, interface=""):
    listener = listen_anywhere(0, factory, backlog, "127.0.0.1")
    print("Listening on port %d" % listener.getHost().port)
    sys.stdout.flush()
    return listener
reactor.listenTCP = listen_on_loopback
run()
"""


class NotRunnable(Exception):
    """wstest cannot be had on this machine; the message says why."""


@dataclass(frozen=True, slots=True)
class Wstest:
    """A wstest that can be started."""

    python: tuple[str, ...]
    """How its Python is started."""
    root: Path
    """The folder that it sees as `/`."""
    work: Path
    """Where it reads its specification and leaves its reports."""

    def command(self, mode: str, specification: Path) -> tuple[str, ...]:
        """The command line for a mode of wstest; the specification is a file below `work`."""
        return (*self.python, "-E", "-u", "-c", _LAUNCH, "-m", mode, "-s", self.inside(specification), "-u", "0")

    def inside(self, path: Path) -> str:
        """A path below `work`, as wstest sees it."""
        return f"/{path.relative_to(self.root)}"


def cache_folder() -> Path:
    """Where it is kept between runs."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "realtime-relay"


def obtain(cache: Path, ways: tuple[str, ...] = WAYS) -> Wstest:
    """A runnable wstest, made if it is not there yet; raises NotRunnable with what each way lacks."""
    makers = {"python2": _by_python2, "chroot": _by_chroot}
    digest = hashlib.sha256(PINS.read_bytes() + repr((VIRTUALENV, DEBIAN, DEBIAN_PACKAGES)).encode()).hexdigest()[:12]
    reasons = []
    for way in ways:
        folder = cache.absolute() / f"wstest-{way}-{digest}"
        try:
            return makers[way](folder)
        except (NotRunnable, PackageUnavailable) as exc:
            reasons.append(f"{way}: {exc}")
    raise NotRunnable("; ".join(reasons))


# -- a Python 2.7 of this machine --------------------------------------------------------------------------------------


def _by_python2(folder: Path) -> Wstest:
    python = folder / "env/bin/python"
    stamp = folder / ".complete"
    if not (stamp.exists() and _is_python2(str(python))):
        found = next(filter(_is_python2, _python2_candidates()), None)
        if found is None:
            raise NotRunnable("no Python 2.7 is installed")
        _start_afresh(folder)
        _fetch_virtualenv(folder / "virtualenv")
        environment = {**os.environ, "PYTHONPATH": str(folder / "virtualenv")}
        _make_environment((sys.executable,), found, folder / "env", folder / "seeds", environment)
        _install((str(python),), PINS, os.environ)
        stamp.touch()
    return Wstest((str(python),), Path("/"), folder / "work")


def _python2_candidates() -> Iterator[str]:
    for name in ("python2.7", "python2"):
        if found := shutil.which(name):
            yield found
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    yield from sorted(str(path) for path in pyenv.glob("versions/2.7.*/bin/python2.7"))


def _is_python2(python: str) -> bool:
    """Whether it starts and can do TLS. A name on PATH proves nothing: pyenv has a `python2.7` that only complains."""
    check = "import ssl, sys, zlib; sys.exit(sys.version_info[:2] != (2, 7))"
    try:
        return subprocess.run([python, "-c", check], capture_output=True, check=False, timeout=20).returncode == 0
    except (OSError, subprocess.SubprocessError):
        return False


# -- Debian 11 in a folder ---------------------------------------------------------------------------------------------


def _by_chroot(folder: Path) -> Wstest:
    root = folder / "debian"
    enter = ("chroot", str(root))
    stamp = folder / ".complete"
    if os.geteuid() != 0:
        raise NotRunnable("it needs root")
    if not stamp.exists():
        debootstrap = unpack("debootstrap", "usr/sbin/debootstrap")
        _start_afresh(folder)
        options = ("--variant=minbase", f"--include={','.join(DEBIAN_PACKAGES)}")
        # Mounts of its own: what debootstrap mounts in there must not stay behind if it is interrupted.
        _run(
            ("unshare", "--mount", "--", "sh", str(debootstrap), *options, DEBIAN, str(root)),
            {**os.environ, "DEBOOTSTRAP_DIR": str(debootstrap.parent.parent / "share/debootstrap")},
        )
        for name in ("etc/resolv.conf", "etc/hosts", "etc/ssl/certs/ca-certificates.crt"):
            shutil.copyfile(Path("/") / name, root / name)  # so that packages are fetched as this machine fetches them
        _fetch_virtualenv(root / "opt/virtualenv")
        shutil.copyfile(PINS, root / "opt/wstest.txt")
        environment = _environment_in_there()
        seeded = {**environment, "PYTHONPATH": "/opt/virtualenv"}
        _make_environment((*enter, "python3"), "python2.7", Path("/opt/env"), Path("/opt/seeds"), seeded)
        _install((*enter, "/opt/env/bin/python"), Path("/opt/wstest.txt"), environment)
        stamp.touch()
    return Wstest((*enter, "/opt/env/bin/python"), root, root / "opt/work")


def _environment_in_there() -> dict[str, str]:
    """Of this machine's environment only how packages are reached: the rest names files that do not exist in there."""
    names = ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_TRUSTED_HOST", "HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY")
    kept = {name: value for name, value in os.environ.items() if name.upper() in names}
    fixed = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root", "LANG": "C.UTF-8"}
    return kept | fixed | {"PIP_CERT": "/etc/ssl/certs/ca-certificates.crt"}


# -- what both do ------------------------------------------------------------------------------------------------------


def _start_afresh(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)


def _fetch_virtualenv(folder: Path) -> None:
    pip = (sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check")
    options = ("--target", str(folder), "--python-version", VIRTUALENV_PYTHON, "--only-binary=:all:")
    _run((*pip, "--no-deps", *options, *VIRTUALENV), os.environ)


def _make_environment(
    python3: tuple[str, ...], python2: str, folder: Path, seeds: Path, environment: Mapping[str, str]
) -> None:
    options = ("-q", "--no-download", "--app-data", str(seeds))
    _run((*python3, "-m", "virtualenv", *options, "-p", python2, str(folder)), environment)


def _install(python: tuple[str, ...], pins: Path, environment: Mapping[str, str]) -> None:
    _run((*python, "-E", "-W", "ignore", "-m", "pip", "install", "-q", "--no-deps", "-r", str(pins)), environment)


def _run(command: tuple[str, ...], environment: Mapping[str, str]) -> None:
    """Run a step of the setting up; its output is shown only if it fails."""
    print(f"  {' '.join(command)[:120]}", flush=True)  # noqa: T201 - a command line
    try:
        subprocess.run(
            command, env=environment, cwd="/", capture_output=True, text=True, timeout=STEP_SECONDS, check=True
        )
    except subprocess.CalledProcessError as exc:
        lines = (exc.stderr or exc.stdout).strip().splitlines()[-5:]
        raise NotRunnable(f"{command[0]} ended with {exc.returncode}: {' | '.join(lines)}") from None
    except (OSError, subprocess.SubprocessError) as exc:
        raise NotRunnable(f"{command[0]}: {exc}") from None
