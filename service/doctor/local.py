"""The rungs on this machine: files, settings, key, proxy. They judge what has been read; nothing is sent anywhere."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from service.doctor import sources
from service.doctor.env_files import EnvFiles, find_env_files
from service.doctor.steps import Finding, StepFailed, step_failed
from service.failures import Failure
from service.realtime.keys import family_of, fingerprint, lint
from service.realtime.names import is_loopback
from service.settings import SETTING_NAMES, Settings, SettingsRejected, load_settings
from service.settings.envfiles import ENVIRONMENT_ORIGIN, Layers, read_layers
from service.settings.warnings import find_warnings
from service.upstream.proxy import PROXY_SETTING, PROXY_VARIABLES, InvalidProxy, bypasses_proxy, parse_proxy
from service.upstream.target import Target

OUTDATED_KEY_ADVICE: Final = (
    "Outdated advice: a key need not have 51 characters, and one that begins with 'sk' and 'proj' is right. Project keys "
    "have 132 or 164 characters, service account keys 135 or 167; all of them open Realtime sessions."
)


class LocalConfiguration:
    """The settings of a process that is started in `directory` with `environ`, and where they come from."""

    def __init__(self, environ: Mapping[str, str], directory: Path) -> None:
        self.environ = environ
        self.directory = directory
        self.layers: Layers = read_layers(environ, directory)
        self.folder: EnvFiles = find_env_files(directory, environ)
        self.settings = Settings()

    @property
    def has_key(self) -> bool:
        """Whether any source that is read names a key, by itself or by a file."""
        names = (sources.KEY, f"{sources.KEY}_FILE")
        return any(self.layers.find(name) is not None for name in names)

    def secrets(self) -> list[str]:
        """What must not be printed."""
        return [*sources.secrets_of(self.layers), *self._secrets_of_settings()]

    def _secrets_of_settings(self) -> Iterator[str]:
        settings = self.settings
        key = settings.openai_api_key.reveal().strip() if settings.openai_api_key is not None else ""
        if key and not key.startswith(sources.SIMULATOR_PREFIX):
            yield key
        if settings.proxy is not None and settings.proxy.password is not None:
            yield settings.proxy.password.reveal()
        yield from (token.secret.reveal() for token in settings.client_tokens)

    # -- files --------------------------------------------------------------------------------------------------------

    async def files(self) -> Finding:
        """Which `.env` files exist, which were read, which were meant."""
        read = [file.name for file in self.folder.read]
        finding = (
            f"read: {', '.join(read)}" if read else f"no .env file in {self.directory}; only the environment counts"
        )
        remarks = [*self.folder.remarks]
        oddities = [f"{file.name} {remark}." for file in self.folder.read for remark in file.text.remarks]
        unread = [str(miss) for miss in self.folder.unread]
        # A file in another folder may belong to another program; it matters where the key is missing.
        matters = [miss for miss in self.folder.unread if not miss.elsewhere or not self.has_key]
        unreadable = any("cannot be read" in oddity or "was not read" in oddity for oddity in oddities)
        notes = [*(f"{remark}." for remark in remarks), *unread, *oddities]
        return Finding(finding, notes, "warn" if remarks or matters or unreadable else "ok")

    # -- settings -----------------------------------------------------------------------------------------------------

    async def read_settings(self) -> Finding:
        """Parse the settings; all mistakes break this rung together. Values that hide others, and odd names, warn."""
        notes = [f"{sentence}." for sentence in sources.disagreements(self.layers)]
        # Names like OPENAI_KEY are told of even where a key is found: somebody may be changing the wrong one.
        warnings = find_warnings(self.layers, SETTING_NAMES, has_key=False)
        notes += [f"{warning.variable} {warning.sentence}." for warning in warnings]
        notes += [f"{name} {sentence}" for name, sentence in sources.misspelt_names(self.layers)]
        empty = [f"{sentence}." for sentence in sources.empty_settings(self.layers)]
        try:
            self.settings = load_settings(self.environ, self.directory)
        except SettingsRejected as rejected:
            raise StepFailed(
                f"{len(rejected.problems)} setting(s) cannot be used; the relay would not start.",
                remedy="Correct them; 'python -m service settings' prints what each accepts.",
                notes=[*(f"{problem}." for problem in rejected.problems), *notes, *empty],
            ) from None
        if self.settings.openai_api_key_problem:
            notes.append(f"{self.settings.openai_api_key_problem}.")
        return Finding(self._summary(), [*notes, *empty], "warn" if notes else "ok")

    def _summary(self) -> str:
        shown = [f"{name} ({origin})" for name, origin in sorted(self.settings.origins.items())]
        return f"set: {', '.join(shown)}" if shown else "nothing is set; all defaults"

    # -- key ----------------------------------------------------------------------------------------------------------

    def check_key(self, target: Target, *, stands_in: bool) -> Finding:
        """Family, fingerprint, origin and lint of the key; raises Broken as the relay would refuse to dial."""
        if stands_in:
            return Finding(
                "no key was found: the built-in simulator stands in for OpenAI (RELAY_UPSTREAM=auto)",
                [*self.hints(), "Set OPENAI_API_KEY to reach OpenAI."],
                "warn",
            )
        key = self.settings.openai_api_key.reveal() if self.settings.openai_api_key is not None else None
        if target.simulated and key is None:
            return Finding("RELAY_UPSTREAM=simulator: the built-in simulator needs none")
        problems = lint(key, target.label)
        words = [f"{problem.sentence} {problem.remedy}" for problem in problems]
        fatal = [problem for problem in problems if problem.fatal]
        if key is None or fatal:
            reason = "key_missing" if key is None or fatal[0].code == "missing" else "key_malformed"
            shown = [self._shown_key(key)] if key is not None else []
            notes = [*words, *shown, *(self.hints() if reason == "key_missing" else ())]
            raise step_failed(Failure(reason), *notes)
        words += self._family_notes(key, target)
        return Finding(self._shown_key(key), [*words, *self._facts(target)], "warn" if words else "ok")

    def hints(self) -> list[str]:
        """Where the key may be that was not found."""
        hints = [self.settings.openai_api_key_problem] if self.settings.openai_api_key_problem else []
        hints += [sentence for sentence in sources.empty_settings(self.layers) if sentence.startswith(sources.KEY)]
        hints += [
            f"{warning.variable} {warning.sentence}"
            for warning in find_warnings(self.layers, SETTING_NAMES, has_key=False)
            if sources.KEY in warning.sentence
        ]
        hints += [
            f"{name} {sentence}" for name, sentence in sources.misspelt_names(self.layers) if sources.KEY in sentence
        ]
        hints += [str(miss).removesuffix(".") for miss in self.folder.unread if miss.holds_key]
        hints += [
            f"{file.name} {remark}"
            for file in self.folder.read
            for remark in file.text.remarks
            if "cannot be read" in remark or "looks like a key" in remark
        ]
        return [f"Probably this: {hint}." for hint in dict.fromkeys(hints)]

    def _shown_key(self, key: str) -> str:
        origin = self.settings.origins.get(sources.KEY, "unknown")
        shown = "the environment" if origin == ENVIRONMENT_ORIGIN else origin
        return f"{fingerprint(key)}, from {shown}"

    def _family_notes(self, key: str, target: Target) -> list[str]:
        family = family_of(key).name
        if target.label == "openai" and family == "simulator key":
            return ["This is a key of the simulator; OpenAI will refuse it."]
        if target.label == "openai" and family == "client secret":
            return ["A client secret opens sessions for some minutes only; a relay needs a project key."]
        return []

    def _facts(self, target: Target) -> list[str]:
        facts = []
        if target.label == "openai":
            facts.append(OUTDATED_KEY_ADVICE)
            if family_of(self.settings.openai_api_key.reveal() if self.settings.openai_api_key else "").name in {
                "project key",
                "service account key",
            }:
                facts.append("The key belongs to one project; whether it is restricted shows in the rungs below.")
        for name, value in (("OPENAI_ORG_ID", target.organization), ("OPENAI_PROJECT_ID", target.project)):
            if value:
                facts.append(f"{name} is sent along; it has to be the key's own.")
        return facts

    # -- proxy --------------------------------------------------------------------------------------------------------

    def check_proxy(self, target: Target) -> Finding:
        """Whether the way leads through a proxy, and which variables say so or are passed over."""
        host = urlsplit(target.base_url).hostname or ""
        named = [name for name in PROXY_VARIABLES if self.environ.get(name, "").strip()]
        notes = [
            f"{name} in {layer.origin} is not read; proxies are taken from the environment only, or from {PROXY_SETTING}."
            for layer in self.layers.layers[1:]
            for name in (*PROXY_VARIABLES, "http_proxy", "HTTP_PROXY")
            if layer.values.get(name, "").strip()
        ]
        if target.proxy is not None:
            who = " with a user and password" if target.proxy.user else ""
            return Finding(
                f"through {target.proxy.url}{who} (from {target.proxy.origin})", notes, "warn" if notes else "ok"
            )
        if target.simulated or is_loopback(host):
            return Finding("none: the upstream is on this machine", notes)
        if not named:
            return Finding("none: no proxy is set", notes, "warn" if notes else "ok")
        shown = _shown_proxy(self.environ[named[0]], named[0])
        if self.settings.upstream_proxy is None:
            notes.insert(
                0,
                f"{named[0]} is set ({shown}) but not used, because {PROXY_SETTING} is off; set it to auto to use it.",
            )
            return Finding("direct", notes, "warn")
        if bypasses_proxy(host, self.environ):
            return Finding(
                f"direct: NO_PROXY excepts {host} from {named[0]} ({shown})", notes, "warn" if notes else "ok"
            )
        return Finding("direct", notes, "warn" if notes else "ok")

    def unused_proxy(self, target: Target) -> list[str]:
        """A hint for rungs of the network that break although a proxy could have been used."""
        named = [name for name in PROXY_VARIABLES if self.environ.get(name, "").strip()]
        host = urlsplit(target.base_url).hostname or ""
        if target.proxy is not None or not named or is_loopback(host) or self.settings.upstream_proxy is not None:
            return []
        return [f"{named[0]} is set: this network may want a proxy. {PROXY_SETTING}=auto would use it."]


def _shown_proxy(value: str, name: str) -> str:
    try:
        return parse_proxy(value, name).url
    except InvalidProxy:
        return "which is not the URL of a proxy"
