"""The Kubernetes manifests are consistent with the code and each other, and valid for Kubernetes 1.20."""

import re
from typing import Any, Final

import pytest
import yaml

from service.health.checks import CHECKS, TURN
from service.relay.grace import grace_seconds
from service.settings import SETTING_NAMES, Settings, load_settings
from service.version import __version__
from tools import generated, validate_k8s
from tools.manifests import (
    ADAPTER,
    BASE,
    CORE_KINDS,
    DEV,
    EXTENSION_KINDS,
    FOLDER,
    GATEWAY,
    INGRESS,
    KEDA,
    OLDEST_MINOR,
    OPERATOR,
    PRODUCTION,
    ROOT,
    VALKEY,
    documents,
    env_file,
    load,
    text_of,
)

DEFAULTS: Final = Settings()
OBJECTS: Final = documents(BASE)
DEPLOYMENT: Final = OBJECTS["Deployment"][0]
POD: Final = DEPLOYMENT["spec"]["template"]["spec"]
CONTAINER: Final = POD["containers"][0]
SETTINGS: Final = env_file(f"{BASE}/settings.env")
LABELS: Final = DEPLOYMENT["spec"]["template"]["metadata"]["labels"]
FOLDERS: Final = [BASE, DEV, PRODUCTION, OPERATOR, KEDA, INGRESS, GATEWAY, VALKEY]
MANIFESTS: Final = sorted(FOLDER.rglob("*.yaml"))
# Fields that Kubernetes 1.20 does not have, or has behind a feature gate.
NEWER_FIELDS: Final = {"matchLabelKeys", "minDomains", "nodeAffinityPolicy", "nodeTaintsPolicy", "sleep", "grpc", "hostUsers",
                  "unhealthyPodEvictionPolicy", "internalTrafficPolicy", "trafficDistribution", "endPort",
                  "restartPolicyRules", "resizePolicy", "containerResource", "ipFamilyPolicy", "podReplacementPolicy",
                  "appArmorProfile", "tolerance", "loadBalancerClass"}  # fmt: skip


def keys_of(node: Any) -> set[str]:
    """All keys at any depth."""
    if isinstance(node, dict):
        return {str(key) for key in node} | {key for value in node.values() for key in keys_of(value)}
    return {key for value in node for key in keys_of(value)} if isinstance(node, list) else set()


def service_of(component: str) -> Any:
    """The Service with this component label."""
    found = [
        item for item in OBJECTS["Service"] if item["metadata"]["labels"]["app.kubernetes.io/component"] == component
    ]
    assert len(found) == 1
    return found[0]


@pytest.mark.parametrize("folder", FOLDERS)
def test_kustomization_lists_every_file(folder: str) -> None:
    """Listed files exist, and every file is listed."""
    kustomization = load(f"{folder}/kustomization.yaml")
    listed = {*kustomization.get("resources", []), *kustomization.get("components", [])}
    listed |= {patch["path"] for patch in kustomization.get("patches", []) if "path" in patch}
    files = {path.name for path in (ROOT / folder).glob("*.yaml")} - {"kustomization.yaml"}

    assert all((ROOT / folder / name).exists() for name in listed)
    assert files == {name for name in listed if name.endswith(".yaml")}


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: str(path.relative_to(FOLDER)))
def test_base_and_overlays_use_core_kinds(path: Any) -> None:
    """Base and overlays use core kinds only; no manifest uses a field newer than Kubernetes 1.20."""
    is_component = path.is_relative_to(FOLDER / "components")
    known = CORE_KINDS | (EXTENSION_KINDS if is_component else {})
    for document in yaml.safe_load_all(path.read_text(encoding="utf-8")):
        if document.get("kind") in {None, "Kustomization", "Component"}:
            continue
        assert document["kind"] in known[document["apiVersion"]]
        assert set() == keys_of(document) & NEWER_FIELDS


def test_config_map_lists_every_setting() -> None:
    """settings.env has every setting, set or commented with its default, except those set elsewhere."""
    named = set(re.findall(r"^(?:# )?([A-Z][A-Z_]+)=", text_of(f"{BASE}/settings.env"), re.MULTILINE))

    assert named == SETTING_NAMES - set(generated.ELSEWHERE)
    assert set(generated.KUBERNETES) <= named
    assert set(generated.dev_settings()) <= SETTING_NAMES
    assert generated.KUBERNETES == SETTINGS


def test_program_accepts_settings_of_overlays() -> None:
    """The settings of base and dev are valid; dev has open access, with the simulator only."""
    image = {"RELAY_HOST": "0.0.0.0", "RELAY_INTERNAL_HOST": "0.0.0.0"}
    files = {"OPENAI_API_KEY_FILE", "RELAY_CLIENT_TOKENS_FILE"}
    values = {name: value for name, value in SETTINGS.items() if name not in files}
    base = load_settings(image | values | {"RELAY_CLIENT_TOKENS": "web:3f9c1e6b7a2d4c58"})
    dev = load_settings(image | generated.dev_settings())

    assert ("openai", "tokens") == (base.upstream, base.access)
    assert ("simulator", "open") == (dev.upstream, dev.access)


@pytest.mark.parametrize("name", ["startupProbe", "livenessProbe", "readinessProbe"])
def test_probes_use_existing_paths(name: str) -> None:
    """Liveness and startup probe /livez, readiness probes /readyz, on the internal port."""
    probe = CONTAINER[name]

    assert ("/readyz" if name == "readinessProbe" else "/livez") == probe["httpGet"]["path"]
    assert f'web.get("{probe["httpGet"]["path"]}"' in text_of("service/web/probes.py")
    assert probe["httpGet"]["port"] == "internal"
    assert probe["timeoutSeconds"] <= probe["periodSeconds"]


def test_documented_liveness_url_excludes_every_check() -> None:
    """docs/deployment.md gives platforms with a single probe URL one that does not depend on the provider."""
    (query,) = re.findall(r"`/healthz\?(\S+)`", text_of("docs/deployment.md"))
    (optional,) = re.findall(r"`&(exclude=\w+)` with `RELAY_HEALTH_TURNS_PER_DAY`", text_of("docs/deployment.md"))

    assert [f"exclude={check}" for check in (*CHECKS, TURN)] == [*query.split("&"), optional]


def test_ports_are_defaults() -> None:
    """Pod, Services and NetworkPolicy use the default ports; the public Service exposes the public port only."""
    ports = {"public": DEFAULTS.port, "internal": DEFAULTS.internal_port}
    policy = OBJECTS["NetworkPolicy"][0]["spec"]

    assert ports == {port["name"]: port["containerPort"] for port in CONTAINER["ports"]}
    for component in ("public", "internal"):
        assert [component] == [port["targetPort"] for port in service_of(component)["spec"]["ports"]]
    assert service_of("internal")["spec"]["clusterIP"] == "None"
    assert service_of("internal")["spec"]["publishNotReadyAddresses"]
    assert [[{"port": port, "protocol": "TCP"}] for port in ports.values()] == [
        rule["ports"] for rule in policy["ingress"]
    ]
    assert (
        str(DEFAULTS.internal_port) == DEPLOYMENT["spec"]["template"]["metadata"]["annotations"]["prometheus.io/port"]
    )


def test_network_policy_closes_the_internal_port_to_other_namespaces() -> None:
    """Only `monitoring` reaches it; the public port is open to all. The docs show how to name another namespace."""
    public, internal = OBJECTS["NetworkPolicy"][0]["spec"]["ingress"]
    name = "kubernetes.io/metadata.name"

    assert "from" not in public
    assert [{"namespaceSelector": {"matchLabels": {name: "monitoring"}}}] == internal["from"]
    path = f"/spec/ingress/1/from/0/namespaceSelector/matchLabels/{name.replace('/', '~1')}"
    assert path in text_of("docs/deployment.md")


def test_components_terminate_tls_in_front_of_the_public_port() -> None:
    """Ingress and Gateway: a certificate, the public Service, no limit on the length of a session, a trusted proxy."""
    ingress = documents(INGRESS)["Ingress"][0]
    gateway, route = documents(GATEWAY)["Gateway"][0]["spec"], documents(GATEWAY)["HTTPRoute"][0]["spec"]
    service = service_of("public")
    (rule,), (path,) = ingress["spec"]["rules"], ingress["spec"]["rules"][0]["http"]["paths"]

    assert [rule["host"]] == ingress["spec"]["tls"][0]["hosts"] == route["hostnames"]
    assert ("Terminate", rule["host"]) == (gateway["listeners"][0]["tls"]["mode"], gateway["listeners"][0]["hostname"])
    assert {"name": service["metadata"]["name"], "port": {"name": "public"}} == path["backend"]["service"]
    assert [{"name": service["metadata"]["name"], "port": service["spec"]["ports"][0]["port"]}] == route["rules"][0][
        "backendRefs"
    ]
    timeouts = dict(ingress["metadata"]["annotations"])
    assert timeouts.pop("haproxy.org/timeout-tunnel") == "60s"  # as in compose/tls/haproxy.cfg
    assert len(timeouts) == 2
    assert all(float(value.removesuffix("s")) >= DEFAULTS.max_session_seconds for value in timeouts.values())
    assert {"request": "0s", "backendRequest": "0s"} == route["rules"][0]["timeouts"]
    for component in (INGRESS, GATEWAY):
        (setting,) = load(f"{component}/kustomization.yaml")["configMapGenerator"][0]["literals"]
        assert load_settings(dict([setting.split("=", 1)])).trusted_proxies


def test_documented_kubernetes_versions_are_validated() -> None:
    """docs/deployment.md names the oldest and the newest version that `make k8s-validate` validates."""
    oldest, *_, newest = validate_k8s.versions()

    assert oldest == f"1.{OLDEST_MINOR}"
    assert f"validated for Kubernetes {oldest} and " in text_of("docs/deployment.md")
    assert f" to {newest}" in text_of("docs/deployment.md")


def test_docs_state_in_bold_that_rollouts_end_calls() -> None:
    """With the drain of the base."""
    drain = SETTINGS["RELAY_DRAIN_SECONDS"]

    assert re.search(
        rf"\*\*A rollout ends every call that is longer than its drain\*\*[^.]*{drain}", text_of("docs/deployment.md")
    )


def test_network_policy_allows_dns_and_tls_only() -> None:
    """Both directions are restricted; egress is DNS and port 443."""
    policy = OBJECTS["NetworkPolicy"][0]["spec"]
    egress = {(port["port"], port["protocol"]) for rule in policy["egress"] for port in rule["ports"]}

    assert {"Ingress", "Egress"} == set(policy["policyTypes"])
    assert {(53, "UDP"), (53, "TCP"), (443, "TCP")} == egress


def test_selectors_match_pod_labels() -> None:
    """Deployment, Services, disruption budget, network policy and topology spread select the same pods."""
    selectors = [
        DEPLOYMENT["spec"]["selector"]["matchLabels"],
        OBJECTS["PodDisruptionBudget"][0]["spec"]["selector"]["matchLabels"],
        OBJECTS["NetworkPolicy"][0]["spec"]["podSelector"]["matchLabels"],
        *(service["spec"]["selector"] for service in OBJECTS["Service"]),
        *(spread["labelSelector"]["matchLabels"] for spread in POD["topologySpreadConstraints"]),
    ]

    assert all(selector == {"app.kubernetes.io/name": "realtime-relay"} for selector in selectors)
    assert selectors[0].items() <= LABELS.items()


def test_service_monitor_selects_internal_service() -> None:
    """The ServiceMonitor selects exactly the internal Service, its port by name, and /metrics."""
    monitor = documents(OPERATOR)["ServiceMonitor"][0]["spec"]
    labels = monitor["selector"]["matchLabels"].items()
    selected = [service for service in OBJECTS["Service"] if labels <= service["metadata"]["labels"].items()]

    assert [service_of("internal")] == selected
    assert [port["name"] for port in selected[0]["spec"]["ports"]] == [
        endpoint["port"] for endpoint in monitor["endpoints"]
    ]
    assert ["/metrics"] == [endpoint["path"] for endpoint in monitor["endpoints"]]
    assert 'web.get("/metrics"' in text_of("service/web/internal.py")


def test_prometheus_rule_has_valid_groups() -> None:
    """Group names are unique, and each rule has an expression and is an alert or a recording rule."""
    groups = documents(OPERATOR)["PrometheusRule"][0]["spec"]["groups"]

    assert groups
    assert len({group["name"] for group in groups}) == len(groups)
    assert all(rule["expr"] and ("alert" in rule) != ("record" in rule) for group in groups for rule in group["rules"])


def test_grace_period_is_computed() -> None:
    """The grace period covers the drain, in the base and in dev."""
    for settings, pod in (
        (SETTINGS, POD),
        (generated.dev_settings(), load(f"{DEV}/deployment.yaml")["spec"]["template"]["spec"]),
    ):
        drain, spread = float(settings["RELAY_DRAIN_SECONDS"]), generated.close_spread_seconds(settings)
        assert grace_seconds(drain, spread, generated.pause_seconds()) == pod["terminationGracePeriodSeconds"]


def test_grace_period_fits_cluster_autoscaler() -> None:
    """Cluster autoscalers wait at most 600 s for a pod by default."""
    assert POD["terminationGracePeriodSeconds"] <= 600


def test_rollout_keeps_old_pods_until_new_are_ready() -> None:
    """No pod is unavailable during a rollout, and the progress deadline exceeds startup and first checks."""
    strategy = DEPLOYMENT["spec"]["strategy"]["rollingUpdate"]
    production = load(f"{PRODUCTION}/deployment.yaml")["spec"]["strategy"]["rollingUpdate"]
    startup = CONTAINER["startupProbe"]["periodSeconds"] * CONTAINER["startupProbe"]["failureThreshold"]

    assert strategy["maxUnavailable"] == 0
    assert "maxUnavailable" not in production
    assert DEPLOYMENT["spec"]["progressDeadlineSeconds"] > startup + DEPLOYMENT["spec"]["minReadySeconds"] + 60


def test_pod_is_hardened() -> None:
    """Non-root, read-only, no capabilities, no service account token, no service links."""
    security = CONTAINER["securityContext"]

    assert POD["securityContext"]["runAsNonRoot"]
    assert POD["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert security["readOnlyRootFilesystem"]
    assert security["allowPrivilegeEscalation"] is False
    assert security["capabilities"] == {"drop": ["ALL"]}
    assert POD["automountServiceAccountToken"] is False
    assert POD["enableServiceLinks"] is False
    assert f"USER {POD['securityContext']['runAsUser']}:{POD['securityContext']['runAsGroup']}" in text_of("Dockerfile")


def test_secrets_are_mounted_as_folder() -> None:
    """The Secret is a folder, which the kubelet updates; no manifest contains a secret, and dev mounts none."""
    mount = CONTAINER["volumeMounts"][0]
    dev = load(f"{DEV}/deployment.yaml")["spec"]["template"]["spec"]

    assert "subPath" not in keys_of(POD)
    for name in ("OPENAI_API_KEY_FILE", "RELAY_CLIENT_TOKENS_FILE"):
        assert SETTINGS[name].rpartition("/")[0] == mount["mountPath"]
        assert generated.dev_settings()[name] == ""
    assert [{"name": mount["name"], "$patch": "delete"}] == dev["volumes"]
    assert [{"mountPath": mount["mountPath"], "$patch": "delete"}] == dev["containers"][0]["volumeMounts"]
    for path in MANIFESTS:
        assert not re.search(r"^kind: Secret$|sk-[A-Za-z0-9]", path.read_text(encoding="utf-8"), re.MULTILINE)
    assert not {"OPENAI_API_KEY", "RELAY_CLIENT_TOKENS"} & {*SETTINGS, *generated.dev_settings()}


def test_version_is_that_of_the_program() -> None:
    """Image tag and version label equal the version of the code."""
    kustomization = load(f"{BASE}/kustomization.yaml")

    assert __version__ == kustomization["images"][0]["newTag"]
    assert __version__ == kustomization["labels"][0]["pairs"]["app.kubernetes.io/version"]
    assert kustomization["labels"][0]["includeTemplates"]
    assert CONTAINER["image"] == kustomization["images"][0]["name"]


def test_skipped_checkov_checks_have_reasons() -> None:
    """Each skipped check has a comment with its reason above it."""
    config = text_of("k8s/checkov.yaml")
    skipped = load("k8s/checkov.yaml")["skip-check"]

    assert skipped
    for check in skipped:
        assert re.search(rf"\n  # [^\n]{{30,}}\n  - {check}\n", config)
    assert (ROOT / ADAPTER / "values.yaml").exists()
