"""Steps about the build: compose accepts the file, and the image is reproducible."""

import json
import shutil
from typing import Final

from tests.e2e.deployment import Deployment, check
from tests.e2e.engine import ROOT, run_checked

PROFILES: Final = ("demo", "observability", "tls", "*")
_MIB: Final = 1 << 20


async def compose_accepts_every_profile(deployment: Deployment) -> str:
    """`docker compose config --quiet` reports nothing for any profile."""
    (deployment.folder / "tls").mkdir()
    for profile in ("", *PROFILES):
        arguments = ("--profile", profile) if profile else ()
        output = await deployment.compose(*arguments, "config", "--quiet")
        check(not output.strip(), f"docker compose config reports for profile {profile!r}: {output}")
    return f"{len(PROFILES)} profiles and none"


async def builds_are_reproducible(deployment: Deployment) -> str:
    """A checkout with another umask and other timestamps builds the same layers."""
    other = deployment.folder / "checkout"
    shutil.copytree(ROOT / "service", other / "service", copy_function=shutil.copyfile)
    shutil.copytree(ROOT / "docs/runbooks", other / "docs/runbooks", copy_function=shutil.copyfile)
    shutil.copytree(ROOT / "requirements", other / "requirements", copy_function=shutil.copyfile)
    (other / "tools").mkdir()
    for name in ("Dockerfile", ".dockerignore", "tools/install_command.py"):
        shutil.copyfile(ROOT / name, other / name)
    for path in (other, *other.rglob("*")):
        path.chmod(0o700 if path.is_dir() else 0o600)
    layers = []
    size = 0
    for source, tag in ((str(ROOT), "realtime-relay:local"), (str(other), f"{deployment.compose.project}:again")):
        options = ("--quiet", "--no-cache", "--build-arg", f"BASE={deployment.base}", "--tag", tag)
        await run_checked("docker", "build", *options, source, seconds=600)
        found = json.loads(await run_checked("docker", "image", "inspect", tag))[0]
        layers.append(found["RootFS"]["Layers"])
        size = found["Size"]
    deployment.created_images.append(f"{deployment.compose.project}:again")
    base = json.loads(await run_checked("docker", "image", "inspect", deployment.base))[0]
    check(layers[0] == layers[1], f"two builds differ: {layers}")
    own = len(layers[0]) - len(base["RootFS"]["Layers"])
    return f"{own} layers above the base, {(size - base['Size']) / _MIB:.0f} MiB of {size / _MIB:.0f} MiB"
