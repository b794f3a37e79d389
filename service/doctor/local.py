"""The steps on this machine, which send nothing: files, settings, key and proxy."""

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from service import configuration
from service.access.clients import JwtIssuer
from service.clients_file.mistakes import ClientsRejected
from service.doctor import sources
from service.doctor.env_files import EnvFiles, find_env_files
from service.doctor.env_text import KEY, Remark
from service.doctor.steps import Finding, StepFailed
from service.failures import Failure
from service.realtime.keys import Secret, family_of, fingerprint, lint
from service.realtime.names import is_loopback
from service.settings import SETTING_NAMES, SETTINGS, Settings, SettingsRejected, load_settings
from service.settings.effect import without_effect
from service.settings.envfiles import ENVIRONMENT_ORIGIN, Layers, read_layers
from service.settings.secrecy import Secrecy
from service.settings.warnings import find_warnings, ships_to_browsers
from service.startup import explain_records_error
from service.telemetry.records import check_writable
from service.upstream import key_lint
from service.upstream.file_reader import FileReader
from service.upstream.proxy import PROXY_SETTING, PROXY_VARIABLES, InvalidProxy, bypasses_proxy, parse_proxy
from service.upstream.secret_file import SecretFileError, printable_path
from service.upstream.target import Target

# Not 'sk-proj': the redaction of the output would remove it.
OUTDATED_KEY_ADVICE: Final = (
    "Ignore outdated advice: a key need not have 51 characters, and one that begins with 'sk' and 'proj' is valid. Project "
    "keys have 132 or 164 characters, service account keys 135 or 167; all of them open Realtime sessions."
)


_MAX_NAMES: Final = 10


class LocalConfiguration:
    """The configuration of a relay that is started in `directory` with `environ`.

    `settings` holds the defaults until `read_settings` has passed.
    """

    def __init__(self, environ: Mapping[str, str], directory: Path) -> None:
        self.environ = environ
        self.directory = directory
        self.layers: Layers = read_layers(environ, directory, SETTING_NAMES)
        self.env_files: EnvFiles = find_env_files(directory, environ)
        self.settings = Settings()
        self._client_secrets: tuple[Secret, ...] = ()
        self.issuers: tuple[JwtIssuer, ...] = ()  # of the clients file

    @property
    def has_key(self) -> bool:
        """Whether any source sets a key, directly or by file."""
        return any(self.layers.find(name) is not None for name in (KEY, f"{KEY}_FILE"))

    def secrets(self) -> list[str]:
        """Every secret that the output must not contain."""
        misplaced = Secrecy(self.layers, SETTINGS).misplaced.values()
        return [
            *sources.secrets_of(self.layers),
            *self._secrets_of_settings(),
            *(word.reveal() for words in misplaced for word in words),
        ]

    def _secrets_of_settings(self) -> Iterator[str]:
        settings = self.settings
        key = settings.openai_api_key.reveal().strip() if settings.openai_api_key is not None else ""
        if key and not key.startswith(sources.SIMULATOR_PREFIX):
            yield key
        if settings.proxy is not None and settings.proxy.password is not None:
            yield settings.proxy.password.reveal()
        if settings.store_url is not None and settings.store_url.password is not None:
            yield settings.store_url.password.reveal()
        yield from (token.secret.reveal() for token in settings.client_tokens)
        if settings.operator_token is not None:
            yield settings.operator_token.reveal()
        if settings.safety_key is not None:
            yield settings.safety_key.reveal()
        yield from (secret.reveal() for secret in self._client_secrets)

    # -- files --------------------------------------------------------------------------------------------------------

    async def check_files(self) -> Finding:
        """Report which `.env` files are read, and which files were probably meant to be."""
        files = self.env_files
        names = ", ".join(f"{file.name}{'' if file.text.is_whole else ' in part'}" for file in files.read)
        nothing = f"no .env file in {self.directory}; only the environment is used"
        text = f"read: {names}" if names else ("no .env file was read" if files.remarks else nothing)
        remarks = list(self._remarks())
        # A file in another directory may belong to another program; it matters only if the key is missing.
        relevant = [file for file in files.unread if not file.elsewhere or not self.has_key]
        is_warning = files.remarks or relevant or any(remark.is_lossy for _, remark in remarks)
        notes = [
            *(f"{remark}." for remark in files.remarks),
            *(str(file) for file in files.unread),
            *(f"{name} {remark.text}." for name, remark in remarks),
        ]
        return Finding(text, notes, "warn" if is_warning else "ok")

    def _remarks(self) -> Iterator[tuple[str, Remark]]:
        """The remarks on the files that are read, with their names."""
        for file in self.env_files.read:
            for remark in file.text.remarks:
                # 'rename it' is the wrong advice for a key that browsers have received: the settings advise to revoke it.
                if not (remark.explains_missing_key and any(map(ships_to_browsers, remark.text.split()))):
                    yield file.name, remark

    # -- settings -----------------------------------------------------------------------------------------------------

    async def read_settings(self) -> Finding:
        """Load the settings. Invalid ones fail this step, all together; overridden values and unknown names warn."""
        notes = [f"{sentence}." for sentence in sources.conflicting_values(self.layers)]
        # Thorough: a name such as OPENAI_KEY is worth a warning even if a key is found, since it may be the newer one.
        warnings = find_warnings(self.layers, SETTING_NAMES, has_key=self.has_key, is_thorough=True)
        sentences = (f"{warning.variable} {warning.sentence}" for warning in warnings)
        notes += [sentence if sentence.endswith("?") else f"{sentence}." for sentence in sentences]
        empty = [f"{sentence}." for sentence in sources.empty_settings(self.layers, in_environment=False)]
        try:
            self.settings = load_settings(self.environ, self.directory)
        except SettingsRejected as rejected:
            raise StepFailed(
                f"{len(rejected.problems)} invalid setting(s): the relay would not start.",
                remedy="Correct them; 'python -m service settings' prints the values that each setting accepts.",
                notes=[*(f"{problem}." for problem in rejected.problems), *notes, *empty],
            ) from None
        if self.settings.openai_api_key_problem:
            notes.append(f"{self.settings.openai_api_key_problem}.")
        notes += [f"{warning.variable} {warning.sentence}." for warning in without_effect(self.settings)]
        notes += await self._problems_of_records()
        return Finding(self._describe_origins(), [*notes, *empty], "warn" if notes else "ok")

    def _describe_origins(self) -> str:
        named = dict(self.settings.origins)
        if self.settings.openai_api_key_problem and (found := self.layers.find(f"{KEY}_FILE")):
            named[f"{KEY}_FILE"] = found[1]
        origins = [f"{name} ({origin})" for name, origin in sorted(named.items())]
        return f"set: {', '.join(origins)}" if origins else "all settings have their defaults"

    async def _problems_of_records(self) -> list[str]:
        target = self.settings.records
        if isinstance(target, str):
            return []
        name = f"RELAY_RECORDS {printable_path(str(target))}"
        try:
            await FileReader().read_in_thread(partial(check_writable, target))
        except SecretFileError as hangs:
            return [f"{name} {hangs}."]
        except OSError as exc:
            return [f"{name}: {' '.join(explain_records_error(target, exc))}"]
        return []

    # -- clients ------------------------------------------------------------------------------------------------------

    async def check_clients_file(self) -> Finding:
        """Report the clients of the file; mistakes in it fail this step, all together."""
        reader = configuration.clients_file(self.settings)
        if reader is None:
            return Finding("RELAY_CLIENTS_FILE is not set", status="skipped")
        try:
            loaded = await FileReader().read_in_thread(reader.load)
        except ClientsRejected as rejected:
            raise StepFailed(
                f"RELAY_CLIENTS_FILE has {len(rejected.mistakes)} mistake(s): the relay would not start.",
                remedy="Correct them; 'python -m service clients' checks the file alone.",
                notes=[str(mistake) for mistake in rejected.mistakes],
            ) from None
        except SecretFileError as error:
            raise StepFailed(f"RELAY_CLIENTS_FILE {error.cause}", remedy=f"{error.remedy}.") from None
        self._client_secrets, self.issuers = loaded.secrets, loaded.clients.issuers
        clients = loaded.clients.clients
        names = ", ".join(client.name for client in clients[:_MAX_NAMES])
        more = f" and {len(clients) - _MAX_NAMES} more" if len(clients) > _MAX_NAMES else ""
        notes = [f"The client {client.name} has enabled = false." for client in clients if not client.is_enabled]
        return Finding(f"{len(clients)} client(s): {names}{more}", notes)

    # -- key ----------------------------------------------------------------------------------------------------------

    def check_key(self, target: Target, *, is_fallback: bool) -> Finding:
        """Describe the key and its problems; raises StepFailed if the relay would not dial with it.

        `is_fallback`: the simulator is the target because there is no key.
        """
        if is_fallback:
            return self._check_fallback()
        key = self.settings.openai_api_key.reveal() if self.settings.openai_api_key is not None else None
        if target.simulated and key is None:
            return Finding("RELAY_UPSTREAM=simulator: the built-in simulator needs no key")
        if key is None and self.settings.openai_api_key_problem:
            refusal = key_lint.unreadable(self.settings.openai_api_key_problem)
            causes = [
                cause for cause in self._missing_key_causes() if self.settings.openai_api_key_problem not in cause
            ]
            raise StepFailed.from_failure(refusal.failure(), *causes)
        problems = lint(key, target.label)
        notes = [f"{problem.sentence} {problem.remedy}" for problem in problems]
        fatal = [problem for problem in problems if problem.fatal]
        if key is None or (fatal and fatal[0].code == "missing"):
            described = [self._describe_key(key)] if key is not None else []
            raise StepFailed.from_failure(Failure("key_missing"), *notes, *described, *self._missing_key_causes())
        if fatal:
            refusal = key_lint.refusal_for(fatal[0])
            others = [note for note in notes if note != refusal.hint]
            raise StepFailed.from_failure(refusal.failure(), *others, self._describe_key(key))
        notes += self._family_warnings(key, target)
        return Finding(self._describe_key(key), [*notes, *self._key_facts(key, target)], "warn" if notes else "ok")

    def _check_fallback(self) -> Finding:
        """RELAY_UPSTREAM=auto selects the simulator. That is no success if the user has set a key that is not read."""
        selected = "so RELAY_UPSTREAM=auto selects the built-in simulator"
        if self.unread_keys():
            raise StepFailed(
                f"a key is set but not read, {selected}",
                remedy="Correct the cause above, or set RELAY_UPSTREAM=simulator to use the simulator.",
                notes=self._missing_key_causes(),
            )
        notes = [*self._missing_key_causes(), "Set OPENAI_API_KEY to connect to OpenAI."]
        return Finding(f"no key is set, {selected}", notes, "warn")

    def _missing_key_causes(self) -> list[str]:
        """Where the key may be instead, for the case that none is found."""
        empty = [text for text in sources.empty_settings(self.layers, in_environment=True) if text.startswith(KEY)]
        # Compose sets both variables, empty: that of the file is then not a cause of its own.
        direct = [text for text in empty if text.startswith(f"{KEY} ")]
        return [f"Likely cause: {cause}." for cause in (*self.unread_keys(), *(direct or empty))]

    def unread_keys(self) -> list[str]:
        """Where a key is set but not read, and why, for the case that no key is read. One sentence each, without its dot."""
        causes = [self.settings.openai_api_key_problem] if self.settings.openai_api_key_problem else []
        causes += [
            f"{warning.variable} {warning.sentence}"
            for warning in find_warnings(self.layers, SETTING_NAMES, has_key=False, is_thorough=True)
            if KEY in warning.sentence
        ]
        causes += [str(file).removesuffix(".") for file in self.env_files.unread if file.holds_key]
        causes += [f"{name} {remark.text}" for name, remark in self._remarks() if remark.explains_missing_key]
        return list(dict.fromkeys(cause.removesuffix(".") for cause in causes))

    def _describe_key(self, key: str) -> str:
        origin = self.settings.origins.get(KEY, "unknown")
        return f"{fingerprint(key)}, from {'the environment' if origin == ENVIRONMENT_ORIGIN else origin}"

    def _family_warnings(self, key: str, target: Target) -> list[str]:
        family = family_of(key).name
        if target.label == "openai" and family == "simulator key":
            return ["This is a key of the simulator; OpenAI rejects it. Set OPENAI_API_KEY to a key of OpenAI."]
        if target.label == "openai" and family == "client secret":
            return ["A client secret expires within minutes. Set OPENAI_API_KEY to a project key."]
        return []

    def _key_facts(self, key: str, target: Target) -> list[str]:
        facts = []
        if target.label == "openai" and family_of(key).name in {"project key", "service account key"}:
            facts.append(
                "The key belongs to one project; the steps 'model' and 'first_event' show whether it is restricted."
            )
        for name, value in (("OPENAI_ORG_ID", target.organization), ("OPENAI_PROJECT_ID", target.project)):
            if value:
                facts.append(f"{name} is sent with each request; it must be the one that the key belongs to.")
        return facts

    # -- proxy --------------------------------------------------------------------------------------------------------

    def check_proxy(self, target: Target) -> Finding:
        """Report which proxy applies and why, and which proxy variables have no effect."""
        notes = [
            f"{name} in {layer.origin} is not read: proxy variables are read from the environment only. Set {PROXY_SETTING}."
            for layer in self.layers.layers[1:]
            for name in (*PROXY_VARIABLES, "http_proxy", "HTTP_PROXY")
            if layer.values.get(name, "").strip()
        ]
        text, warning = self._describe_proxy(target)
        if warning:
            notes.insert(0, warning)
        is_local = target.proxy is None and self._is_local(target)
        return Finding(text, notes, "warn" if notes and not is_local else "ok")

    def _describe_proxy(self, target: Target) -> tuple[str, str | None]:
        if target.proxy is not None:
            credentials = " with credentials" if target.proxy.user else ""
            return f"through {target.proxy.url}{credentials} (from {target.proxy.origin})", None
        if self._is_local(target):
            return "none: the upstream is on this machine", None
        variable = self._proxy_variable()
        if variable is None:
            return "none: no proxy is set", None
        try:
            url = parse_proxy(self.environ[variable], variable).url
        except InvalidProxy as exc:
            # If it is chosen, NO_PROXY excludes the host, or the start had failed.
            is_chosen = self.settings.upstream_proxy is not None
            return "direct", None if is_chosen else f"{variable} is not used. {_without_auto(exc)}"
        if self.settings.upstream_proxy is None:
            return "direct", (
                f"{variable} is set ({url}) but not used, because {PROXY_SETTING} is off. Set {PROXY_SETTING}=auto to use it."
            )
        host = _host(target)
        if bypasses_proxy(host, self.environ):
            return f"direct: NO_PROXY excludes {host} from {variable} ({url})", None
        return "direct", None

    def unused_proxy_notes(self, target: Target) -> list[str]:
        """A note for network steps that fail while a proxy variable is set but not used."""
        variable = self._proxy_variable()
        if (
            variable is None
            or target.proxy is not None
            or is_loopback(_host(target))
            or self.settings.upstream_proxy is not None
            or bypasses_proxy(_host(target), self.environ)
        ):
            return []
        try:
            parse_proxy(self.environ[variable], variable)
        except InvalidProxy as exc:
            return [f"{variable} is set but not used. {_without_auto(exc)}"]
        return [
            f"{variable} is set but not used. If this network requires a proxy, set {PROXY_SETTING}=auto to use it."
        ]

    def _proxy_variable(self) -> str | None:
        return next((name for name in PROXY_VARIABLES if self.environ.get(name, "").strip()), None)

    @staticmethod
    def _is_local(target: Target) -> bool:
        return target.simulated or is_loopback(_host(target))


def _host(target: Target) -> str:
    return urlsplit(target.base_url).hostname or ""


def _without_auto(invalid: InvalidProxy) -> str:
    """The advice where RELAY_UPSTREAM_PROXY=auto, which uses the variable, would stop the start."""
    cause = invalid.cause or "it is not the URL of an HTTP proxy"
    return (
        f"{PROXY_SETTING}=auto would stop the start: {cause}. If this network requires a proxy, set {PROXY_SETTING} to "
        "http://host:port of an HTTP proxy."
    )
