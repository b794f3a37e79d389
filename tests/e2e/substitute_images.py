"""Substitutes for images that cannot be pulled: built from Debian packages, under the same name.

They test the compose file: commands, mounts, networks, health checks. They are not the pinned versions, and the test reports
that.
"""

import tempfile
from pathlib import Path
from typing import Final

from tests.e2e.engine import run, run_checked

# The paths and programs of each image that the compose file uses.
_RECIPES: Final = {
    "haproxy": 'RUN ["apt-get", "install", "-y", "-qq", "--no-install-recommends", "haproxy", "busybox-static"]\n',
    "prom/prometheus": (
        'RUN ["apt-get", "install", "-y", "-qq", "--no-install-recommends", "prometheus", "busybox-static"]\n'
        'RUN ["install", "-d", "-o", "65534", "-g", "65534", "/prometheus"]\n'
        'USER 65534:65534\nWORKDIR /prometheus\nENTRYPOINT ["prometheus"]\n'
    ),
    "prom/alertmanager": (
        'RUN ["apt-get", "install", "-y", "-qq", "--no-install-recommends", "prometheus-alertmanager", "busybox-static"]\n'
        'RUN ["install", "-d", "-o", "65534", "-g", "65534", "/alertmanager"]\n'
        'USER 65534:65534\nWORKDIR /alertmanager\nENTRYPOINT ["prometheus-alertmanager"]\n'
    ),
}
_PULL_SECONDS: Final = 120


async def provide(image: str, base: str) -> str:
    """Provide an image: present, pulled or built; returns which."""
    label = await run("docker", "image", "inspect", "--format", '{{index .Config.Labels "substitute"}}', image)
    if label[0] == 0 and "yes" not in label[1]:
        return f"{image} was present"
    code, _ = await run("docker", "pull", "--quiet", image, seconds=_PULL_SECONDS)
    if code == 0:
        return f"{image} was pulled"
    recipe = _RECIPES[image.partition(":")[0]]
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "Dockerfile").write_text(
            f"FROM {base}\nLABEL substitute=yes\n"
            'ENV DEBIAN_FRONTEND=noninteractive\nRUN ["apt-get", "update", "-qq"]\n'
            + recipe.replace("USER", 'RUN ["ln", "-s", "/bin/busybox", "/usr/local/bin/wget"]\nUSER', 1)
            + ("" if "USER" in recipe else 'RUN ["ln", "-s", "/bin/busybox", "/usr/local/bin/wget"]\n'),
            encoding="utf-8",
        )
        await run_checked("docker", "build", "--quiet", "--tag", image, folder, seconds=600)
    return f"SUBSTITUTE: {image} cannot be pulled; Debian's package runs under its name"
