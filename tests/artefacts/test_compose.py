"""The compose file names what the code and the repository have: settings, ports, probes, times, files, tokens."""

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
}
# Variables of the compose file itself; their names keep clear of the relay's, which warns of a RELAY_* that it does not know.
OWN: Final = re.compile(r"PUBLISHED_\w+|\w+_IMAGE|BASE|CONVERSATIONS|SECRETS_DIR|SETTINGS_FILE|STOP_GRACE_PERIOD")
DEFAULTS: Final = Settings()


def env_file(name: str) -> dict[str, str]:
    """The assignments of an env file."""
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    return dict(line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))


def plain(text: str) -> str:
    """A value as it is when nothing is set."""
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text)


DEMO: Final = env_file("compose/demo.env")
TLS: Final = env_file("compose/tls.env")


@pytest.mark.parametrize(
    ("where", "names"),
    [
        ("what the relay is given", set(RELAY["environment"])),
        ("what is asked of the shell", set(re.findall(r"\$\{(\w+)", TEXT))),
        ("compose/demo.env", set(DEMO)),
        ("compose/tls.env", set(TLS)),
    ],
)
def test_every_variable_is_a_setting(where: str, names: set[str]) -> None:
    """A name that the relay does not know would be ignored in silence; none is, but for those of the file itself."""
    assert names, where
    assert set() == {name for name in names if not OWN.fullmatch(name)} - SETTING_NAMES


@pytest.mark.parametrize("name", ["compose/demo.env", "compose/tls.env"])
def test_env_files_are_handed_on(name: str) -> None:
    """An env file of --env-file is only seen by compose; it names itself, so that the relay is given all of it."""
    assert {"path": "${SETTINGS_FILE:-.env}", "required": False} in RELAY["env_file"]
    assert name == env_file(name)["SETTINGS_FILE"]


def test_env_files_are_accepted(tmp_path: Path) -> None:
    """The program starts with the settings of the demo, and with those behind the front."""
    demo = {name: value for name, value in DEMO.items() if not OWN.fullmatch(name)}
    tokens = tmp_path / "client-tokens"
    tokens.write_text("web:3f9c1e6b7a2d4c58\n", encoding="utf-8")
    tls = {name: value for name, value in TLS.items() if not OWN.fullmatch(name)}
    assert TLS["RELAY_CLIENT_TOKENS_FILE"] == "/run/secrets/realtime-relay/client-tokens"

    assert not load_settings({**demo, "RELAY_HOST": "0.0.0.0"}).warnings
    behind = load_settings({**tls, "RELAY_CLIENT_TOKENS_FILE": str(tokens), "RELAY_HOST": "0.0.0.0"})
    assert ("tokens", False) == (behind.access, behind.open_anywhere)


def test_the_easy_way_needs_nothing_but_a_key() -> None:
    """With OPENAI_API_KEY alone the relay starts in its container, open to whoever is on this machine."""
    given = {name: plain(str(value)) for name, value in RELAY["environment"].items()}
    settings = load_settings({**given, "OPENAI_API_KEY": "sk-proj-" + "a" * 40})

    assert ("open", True) == (settings.access, settings.open_anywhere)
    assert settings.openai_api_key is not None
    assert not [warning for warning in settings.warnings if "FILE" in warning.variable]


def test_ports_are_the_programs_and_on_loopback() -> None:
    """The relay listens where it is published; every port of this machine is on loopback until somebody says otherwise."""
    published = {service: [plain(port) for port in each.get("ports", [])] for service, each in SERVICES.items()}

    assert [f"127.0.0.1:{port}:{port}" for port in (DEFAULTS.port, DEFAULTS.internal_port)] == published["relay"]
    assert all(port.startswith("127.0.0.1:") for ports in published.values() for port in ports)
    targets = (("RELAY_PORT", DEFAULTS.port), ("RELAY_INTERNAL_PORT", DEFAULTS.internal_port))
    for name, port in targets:
        assert str(port) == RELAY["environment"][name]
    assert f"http://relay:{DEFAULTS.port}" == SERVICES["caller"]["environment"]["CALLER_URL"]
    assert f"relay relay:{DEFAULTS.port} " in (ROOT / "compose/tls/haproxy.cfg").read_text(encoding="utf-8")


def test_the_grace_is_computed() -> None:
    """Docker kills no relay that still drains or says goodbye, and no front before the relay; `make docs` writes the sum."""
    drain = float(plain(RELAY["environment"]["RELAY_DRAIN_SECONDS"]))
    grace = float(plain(RELAY["stop_grace_period"]).removesuffix("s"))

    assert drain == DEFAULTS.drain_seconds
    assert grace == grace_seconds(drain, close_spread_seconds({}))
    assert "to 20 seconds more" in (ROOT / "docs/deployment.md").read_text(encoding="utf-8")
    assert 20 == grace_seconds(0, DEFAULTS.close_spread_seconds)
    assert float(SERVICES["front"]["stop_grace_period"].removesuffix("m")) * 60 > grace
    assert "depends_on" not in SERVICES["front"]  # it would be stopped first, and cut the calls that the relay drains


@pytest.mark.parametrize("name", SERVICES)
def test_every_container_is_confined(name: str) -> None:
    """Read-only, without capabilities, with limits, a health check, a restart and a log that ends; nothing is `latest`."""
    service = SERVICES[name]

    assert service["read_only"]
    assert service["init"]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["restart"] == "unless-stopped"
    assert service["logging"]["options"]["max-size"]
    assert {"mem_limit", "cpus", "pids_limit", "stop_grace_period"} <= service.keys()
    assert service["healthcheck"]["test"][0] == "CMD"  # no shell is needed
    image = plain(service["image"])
    assert image == "realtime-relay:local" or re.fullmatch(r"[a-z/]+:v?\d+\.\d+\.\d+(-alpine)?", image)


def test_up_waits_for_callers_to_get_through() -> None:
    """`up --wait` asks for readiness, which means that the key and a handshake have passed."""
    assert ["CMD", "python", "-m", "service", "probe", "readyz"] == RELAY["healthcheck"]["test"]


def test_profiles_hold_what_they_promise() -> None:
    """Without a profile there is the relay alone."""
    found = {
        profile: {name for name, each in SERVICES.items() if profile in each.get("profiles", [])}
        for profile in PROFILES
    }

    assert PROFILES == found
    assert {"relay"} == {name for name, each in SERVICES.items() if not each.get("profiles")}


def test_what_is_mounted_exists() -> None:
    """Every file and folder is in the repository, read-only, and is never made by Docker when it is missing."""
    mounts = [mount for each in SERVICES.values() for mount in each.get("volumes", []) if isinstance(mount, dict)]
    sources = {plain(mount["source"]) for mount in mounts}

    assert all(mount["read_only"] and mount["bind"] == {"create_host_path": False} for mount in mounts)
    assert {"./secrets", "./compose", "./compose/tls/haproxy.cfg"} <= sources
    assert set() == {source for source in sources - {"./secrets/tls"} if not (ROOT / source).exists()}


def test_secrets_are_kept_out() -> None:
    """The folder of secrets is a folder in the container, so that a new file is seen; nothing in it is committed."""
    mount = next(mount for mount in RELAY["volumes"] if "secrets" in mount["target"])
    ignored = (ROOT / ".gitignore").read_text(encoding="utf-8").splitlines()

    assert "${SECRETS_DIR:-./secrets}" == mount["source"]
    assert {"secrets/*", "!secrets/README.md"} <= set(ignored)
    assert {"./secrets", "./secrets/tls"} & {mount["source"] for mount in SERVICES["front"]["volumes"]} == set()


def test_the_demo_agrees_with_its_caller() -> None:
    """The caller's tokens are the demo's, no two of them are one client's, and its models are models that there are."""
    tokens = dict(pair.split(":")[::-1] for pair in DEMO["RELAY_CLIENT_TOKENS"].split(","))
    used = [conversations.TOKEN, TOKEN, LOOP_TOKEN, *CROWD_TOKENS]

    assert set(used) == set(tokens)
    assert len(used) == len(set(tokens.values()))
    assert set(DEMO["RELAY_ALLOWED_MODELS"].split(",")) <= CURRENT_MODELS
    command = SERVICES["simulator"]["command"]
    assert DEMO["OPENAI_BASE_URL"] == f"http://{command[2]}:{command[4]}/v1"


@pytest.mark.parametrize(("access", "accepted"), [("tokens", True), ("open", False), ("", False)])
def test_the_front_wants_tokens(access: str, accepted: bool, tmp_path: Path) -> None:
    """Haproxy accepts the configuration, and does not start before a relay that lets everybody in."""
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
