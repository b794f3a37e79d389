"""Prepares Autobahn's `wstest`, once per machine. It exists for Python 2.7 only.

Two ways: a virtual environment of an installed Python 2.7; or a minimal Debian 11 in a folder, entered by chroot, which needs
root, some minutes and 700 MB. Both are kept in a cache folder, whose name contains a digest of the installed versions.
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
VIRTUALENV_PINS: Final = (
    "virtualenv==20.15.1",
    "distlib==0.4.4",
    "filelock==3.19.1",
    "platformdirs==2.6.2",
    "six==1.17.0",
)
"""The last release that creates environments for Python 2.7, pip and setuptools included, and its dependencies."""
VIRTUALENV_PYTHON: Final = "3.9"
"""The Python 3 of Debian 11; packages for it also run on later versions."""

DEBIAN: Final = "bullseye"
"""The last Debian with Python 2.7."""
DEBIAN_PACKAGES: Final = (
    "ca-certificates", "python2.7", "python2.7-dev", "python3", "python3-distutils",
    "gcc", "libc6-dev", "libffi-dev", "libssl-dev",
)  # fmt: skip

WAYS: Final = ("python2", "chroot")
STEP_SECONDS: Final = 900

# wstest listens on every address, on the port of its URL, which it also compares with the Host header. This launcher makes it
# listen on loopback, on any free port, and print that port; its URL names the port of the rewriting proxy.
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


class WstestUnavailable(Exception):
    """wstest cannot be prepared on this machine; the message names the cause."""


@dataclass(frozen=True, slots=True)
class Wstest:
    """A wstest that can be started."""

    python: tuple[str, ...]
    """The command that starts its Python."""
    root: Path
    """The folder that is its root directory."""
    work: Path
    """The folder of its specification and reports."""

    def command(self, mode: str, specification: Path) -> tuple[str, ...]:
        """The command for a mode of wstest; the specification is a file below `work`."""
        return (*self.python, "-E", "-u", "-c", _LAUNCH, "-m", mode, "-s", self.inside(specification), "-u", "0")

    def inside(self, path: Path) -> str:
        """A path below `work`, as wstest sees it."""
        return f"/{path.relative_to(self.root)}"


def cache_folder() -> Path:
    """The folder that keeps it between runs."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "realtime-relay"


def obtain(cache: Path, ways: tuple[str, ...] = WAYS) -> Wstest:
    """Prepare wstest in the first way that works, or reuse it; raises WstestUnavailable with the cause for each way."""
    makers = {"python2": _by_python2, "chroot": _by_chroot}
    digest = hashlib.sha256(PINS.read_bytes() + repr((VIRTUALENV_PINS, DEBIAN, DEBIAN_PACKAGES)).encode()).hexdigest()[
        :12
    ]
    reasons = []
    for way in ways:
        folder = cache.absolute() / f"wstest-{way}-{digest}"
        try:
            return makers[way](folder)
        except (WstestUnavailable, PackageUnavailable) as exc:
            reasons.append(f"{way}: {exc}")
    raise WstestUnavailable("; ".join(reasons))


# -- an installed Python 2.7 -------------------------------------------------------------------------------------------


def _by_python2(folder: Path) -> Wstest:
    python = folder / "env/bin/python"
    stamp = folder / ".complete"
    if not (stamp.exists() and _is_usable_python2(str(python))):
        found = next(filter(_is_usable_python2, _python2_candidates()), None)
        if found is None:
            raise WstestUnavailable("no Python 2.7 is installed")
        _recreate(folder)
        _fetch_virtualenv(folder / "virtualenv")
        environment = {**os.environ, "PYTHONPATH": str(folder / "virtualenv")}
        _create_environment((sys.executable,), found, folder / "env", folder / "seeds", environment)
        _install((str(python),), PINS, os.environ)
        stamp.touch()
    return Wstest((str(python),), Path("/"), folder / "work")


def _python2_candidates() -> Iterator[str]:
    for name in ("python2.7", "python2"):
        if found := shutil.which(name):
            yield found
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    yield from sorted(str(path) for path in pyenv.glob("versions/2.7.*/bin/python2.7"))


def _is_usable_python2(python: str) -> bool:
    """Whether it starts and supports TLS: a `python2.7` on PATH may be a shim of pyenv that only prints an error."""
    check = "import ssl, sys, zlib; sys.exit(sys.version_info[:2] != (2, 7))"
    try:
        return subprocess.run([python, "-c", check], capture_output=True, check=False, timeout=120).returncode == 0
    except (OSError, subprocess.SubprocessError):
        return False


# -- Debian 11 in a folder ---------------------------------------------------------------------------------------------


def _by_chroot(folder: Path) -> Wstest:
    root = folder / "debian"
    enter = ("chroot", str(root))
    stamp = folder / ".complete"
    if os.geteuid() != 0:
        raise WstestUnavailable("root is required")
    if not stamp.exists():
        debootstrap = unpack("debootstrap", "usr/sbin/debootstrap")
        _recreate(folder)
        options = ("--variant=minbase", f"--include={','.join(DEBIAN_PACKAGES)}")
        # A mount namespace of its own: an interrupted debootstrap must not leave mounts behind.
        _run(
            ("unshare", "--mount", "--", "sh", str(debootstrap), *options, DEBIAN, str(root)),
            {**os.environ, "DEBOOTSTRAP_DIR": str(debootstrap.parent.parent / "share/debootstrap")},
        )
        for name in ("etc/resolv.conf", "etc/hosts", "etc/ssl/certs/ca-certificates.crt"):
            # Packages are fetched with the network settings of this machine.
            shutil.copyfile(Path("/") / name, root / name)
        _fetch_virtualenv(root / "opt/virtualenv")
        shutil.copyfile(PINS, root / "opt/wstest.txt")
        environment = _chroot_environment()
        seeded = {**environment, "PYTHONPATH": "/opt/virtualenv"}
        _create_environment((*enter, "python3"), "python2.7", Path("/opt/env"), Path("/opt/seeds"), seeded)
        _install((*enter, "/opt/env/bin/python"), Path("/opt/wstest.txt"), environment)
        stamp.touch()
    return Wstest((*enter, "/opt/env/bin/python"), root, root / "opt/work")


def _chroot_environment() -> dict[str, str]:
    """The variables for package downloads only: the others name files that do not exist in the chroot."""
    names = ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_TRUSTED_HOST", "HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY")
    kept = {name: value for name, value in os.environ.items() if name.upper() in names}
    fixed = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root", "LANG": "C.UTF-8"}
    return kept | fixed | {"PIP_CERT": "/etc/ssl/certs/ca-certificates.crt"}


# -- both ways ---------------------------------------------------------------------------------------------------------


def _recreate(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)


def _fetch_virtualenv(folder: Path) -> None:
    pip = (sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check")
    options = ("--target", str(folder), "--python-version", VIRTUALENV_PYTHON, "--only-binary=:all:")
    _run((*pip, "--no-deps", *options, *VIRTUALENV_PINS), os.environ)


def _create_environment(
    python3: tuple[str, ...], python2: str, folder: Path, seeds: Path, environment: Mapping[str, str]
) -> None:
    options = ("-q", "--no-download", "--app-data", str(seeds))
    _run((*python3, "-m", "virtualenv", *options, "-p", python2, str(folder)), environment)


def _install(python: tuple[str, ...], pins: Path, environment: Mapping[str, str]) -> None:
    _run((*python, "-E", "-W", "ignore", "-m", "pip", "install", "-q", "--no-deps", "-r", str(pins)), environment)


def _run(command: tuple[str, ...], environment: Mapping[str, str]) -> None:
    """Run one step of the preparation; its output is shown only if it fails."""
    print(f"  {' '.join(command)[:120]}", flush=True)  # noqa: T201 - a command line
    try:
        subprocess.run(
            command, env=environment, cwd="/", capture_output=True, text=True, timeout=STEP_SECONDS, check=True
        )
    except subprocess.CalledProcessError as exc:
        lines = (exc.stderr or exc.stdout).strip().splitlines()[-5:]
        raise WstestUnavailable(f"{command[0]} exited with {exc.returncode}: {' | '.join(lines)}") from None
    except (OSError, subprocess.SubprocessError) as exc:
        raise WstestUnavailable(f"{command[0]}: {exc}") from None
