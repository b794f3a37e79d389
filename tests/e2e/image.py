"""Steps about what is built: the compose file is accepted, and an image can be made again."""

import json
import shutil
from typing import Final

from tests.e2e.engine import ROOT, must
from tests.e2e.stage import Stage, check

PROFILES: Final = ("demo", "observability", "tls", "*")
_MIB: Final = 1 << 20


async def every_profile_is_accepted(stage: Stage) -> str:
    """`docker compose config -q` says nothing."""
    (stage.folder / "tls").mkdir()
    for profile in ("", *PROFILES):
        words = ("--profile", profile) if profile else ()
        said = await stage.compose(*words, "config", "--quiet")
        check(not said.strip(), f"docker compose config says of profile {profile!r}: {said}")
    return f"{len(PROFILES)} profiles and none"


async def two_builds_are_the_same(stage: Stage) -> str:
    """A checkout with another umask and other times gives the same layers."""
    other = stage.folder / "checkout"
    shutil.copytree(ROOT / "service", other / "service", copy_function=shutil.copyfile)
    shutil.copytree(ROOT / "requirements", other / "requirements", copy_function=shutil.copyfile)
    for name in ("Dockerfile", ".dockerignore"):
        shutil.copyfile(ROOT / name, other / name)
    for path in (other, *other.rglob("*")):
        path.chmod(0o700 if path.is_dir() else 0o600)
    layers = []
    size = 0
    for source, tag in ((str(ROOT), "realtime-relay:local"), (str(other), f"{stage.compose.project}:again")):
        build = ("docker", "build", "--quiet", "--no-cache", "--build-arg", f"BASE={stage.base}", "--tag", tag, source)
        await must(*build, seconds=600)
        found = json.loads(await must("docker", "image", "inspect", tag))[0]
        layers.append(found["RootFS"]["Layers"])
        size = found["Size"]
    stage.stand_ins.append(f"{stage.compose.project}:again")
    base = json.loads(await must("docker", "image", "inspect", stage.base))[0]
    check(layers[0] == layers[1], f"two builds differ: {layers}")
    own = len(layers[0]) - len(base["RootFS"]["Layers"])
    return f"{own} layers above the base, {(size - base['Size']) / _MIB:.0f} MiB of {size / _MIB:.0f} MiB"
