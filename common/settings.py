"""The settings of this process: command line > environment > file > defaults, and where each value came from.

The keys are in ``settings_table.py``. Loading finds every problem, not only the first: ``shoal config check`` prints
them all, everything else stops at the first one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, cast

from .errors import UsageError
from .secrets import Secret, SecretRef, credential_path, redact
from .settings_collect import CollectSettings, ToolsSettings
from .settings_fields import Key, Section
from .settings_kinds import BadValue, Context, expand_path
from .settings_library import LibrarySettings
from .settings_nas import NasSettings
from .settings_sources import ConfigFile, Given, Origin, Rank, find_file, from_environment, read_file
from .settings_table import (
    SECTIONS,
    AgentSettings,
    CoordinatorSettings,
    FetchSettings,
    HostSettings,
    HubSettings,
    LogSettings,
    QuotaSettings,
    S3Settings,
    SecuritySettings,
    SwarmSettings,
)
from .settings_web import WebSettings

_DEFAULT = Origin(Rank.DEFAULT)
_TABLE: dict[str, dict[str, Key]] = {section.name: {key.name: key for key in section.table()} for section in SECTIONS}


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """Every effective setting; ``Settings()`` holds the defaults."""

    coordinator: CoordinatorSettings = field(default_factory=CoordinatorSettings)
    agent: AgentSettings = field(default_factory=AgentSettings)
    hub: HubSettings = field(default_factory=HubSettings)
    s3: Mapping[str, S3Settings] = field(default_factory=dict[str, S3Settings])  # by profile in lower case
    fetch: FetchSettings = field(default_factory=FetchSettings)
    swarm: SwarmSettings = field(default_factory=SwarmSettings)
    nas: NasSettings = field(default_factory=NasSettings)
    collect: CollectSettings = field(default_factory=CollectSettings)
    tools: ToolsSettings = field(default_factory=ToolsSettings)
    hosts: Mapping[str, HostSettings] = field(default_factory=dict[str, HostSettings])  # by host name in lower case
    library: LibrarySettings = field(default_factory=LibrarySettings)
    web: WebSettings = field(default_factory=WebSettings)
    security: SecuritySettings = field(default_factory=SecuritySettings)
    quota: QuotaSettings = field(default_factory=QuotaSettings)
    log: LogSettings = field(default_factory=LogSettings)
    config_file: Path | None = None
    origins: Mapping[str, Origin] = field(default_factory=dict[str, Origin], repr=False)

    def origin_of(self, name: str) -> Origin:
        """Where the value of ``"fetch.attempts"`` or ``"hosts.NAME.rate"`` came from."""
        return self.origins.get(name, _DEFAULT)

    def values(self) -> Iterator[tuple[str, Key, object]]:
        """Every setting: its name, its key of the table, its value."""
        for section in SECTIONS:
            part = getattr(self, section.name)
            tables: Mapping[str, object] = part if section.named else {"": part}
            for name, table in tables.items():
                for key in _TABLE[section.name].values():
                    yield _full_name(section, name, key.name), key, getattr(table, key.name)


class Problem(NamedTuple):
    """One thing that is wrong with the configuration."""

    name: str  # of the setting
    origin: Origin
    cause: str
    remedy: str = ""

    def error(self) -> UsageError:
        """The problem as an error."""
        where = "" if self.origin is _DEFAULT else f" ({self.origin})"
        return UsageError(f"setting {self.name}{where}", cause=self.cause, remedy=self.remedy)


def load_settings(
    *,
    environ: Mapping[str, str],
    cwd: Path,
    overrides: Mapping[str, object] | None = None,
    config_file: Path | None = None,
) -> Settings:
    """The effective settings.

    Args: overrides holds what the command line gave, by name (``"fetch.attempts"``), as text or as TOML values; None means
    not given. config_file is ``--config``; without it the usual places are searched.
    Raises: UsageError for the first problem; its remedy tells how many more there are.
    """
    settings, problems = load_anyway(environ=environ, cwd=cwd, overrides=overrides, config_file=config_file)
    if problems:
        error = problems[0].error()
        if len(problems) > 1:
            more = f"{len(problems) - 1} more: shoal config check lists them"
            raise UsageError(error.thing, cause=error.cause, remedy=f"{error.remedy}; {more}" if error.remedy else more)
        raise error
    return settings


def load_anyway(
    *,
    environ: Mapping[str, str],
    cwd: Path,
    overrides: Mapping[str, object] | None = None,
    config_file: Path | None = None,
) -> tuple[Settings, list[Problem]]:
    """As `load_settings`, with the default wherever a value is bad, and every problem. Raises UsageError for an unreadable file."""
    path = find_file(config_file, environ, cwd)
    return _Loader(environ, cwd, read_file(path) if path else None, overrides or {}, environ).load()


def check_file(path: Path, *, environ: Mapping[str, str], cwd: Path) -> list[Problem]:
    """Every problem of one file, taken alone. ``environ`` serves only to expand variables in paths.

    Raises: UsageError when the file cannot be read or is not TOML.
    """
    return _Loader({}, cwd, read_file(cwd / path), {}, environ).load()[1]


class _Loader:
    """One pass over the table. Collects problems and goes on with the default where a value is bad."""

    def __init__(
        self,
        environ: Mapping[str, str],
        cwd: Path,
        file: ConfigFile | None,
        overrides: Mapping[str, object],
        expansions: Mapping[str, str],
    ) -> None:
        self._environ = environ
        self._cwd = cwd
        self._file = file
        self._expansions = expansions
        self._problems: list[Problem] = []
        self._origins: dict[str, Origin] = {}
        self._overrides: dict[str, dict[str, dict[str, Given]]] = {}
        self._in_file: dict[str, dict[str, dict[str, Given]]] = {}
        self._read_overrides(overrides)
        if file is not None:
            self._read_tables(file)

    def load(self) -> tuple[Settings, list[Problem]]:
        parts: dict[str, object] = {}
        for section in SECTIONS:
            given, in_file = self._overrides.get(section.name, {}), self._in_file.get(section.name, {})
            names = dict.fromkeys([*given, *in_file]) if section.named else {"": None}
            tables = {name: self._table(section, name, given.get(name, {}), in_file.get(name, {})) for name in names}
            parts[section.name] = tables if section.named else tables[""]
        settings = Settings(
            **cast("dict[str, Any]", parts), config_file=self._file.path if self._file else None, origins=self._origins
        )
        self._problems.extend(_contradictions(settings))
        return settings, self._problems

    def _table(self, section: Section, name: str, given: dict[str, Given], in_file: dict[str, Given]) -> object:
        values: dict[str, object] = {}
        sources: dict[str, list[Given]] = {}
        for key in _TABLE[section.name].values():
            found = [given[key.name]] if key.name in given else []
            if not section.named:
                found += from_environment(section, key, self._environ, self._cwd)
            if key.name in in_file:
                found.append(in_file[key.name])
            sources[key.name] = found
            values[key.name] = self._value(_full_name(section, name, key.name), key, found[0] if found else None)
        for key in _TABLE[section.name].values():
            if key.kind.secret:
                values[key.name] = self._secret(_full_name(section, name, key.name), key, sources)
        return section.cls(**values)

    def _value(self, full_name: str, key: Key, given: Given | None) -> object:
        if given is not None:
            try:
                value = (
                    key.kind.from_text(given.value) if given.is_text and isinstance(given.value, str) else given.value
                )
                parsed = key.kind.parse(value, Context(environ=self._expansions, base=given.base))
                self._origins[full_name] = given.origin
                return parsed
            except BadValue as error:
                # What was written helps to find it, but a secret must not be repeated.
                shown = "the value" if key.kind.secret else redact(repr(given.value))
                self._problem(full_name, given.origin, f"{shown} {error}")
        return key.kind.parse(key.default, Context(environ=self._expansions, base=self._cwd))

    def _secret(self, full_name: str, key: Key, sources: Mapping[str, list[Given]]) -> SecretRef:
        """The best source among KEY, KEY_env and KEY_file. Two of them from one place contradict each other."""
        candidates = [
            (given, suffix) for suffix in ("", "_env", "_file") for given in sources.get(key.name + suffix, [])[:1]
        ]  # fmt: skip
        candidates = [(given, suffix) for given, suffix in candidates if given.value != ""]
        if not candidates:
            return self._stored_login() if full_name == "hub.token" else SecretRef(name=full_name)
        candidates.sort(key=lambda candidate: candidate[0].origin.rank)
        given, suffix = candidates[0]
        if len(candidates) > 1 and candidates[1][0].origin.rank == given.origin.rank:
            names = " and ".join(full_name + suffix for _, suffix in candidates if _.origin.rank == given.origin.rank)
            self._problem(full_name, given.origin, f"{names} are given together", "keep one of them")
        self._origins[full_name] = given.origin
        text = given.value if isinstance(given.value, str) else ""  # another type was reported as a problem already
        if suffix == "_env":
            value = self._environ.get(text)
            return SecretRef(name=full_name, env=text, value=Secret(value) if value else None)
        if suffix == "_file":
            try:
                path = str(expand_path(text, Context(environ=self._expansions, base=Path())))
            except BadValue as error:
                self._problem(f"{full_name}_file", given.origin, f"{text!r} {error}")
                return SecretRef(name=full_name)
            return SecretRef(
                name=full_name, file=credential_path(path, base=given.base, environ=self._expansions)
            )  # fmt: skip
        return SecretRef(name=full_name, value=Secret(text) if text else None)

    def _stored_login(self) -> SecretRef:
        """The token that the Hub's command line stored: $HF_TOKEN_PATH, else $HF_HOME/token."""
        path = self._environ.get("HF_TOKEN_PATH")
        if not path:
            path = f"{self._environ.get('HF_HOME') or '$XDG_CACHE_HOME/huggingface'}/token"
        try:
            file = expand_path(path, Context(environ=self._environ, base=self._cwd))
        except BadValue:
            return SecretRef(name="hub.token")
        login = SecretRef(name="hub.token", file=file, optional=True)
        if login.is_set:
            self._origins["hub.token"] = Origin(Rank.DEFAULT, f"stored login {file}")
        return login

    def _read_overrides(self, overrides: Mapping[str, object]) -> None:
        for full_name, value in overrides.items():
            if value is None:
                continue
            section_name, _, rest = full_name.partition(".")
            name, _, key_name = rest.rpartition(".")
            origin = Origin(Rank.COMMAND_LINE)
            section = next((section for section in SECTIONS if section.name == section_name), None)
            if section is None or bool(name) != section.named or key_name not in _TABLE[section_name]:
                self._unknown(full_name, origin)
                continue
            given = Given(value, origin, isinstance(value, str), self._cwd)
            self._overrides.setdefault(section_name, {}).setdefault(name.lower(), {})[key_name] = given

    def _read_tables(self, file: ConfigFile) -> None:
        for section_name, content in file.tables.items():
            section = next((section for section in SECTIONS if section.name == section_name), None)
            origin = Origin(Rank.FILE, str(file.path), file, (section_name,))
            if section is None:
                self._unknown(section_name, origin)
            elif not isinstance(content, dict):
                self._problem(section_name, origin, f"it is a section, not a value: write [{section_name}]")
            elif section.named:
                for name, table in cast("dict[str, object]", content).items():
                    self._read_table(section, name, table, file)
            else:
                self._read_table(section, "", cast(object, content), file)

    def _read_table(self, section: Section, name: str, table: object, file: ConfigFile) -> None:
        path = (section.name, name) if section.named else (section.name,)
        if not isinstance(table, dict):
            origin = Origin(Rank.FILE, str(file.path), file, path)
            self._unknown_or_misplaced(section, name, origin)
            return
        found = self._in_file.setdefault(section.name, {}).setdefault(name.lower(), {})
        for key_name, value in cast("dict[str, object]", table).items():
            origin = Origin(Rank.FILE, str(file.path), file, (*path, key_name))
            if key_name in _TABLE[section.name]:
                found[key_name] = Given(value, origin, False, file.path.parent)
            else:
                self._unknown(_full_name(section, name, key_name), origin)

    def _unknown_or_misplaced(self, section: Section, name: str, origin: Origin) -> None:
        remedy = f'write [{section.name}."NAME"] above it' if name in _TABLE[section.name] else ""
        self._problem(f"{section.name}.{name}", origin, f"[{section.name}] holds one table per name, no values", remedy)

    def _unknown(self, full_name: str, origin: Origin) -> None:
        nearest = nearest_name(full_name)
        kind = "section" if "." not in full_name and isinstance(self._tables_value(full_name), dict) else "key"
        self._problem(full_name, origin, f"unknown {kind}", f"did you mean {nearest}?" if nearest else _SEE_DOCS)

    def _tables_value(self, name: str) -> object:
        return self._file.tables.get(name) if self._file else None

    def _problem(self, name: str, origin: Origin, cause: str, remedy: str = "") -> None:
        self._problems.append(Problem(name=name, origin=origin, cause=cause, remedy=remedy))


_SEE_DOCS = "shoal config init writes a sample with every key"


def nearest_name(full_name: str) -> str | None:
    """The section or setting whose name is nearest to a misspelt one."""
    import difflib  # costs milliseconds, and only a mistake needs it

    section_name, _, rest = full_name.partition(".")
    if not rest:
        homes = [f"{section.name}.{full_name}" for section in SECTIONS if full_name in _TABLE[section.name]]
        candidates = difflib.get_close_matches(full_name, list(_TABLE), n=1, cutoff=0.6)
        return homes[0] if homes else candidates[0] if candidates else None
    key_name = rest.rpartition(".")[2]
    if section_name in _TABLE:
        near = difflib.get_close_matches(key_name, list(_TABLE[section_name]), n=1, cutoff=0.6)
        if near:
            return f"{full_name.removesuffix(key_name)}{near[0]}"
    everywhere = [f"{section}.{key}" for section, keys in _TABLE.items() for key in keys]
    same_key = [name for name in everywhere if name.partition(".")[2] == key_name]
    near = same_key or difflib.get_close_matches(full_name, everywhere, n=1, cutoff=0.6)
    return near[0] if near else None


def _contradictions(settings: Settings) -> Iterator[Problem]:
    """Values that are good alone and make no sense together."""
    coordinator, security = settings.coordinator, settings.security
    if coordinator.heartbeat <= 0 or coordinator.heartbeat * 2 > coordinator.lease_ttl:
        cause = "coordinator.heartbeat must be above 0 and at most half of coordinator.lease_ttl"
        name = "coordinator.heartbeat"
        yield Problem(name=name, origin=_first_given(settings, name, "coordinator.lease_ttl"), cause=cause)
    if (security.tls_cert is None) != (security.tls_key is None):
        name = "security.tls_key" if security.tls_key is None else "security.tls_cert"
        origin = _first_given(settings, "security.tls_cert", "security.tls_key")
        yield Problem(name=name, origin=origin, cause="tls_cert and tls_key are needed together", remedy=f"set {name}")
    if (settings.web.tls_cert is None) != (settings.web.tls_key is None):
        name = "web.tls_key" if settings.web.tls_key is None else "web.tls_cert"
        origin = _first_given(settings, "web.tls_cert", "web.tls_key")
        yield Problem(name=name, origin=origin, cause="tls_cert and tls_key are needed together", remedy=f"set {name}")
    if settings.agent.memory_limit < MEMORY_LIMIT_BYTES_MIN:
        name = "agent.memory_limit"
        yield Problem(name=name, origin=settings.origin_of(name), cause="an agent cannot work with less than 64MiB")
    if not settings.hub.endpoint:
        yield Problem(name="hub.endpoint", origin=settings.origin_of("hub.endpoint"), cause="at least one is needed")
    for profile, store in settings.s3.items():
        if store.access_key_id.is_set != store.secret_access_key.is_set:
            name = f"s3.{profile}.{'secret_access_key' if store.access_key_id.is_set else 'access_key_id'}"
            cause = "access_key_id and secret_access_key are needed together"
            yield Problem(name=name, origin=settings.origin_of(name), cause=cause, remedy=f"set {name}")
        elif store.anonymous and store.access_key_id.is_set:
            name = f"s3.{profile}.anonymous"
            yield Problem(name=name, origin=settings.origin_of(name), cause="keys are given as well", remedy="drop one")
    for name in ("fetch.connect_timeout", "fetch.read_timeout"):
        if getattr(settings.fetch, name.partition(".")[2]) <= 0:
            yield Problem(name=name, origin=settings.origin_of(name), cause="must be above 0")
    if not 1.0 <= settings.fetch.lock_expiry <= 3600.0:
        name = "fetch.lock_expiry"
        yield Problem(name=name, origin=settings.origin_of(name), cause="must be from 1s to 1h")
    if settings.fetch.chunk_size is not None and settings.fetch.chunk_size < CHUNK_SIZE_BYTES_MIN:
        name = "fetch.chunk_size"
        yield Problem(name=name, origin=settings.origin_of(name), cause='must be at least 64KiB, or "auto"')


MEMORY_LIMIT_BYTES_MIN = 64 * 1024**2  # the interpreter and its libraries alone take about this much
CHUNK_SIZE_BYTES_MIN = 64 * 1024  # below this a request costs more than its bytes


def _first_given(settings: Settings, *names: str) -> Origin:
    return min((settings.origin_of(name) for name in names), key=lambda origin: origin.rank)


def _full_name(section: Section, name: str, key: str) -> str:
    return f"{section.name}.{name}.{key}" if section.named else f"{section.name}.{key}"
