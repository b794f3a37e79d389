"""Remedies chosen by evidence: the target, the settings and the environment of the relay. Pure but for `os.environ`.

A hint of the translation table, which is about the answer itself, has precedence; the catalogue's remedy is the default.
"""

import os
import platform
from collections.abc import Mapping
from http import HTTPStatus
from pathlib import Path
from typing import Final

from yarl import URL

from service.failures import Failure
from service.realtime.events import Api
from service.realtime.live import is_live_model, is_realtime_model
from service.realtime.redaction import redact
from service.upstream import certificates
from service.upstream.proxy import PROXY_SETTING, HttpProxy
from service.upstream.target import DialRequest, Target

_AZURE: Final = {
    "key_rejected": "Copy KEY 1 or KEY 2 of the resource (Azure portal: Keys and Endpoint) to OPENAI_API_KEY or its "
    "file, and check that OPENAI_BASE_URL names the same resource.",
    "key_forbidden": "Give the identity of the key a role on the resource, such as 'Cognitive Services OpenAI User', "
    "and check that key access is enabled for it (disableLocalAuth=false).",
    "account_refused": "Check in the Azure portal that the subscription and the resource are active and that OPENAI_BASE_URL "
    "names the resource of the key.",
    "quota_exhausted": "Check the subscription's billing and the quota of the deployment in the Azure portal. Waiting "
    "does not help.",
    "rate_limited": "Raise the deployment's capacity in the Azure portal, or find the client that opens most connections by "
    "the log field client.",
    "model_not_found": "Set RELAY_MODEL, or the client's ?model=, to the name of the deployment, and check that the "
    "deployment is a Realtime model of the resource in OPENAI_BASE_URL.",
    "network_not_allowed": "Connect through the resource's private endpoint: its name has to resolve to the private "
    "address where the relay runs. Or add the relay's public address under Networking of the resource.",
    "upstream_overloaded": "Check https://azure.status.microsoft.",
    "upstream_error": "Check https://azure.status.microsoft.",
    "bad_reply": "Set OPENAI_BASE_URL to https://<resource>.openai.azure.com/openai/v1, or remove the proxy that "
    "answers in place of the provider.",
}
_COMPATIBLE: Final = {
    "key_rejected": "Set OPENAI_API_KEY, or its file, to a key that the server {host} issued; OPENAI_BASE_URL (read from "
    "{base_url_from}) selects that server.",
    "key_forbidden": "Check the permissions of the key at the server {host}, which OPENAI_BASE_URL (from {base_url_from}) "
    "selects.",
    "quota_exhausted": "Check the credit and the limits of the key at the server {host}, which OPENAI_BASE_URL (read from "
    "{base_url_from}) selects.",
    "upstream_overloaded": "Check the server {host} and its log.",
    "upstream_error": "Check the server {host} and its log.",
}
_FORBIDDEN_PATH: Final = (
    "HTTP 403 without an error code is also the answer to a wrong path. Correct OPENAI_BASE_URL (from {base_url_from}): "
    "{base_form}. {path_advice} If its path is right, check the permissions of the key."
)
_LIVE_ROUTE: Final = (
    "The Realtime API serves no model of GPT-Live. Connect to /v1/live/sessions in place of /v1/realtime, with a client of "
    "GPT-Live, which is another protocol, and name the model in session.start. RELAY_MODEL is for models of the Realtime API."
)
_REALTIME_ROUTE: Final = (
    "GPT-Live serves no model of the Realtime API. Connect to /v1/realtime?model=<name> in place of /v1/live/sessions, with "
    "a client of the Realtime API, which is another protocol; or name a model such as gpt-live-1 in session.start."
)
_LIVE_MODEL: Final = (
    "Correct the model in the client's session.start, and the model of its delegation if it names one: it has to be a model "
    "of GPT-Live, such as gpt-live-1, to which the project of the key has access. On Azure, use the name of the deployment."
)
_ATTACH: Final = (
    "Attach to a session while it is open. Only sessions over WebRTC or SIP accept that, and only with the key that created "
    "them: a session over a WebSocket, such as those of this relay, answers in the same way as one that does not exist."
)
_NOT_STARTED: Final = (
    "The provider did not answer session.start in time. Retry with a new session. "
    "If it persists, check the provider's status page."
)
_AZURE_REDIRECT: Final = (
    "If the server is Azure OpenAI under another name, set OPENAI_BASE_URL to https://<resource>.openai.azure.com/openai/v1: "
    "Azure redirects a key that is sent as Bearer, and only for its own names the relay sends the header api-key. Otherwise "
    "set OPENAI_BASE_URL to the final address."
)
_STATUS_PAGE: Final = "https://status.openai.com"
_STATUS_PAGES: Final[Mapping[str, str]] = {
    "azure": "https://azure.status.microsoft",
    "compatible": "the server {host} and its log",
}
CLIENTS_FIRST: Final = {
    "rate_limited": "Wait for the seconds in Retry-After, if there is one, then open connections at a lower rate.",
    "upstream_overloaded": "Retry with exponential backoff.",
    "upstream_error": "Retry with exponential backoff.",
}
"""What a client does. Only the operator can do what the hint adds."""
_DNS_HINT: Final = (
    "Check the host in OPENAI_BASE_URL (from {base_url_from}) and the relay's DNS resolver: run 'getent hosts {host}' where "
    "the relay runs."
)
_AZURE_FORM: Final = "the form for Azure is https://<resource>.openai.azure.com/openai/v1"
_COMMON_FORM: Final = "OpenAI-compatible servers end in /v1, and OpenAI's address is https://api.openai.com/v1"
UNNAMED_FACTS: Final = {
    "host": "<its host>",
    "port": "<its port>",
    "path": "<the path that the log names>",
    "base_url_from": "the relay's settings",
}


def facts_of(target: Target, path: str) -> dict[str, str]:
    """The facts of a request that hints and evidence may name. The path has no query; a gateway's can hold a key."""
    base = URL(target.base_url)
    is_bare = base.path.strip("/") == ""
    host = base.host or ""
    return {
        "path": redact(path),
        "host": host,
        "port": str(base.port),
        "label": target.label,
        "base_form": _AZURE_FORM if target.label == "azure" else _COMMON_FORM,
        "base_url_from": target.base_url_from or "the default",
        "path_advice": "It has no path: append /v1 and restart the relay." if is_bare else "Then restart the relay.",
    }


def for_clients(facts: Mapping[str, str]) -> dict[str, str]:
    """The facts as a client may know them: without the operator's address, unless it is the public one of OpenAI."""
    if facts.get("label", "openai") == "openai":
        return dict(facts)
    return {**facts, **{name: text for name, text in UNNAMED_FACTS.items() if name in facts}}


_SCENARIO_HINT: Final = (
    "Remove 'simulate' from the query, or use a name that 'python -m service simulate --help' lists: the simulator knows no "
    "scenario of this name."
)


def add_hint(
    failure: Failure,
    target: Target,
    environ: Mapping[str, str] | None = None,
    *,
    request: DialRequest | None = None,
    model: str | None = None,
) -> None:
    """Complete the evidence of a failed dial, and set its hint if there is a better remedy than the catalogue's.

    `model` is the model in the client's `session.start`; that of a Realtime request is in its query.
    """
    if failure.evidence:
        failure.evidence = {"base_url_from": facts_of(target, "")["base_url_from"], **failure.evidence}
    if failure.upstream_code == "unknown_scenario":
        failure.hint = failure.client_hint = _SCENARIO_HINT
    elif failure.hint is None and (advice := _advice_for_request(failure, target, request or DialRequest(), model)):
        failure.hint = failure.client_hint = advice
    elif failure.hint is None and not target.simulated:
        template = _template(failure, target, os.environ if environ is None else environ)
        facts, action = facts_of(target, ""), failure.row.operator_action
        if template is not None:
            failure.hint = template.format_map(facts)
            failure.client_hint = CLIENTS_FIRST.get(failure.reason) or template.format_map(for_clients(facts))
        elif target.label in _STATUS_PAGES and _STATUS_PAGE in action:
            failure.hint = action.replace(_STATUS_PAGE, _STATUS_PAGES[target.label].format_map(facts))
            failure.client_hint = failure.row.remedy


def _advice_for_request(failure: Failure, target: Target, request: DialRequest, model: str | None) -> str | None:
    """The remedy that follows from what the client requested: the wrong API for its model, or an endpoint of GPT-Live."""
    is_live = request.api is Api.LIVE
    match failure.reason:
        case "model_not_found" if is_live:
            return _REALTIME_ROUTE if is_realtime_model(model or "") else _LIVE_MODEL
        case "model_not_found" if is_live_model(request.model):
            return _LIVE_ROUTE
        case "call_not_found" if is_live:
            return _ATTACH
        case "first_event_timeout" if is_live:
            return _NOT_STARTED
        case "redirect_refused" if is_live and target.label == "compatible":
            return _AZURE_REDIRECT
        case _:
            return None


def _template(failure: Failure, target: Target, environ: Mapping[str, str]) -> str | None:
    match failure.reason:
        case "dns_failed":
            return _DNS_HINT
        case "tls_untrusted":
            return certificates.remedy_of(failure.evidence, failure.detail, environ)
        case "proxy_failed" if target.proxy is not None:
            remedy = certificates.remedy_of_proxy(failure.evidence, failure.detail, environ, target.proxy.origin)
            return remedy or _of_proxy_variable(failure, target.proxy)
        case "proxy_auth_failed" if target.proxy is not None and target.proxy.user is None:
            return (
                f"The proxy requires credentials and none are set. Set them in {target.proxy.origin}: "
                "http://user:password@host:port. Write special characters of the password as %XX."
            )
        case "proxy_auth_failed" if target.proxy is not None:
            return _of_proxy_variable(failure, target.proxy)
        case "key_forbidden" if _may_be_wrong_path(failure, target):
            return _FORBIDDEN_PATH
        case "connect_refused" if target.proxy is None:
            return _refused_hint(URL(target.base_url))
        case _:
            tables = {"azure": _AZURE, "compatible": _COMPATIBLE}
            if failure.evidence.get("answered_by") == "other server" and failure.reason.startswith("upstream_"):
                return (
                    f"{failure.evidence.get('server', 'A server')} answered in place of the API. Check that server "
                    "and what it forwards to, then retry."
                )
            return tables.get(target.label, {}).get(failure.reason)


def _may_be_wrong_path(failure: Failure, target: Target) -> bool:
    """Whether a 403 may concern the path: OpenAI's edge answers upgrade requests for unknown paths with an empty one."""
    is_plain = failure.http_status == HTTPStatus.FORBIDDEN and failure.upstream_code is None
    return is_plain and target.label != "azure" and not URL(target.base_url).path.rstrip("/").endswith("/v1")


def _refused_hint(url: URL) -> str | None:
    host = url.host or ""
    if host in {"localhost", "127.0.0.1", "::1"}:
        place = (
            " In a container, localhost is the container itself: use the name of the service."
            if _in_container()
            else ""
        )
        return (
            f"Start the server that OPENAI_BASE_URL (from {{base_url_from}}) names, and check that it listens on "
            f"{{host}} port {{port}}.{place}"
        )
    return None


def _in_container() -> bool:
    return platform.system() == "Linux" and (Path("/.dockerenv").exists() or "KUBERNETES_SERVICE_HOST" in os.environ)


def _of_proxy_variable(failure: Failure, proxy: HttpProxy) -> str | None:
    """The catalogue's action with the variable in which RELAY_UPSTREAM_PROXY=auto found the proxy."""
    return None if proxy.origin == PROXY_SETTING else failure.row.operator_action.replace(PROXY_SETTING, proxy.origin)
