"""docker-compose.yml is consistent with the code: settings, ports, probes, durations, files, tokens."""

import re
import subprocess
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

import conversations
from failure_cases import CROWD_TOKENS, LOOP_TOKEN, TOKEN
from service.relay.grace import grace_seconds
from service.settings import SETTING_NAMES, Settings, load_settings
from service.simulator.options import CURRENT_MODELS
from tests.support.certificates import Authority
from tools.debian import PackageUnavailable, program
from tools.generated import close_spread_seconds

ROOT: Final = Path(__file__).resolve().parents[2]
TEXT: Final = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
SERVICES: Final[dict[str, Any]] = yaml.safe_load(TEXT)["services"]
RELAY: Final = SERVICES["relay"]
PROFILES: Final = {
    "demo": {"simulator", "caller"},
    "observability": {"prometheus", "alertmanager", "grafana"},
    "tls": {"front"},
    "valkey": {"valkey"},
}
# Variables of the compose file itself. They do not start with RELAY_, because the relay warns of unknown RELAY_* names.
COMPOSE_VARIABLES: Final = re.compile(
    r"PUBLISHED_\w+|\w+_IMAGE|BASE|CONVERSATIONS|SECRETS_DIR|SETTINGS_FILE|STOP_GRACE_PERIOD"
)
DEFAULTS: Final = Settings()


def env_file(name: str) -> dict[str, str]:
    """The assignments of an env file."""
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    return dict(line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))


def with_defaults(text: str) -> str:
    """A value with the defaults of its variables."""
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text)


DEMO: Final = env_file("compose/demo.env")
TLS: Final = env_file("compose/tls.env")


@pytest.mark.parametrize(
    ("where", "names"),
    [
        ("environment of the relay", set(RELAY["environment"])),
        ("variables of the compose file", set(re.findall(r"\$\{(\w+)", TEXT))),
        ("compose/demo.env", set(DEMO)),
        ("compose/tls.env", set(TLS)),
    ],
)
def test_every_variable_is_a_setting(where: str, names: set[str]) -> None:
    """Every variable is a setting of the relay or a variable of the compose file itself."""
    assert names, where
    assert set() == {name for name in names if not COMPOSE_VARIABLES.fullmatch(name)} - SETTING_NAMES


@pytest.mark.parametrize("name", ["compose/demo.env", "compose/tls.env"])
def test_env_files_are_passed_to_the_relay(name: str) -> None:
    """--env-file affects compose only; the file names itself in SETTINGS_FILE, so that the relay gets all of it."""
    assert {"path": "${SETTINGS_FILE:-.env}", "required": False} in RELAY["env_file"]
    assert name == env_file(name)["SETTINGS_FILE"]


def test_relay_accepts_env_files(tmp_path: Path) -> None:
    """The settings of the demo and of the TLS proxy are valid."""
    demo = {name: value for name, value in DEMO.items() if not COMPOSE_VARIABLES.fullmatch(name)}
    tokens = tmp_path / "client-tokens"
    tokens.write_text("web:3f9c1e6b7a2d4c58\n", encoding="utf-8")
    tls = {name: value for name, value in TLS.items() if not COMPOSE_VARIABLES.fullmatch(name)}
    assert TLS["RELAY_CLIENT_TOKENS_FILE"] == "/run/secrets/realtime-relay/client-tokens"

    assert not load_settings({**demo, "RELAY_HOST": "0.0.0.0"}).warnings
    behind = load_settings({**tls, "RELAY_CLIENT_TOKENS_FILE": str(tokens), "RELAY_HOST": "0.0.0.0"})
    assert ("tokens", False) == (behind.access, behind.open_anywhere)


def test_default_profile_needs_only_a_key() -> None:
    """With OPENAI_API_KEY alone the settings are valid, with open access for this machine."""
    given = {name: with_defaults(str(value)) for name, value in RELAY["environment"].items()}
    settings = load_settings({**given, "OPENAI_API_KEY": "sk-proj-" + "a" * 40})

    assert ("open", True) == (settings.access, settings.open_anywhere)
    assert settings.openai_api_key is not None
    assert not [warning for warning in settings.warnings if "FILE" in warning.variable]


def test_published_ports_are_defaults_on_loopback() -> None:
    """The relay listens on the published ports, and every port is published on loopback by default."""
    published = {service: [with_defaults(port) for port in each.get("ports", [])] for service, each in SERVICES.items()}

    assert [f"127.0.0.1:{port}:{port}" for port in (DEFAULTS.port, DEFAULTS.internal_port)] == published["relay"]
    assert all(port.startswith("127.0.0.1:") for ports in published.values() for port in ports)
    targets = (("RELAY_PORT", DEFAULTS.port), ("RELAY_INTERNAL_PORT", DEFAULTS.internal_port))
    for name, port in targets:
        assert str(port) == RELAY["environment"][name]
    assert f"http://relay:{DEFAULTS.port}" == SERVICES["caller"]["environment"]["CALLER_URL"]
    assert f"relay relay:{DEFAULTS.port} " in (ROOT / "compose/tls/haproxy.cfg").read_text(encoding="utf-8")


def test_stop_grace_period_is_computed() -> None:
    """Docker stops neither a draining relay nor the TLS proxy in front of it too early; `make docs` writes the value."""
    drain = float(with_defaults(RELAY["environment"]["RELAY_DRAIN_SECONDS"]))
    grace = float(with_defaults(RELAY["stop_grace_period"]).removesuffix("s"))

    assert drain == DEFAULTS.drain_seconds
    assert grace == grace_seconds(drain, close_spread_seconds({}))
    assert "to 20 seconds more" in (ROOT / "docs/deployment.md").read_text(encoding="utf-8")
    assert 20 == grace_seconds(0, DEFAULTS.close_spread_seconds)
    assert float(SERVICES["front"]["stop_grace_period"].removesuffix("m")) * 60 > grace
    # Compose would stop it first, and abort sessions that the relay drains.
    assert "depends_on" not in SERVICES["front"]


@pytest.mark.parametrize("name", SERVICES)
def test_container_is_confined(name: str) -> None:
    """Read-only, no capabilities, limits, a health check, restarts, a bounded log and a pinned image."""
    service = SERVICES[name]

    assert service["read_only"]
    assert service["init"]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["restart"] == "unless-stopped"
    assert service["logging"]["options"]["max-size"]
    assert {"mem_limit", "cpus", "pids_limit", "stop_grace_period"} <= service.keys()
    assert service["healthcheck"]["test"][0] == "CMD"  # no shell is needed
    image = with_defaults(service["image"])
    assert image == "realtime-relay:local" or re.fullmatch(r"[a-z/]+:v?\d+\.\d+\.\d+(-alpine)?", image)


def test_health_check_is_readiness() -> None:
    """`up --wait` returns once the checks of key and handshake have passed, and Docker lets the probe print the cause."""
    check = RELAY["healthcheck"]
    *command, seconds = check["test"]

    assert ["CMD", "python", "-m", "service", "probe", "readyz", "--wait"] == command
    assert float(seconds) + 5 < float(check["timeout"].removesuffix("s"))
    assert (check["interval"], check["retries"]) == ("5s", 1)  # so soon is a definite failure reported
    assert check["start_period"] == "1ms"  # else the image's holds, in which the first probe does not count


def test_no_registry_is_asked_for_own_image() -> None:
    """One service builds it; compose tries to pull it for no service."""
    own = {name: each for name, each in SERVICES.items() if each["image"] == "realtime-relay:local"}

    assert {"never"} == {each["pull_policy"] for each in own.values()}
    assert ["relay"] == [name for name, each in own.items() if "build" in each]


@pytest.mark.parametrize("name", sorted(SERVICES.keys() - {"relay", "simulator", "caller"}))
def test_image_variable_is_documented(name: str) -> None:
    """Each image of another project has a variable, and docs/deployment.md names it with what it replaces."""
    found = re.fullmatch(r"\$\{(\w+_IMAGE):-(.+)\}", SERVICES[name]["image"])

    assert found is not None
    row = f"| `{name}` | `{found[1]}` | `{found[2]}` |"
    assert row in (ROOT / "docs/deployment.md").read_text(encoding="utf-8")


def test_profiles_contain_their_services() -> None:
    """Without a profile only the relay starts."""
    found = {
        profile: {name for name, each in SERVICES.items() if profile in each.get("profiles", [])}
        for profile in PROFILES
    }

    assert PROFILES == found
    assert {"relay"} == {name for name, each in SERVICES.items() if not each.get("profiles")}


def test_mounted_files_exist() -> None:
    """Mounts are read-only, their sources exist in the repository, and Docker does not create missing ones."""
    mounts = [mount for each in SERVICES.values() for mount in each.get("volumes", []) if isinstance(mount, dict)]
    sources = {with_defaults(mount["source"]) for mount in mounts}

    assert all(mount["read_only"] and mount["bind"] == {"create_host_path": False} for mount in mounts)
    assert {"./secrets", "./compose", "./compose/tls/haproxy.cfg"} <= sources
    assert set() == {source for source in sources - {"./secrets/tls"} if not (ROOT / source).exists()}


def test_secrets_are_mounted_as_folder_and_not_committed() -> None:
    """The folder is mounted, so that replaced files are visible in the container; git ignores its content."""
    mount = next(mount for mount in RELAY["volumes"] if "secrets" in mount["target"])
    ignored = (ROOT / ".gitignore").read_text(encoding="utf-8").splitlines()

    assert "${SECRETS_DIR:-./secrets}" == mount["source"]
    assert {"secrets/*", "!secrets/README.md"} <= set(ignored)
    assert {"./secrets", "./secrets/tls"} & {mount["source"] for mount in SERVICES["front"]["volumes"]} == set()


def test_demo_settings_match_demo_client() -> None:
    """Tokens and models of the demo client are those of demo.env; each token belongs to another client."""
    tokens = dict(pair.split(":")[::-1] for pair in DEMO["RELAY_CLIENT_TOKENS"].split(","))
    used = [conversations.TOKEN, TOKEN, LOOP_TOKEN, *CROWD_TOKENS]

    assert set(used) == set(tokens)
    assert len(used) == len(set(tokens.values()))
    assert set(DEMO["RELAY_ALLOWED_MODELS"].split(",")) <= CURRENT_MODELS
    command = SERVICES["simulator"]["command"]
    assert DEMO["OPENAI_BASE_URL"] == f"http://{command[2]}:{command[4]}/v1"


@pytest.mark.parametrize(("access", "accepted"), [("tokens", True), ("open", False), ("", False)])
def test_tls_proxy_requires_tokens(access: str, accepted: bool, tmp_path: Path) -> None:
    """HAProxy accepts the configuration, and refuses to start with open access."""
    try:
        haproxy = program("haproxy")
    except PackageUnavailable as exc:
        pytest.skip(str(exc))
    certificate = tmp_path / "relay.pem"
    Authority(tmp_path).write_server_files(certificate, tmp_path / "relay.pem.key")
    text = (ROOT / "compose/tls/haproxy.cfg").read_text(encoding="utf-8")
    config = tmp_path / "haproxy.cfg"
    config.write_text(text.replace("/run/secrets/tls/relay.pem", str(certificate)), encoding="utf-8")
    done = subprocess.run(
        [haproxy.path, "-c", "-f", str(config)],
        env=haproxy.environment | {"RELAY_ACCESS": access},
        capture_output=True,
        text=True,
        check=False,
    )
    if "error while loading shared libraries" in done.stderr:
        pytest.skip(done.stderr.strip())

    assert accepted is (done.returncode == 0), done.stderr
    assert accepted is ("RELAY_ACCESS is not tokens" not in done.stderr)
