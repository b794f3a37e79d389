"""The Kubernetes ConfigMap, and the generated parts of files that are edited by hand.

Those parts are the grace periods and the version, which are single values, and the table of the runbooks' index, which is
between two markers. Only they are replaced.
"""

import re
from pathlib import Path
from typing import Final

import yaml

from service.failures.reference import render_table
from service.relay.grace import grace_seconds
from service.settings import SETTINGS, Setting, Settings
from service.settings.reference import SOURCE
from service.version import __version__

ROOT: Final = Path(__file__).resolve().parents[1]
BASE: Final = "k8s/base/deployment.yaml"
DEV: Final = "k8s/overlays/dev/deployment.yaml"
KUSTOMIZATION: Final = "k8s/base/kustomization.yaml"
DEV_KUSTOMIZATION: Final = "k8s/overlays/dev/kustomization.yaml"
SETTINGS_ENV: Final = "k8s/base/settings.env"
COMPOSE: Final = "docker-compose.yml"
RUNBOOKS: Final = "docs/runbooks/README.md"
TABLE_BEGIN: Final = "<!-- generated from service/failures/catalogue.py by `make docs` -->"
TABLE_END: Final = "<!-- end of the generated table -->"

SECRETS: Final = "/run/secrets/realtime-relay"
KUBERNETES: Final = {
    "OPENAI_API_KEY_FILE": f"{SECRETS}/openai-api-key",
    "RELAY_CLIENT_TOKENS_FILE": f"{SECRETS}/client-tokens",
    "RELAY_ACCESS": "tokens",
    "RELAY_MAX_SESSIONS": "1000",  # docs/capacity.md
    # Sessions of up to nine minutes end by themselves. With what follows the drain, this makes a grace period of 600 s,
    # which is how long cluster autoscalers wait for a pod.
    "RELAY_DRAIN_SECONDS": "570",
    "RELAY_LOG_FORMAT": "json",
}
ELSEWHERE: Final = {
    "OPENAI_API_KEY": "a secret",
    "RELAY_CLIENT_TOKENS": "a secret",
    "RELAY_OPERATOR_TOKEN": "a secret",
    "RELAY_SAFETY_KEY": "a secret",
    "RELAY_UPSTREAM_PROXY": "can hold a password",
    "RELAY_HOST": "set in the image",
    "RELAY_INTERNAL_HOST": "set in the image",
    "RELAY_PORT": "set in the manifests",
    "RELAY_INTERNAL_PORT": "set in the manifests",
    "RELAY_ENV": "the image has no .env files",
}
"""The settings that are not in the ConfigMap, with the reason."""


def read(name: str) -> str:
    """The text of a file of the repository."""
    return (ROOT / name).read_text(encoding="utf-8")


def render_settings_env() -> str:
    """`k8s/base/settings.env`: every setting of the ConfigMap. One that KUBERNETES does not set is a comment."""
    lines = [
        f"# The ConfigMap. Generated from {SOURCE} and tools/generated.py by `make docs`. An overlay",
        "# changes a value with configMapGenerator and `behavior: merge`. Secrets are files: docs/deployment.md.",
    ]
    for setting in SETTINGS:
        names = [name for name in (setting.name, setting.file_name) if name and name not in ELSEWHERE]
        for name in names:
            lines += ["", f"# {setting.sentence} Accepts {_accepts(setting, name)}.", _assignment(setting, name)]
    return "\n".join(lines) + "\n"


def _accepts(setting: Setting, name: str) -> str:
    return setting.accepts if name == setting.name else "the path of a file with the value"


def _assignment(setting: Setting, name: str) -> str:
    if name in KUBERNETES:
        return f"{name}={KUBERNETES[name]}"
    default = (setting.default or "") if name == setting.name else ""
    return f"# {name}={default}"


def pause_seconds() -> float:
    """How long the pod's preStop hook delays SIGTERM, in seconds."""
    return float(re.findall(r"time\.sleep\(([\d.]+)\)", read(BASE))[0])


def pod_grace_seconds(settings: dict[str, str]) -> int:
    """The grace period of a pod that runs with `settings`."""
    return grace_seconds(float(settings["RELAY_DRAIN_SECONDS"]), close_spread_seconds(settings), pause_seconds())


def close_spread_seconds(settings: dict[str, str]) -> float:
    """RELAY_CLOSE_SPREAD_SECONDS in `settings`, or its default."""
    return float(settings.get("RELAY_CLOSE_SPREAD_SECONDS", Settings().close_spread_seconds))


def dev_settings() -> dict[str, str]:
    """The settings of the overlay `dev`: those of the base, overridden by its own."""
    literals = yaml.safe_load(read(DEV_KUSTOMIZATION))["configMapGenerator"][0]["literals"]
    return KUBERNETES | dict(literal.split("=", 1) for literal in literals)


def render_deployment() -> str:
    """`k8s/base/deployment.yaml`."""
    return _with_pod_grace(read(BASE), pod_grace_seconds(KUBERNETES))


def render_dev_deployment() -> str:
    """`k8s/overlays/dev/deployment.yaml`."""
    return _with_pod_grace(read(DEV), pod_grace_seconds(dev_settings()))


def _with_pod_grace(text: str, seconds: int) -> str:
    return re.sub(r"(?<=terminationGracePeriodSeconds: )\d+", str(seconds), text)


def render_compose() -> str:
    """`docker-compose.yml`; Docker does not delay SIGTERM."""
    text = read(COMPOSE)
    environment = yaml.safe_load(text)["services"]["relay"]["environment"]
    defaults = {name: value.split(":-")[-1].rstrip("}") for name, value in environment.items() if ":-" in value}
    seconds = grace_seconds(float(defaults["RELAY_DRAIN_SECONDS"]), close_spread_seconds(defaults))
    return re.sub(r"(?<=STOP_GRACE_PERIOD:-)\d+(?=s)", str(seconds), text, count=1)


def render_kustomization() -> str:
    """`k8s/base/kustomization.yaml`, with the version as the image's tag and as a label."""
    return re.sub(r'((?:newTag|kubernetes\.io/version): )"[^"]*"', rf'\g<1>"{__version__}"', read(KUSTOMIZATION))


def render_runbooks_index() -> str:
    """`docs/runbooks/README.md`, with the table of reasons between its markers."""
    return with_table(read(RUNBOOKS), render_table())


def with_table(text: str, table: str) -> str:
    """Return the text with the table between its two markers; raises ValueError if it has not exactly one of each."""
    if text.count(TABLE_BEGIN) != 1 or text.count(TABLE_END) != 1:
        raise ValueError(f"{RUNBOOKS} must have each of these lines once, in this order: {TABLE_BEGIN} and {TABLE_END}")
    before, rest = text.split(TABLE_BEGIN)
    return f"{before}{TABLE_BEGIN}\n\n{table}\n\n{TABLE_END}{rest.split(TABLE_END)[1]}"
