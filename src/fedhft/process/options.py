"""A process's settings as people give them: flags, environment, secrets in files, a settings file, in this order.

The command line is generated from the fields of the settings class, so each option is stated once.
"""

from __future__ import annotations

import argparse
import os
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin

from pydantic import ValidationError
from pydantic_settings import EnvSettingsSource, SecretsSettingsSource, SettingsError

from fedhft.documents import nearest, read_toml
from fedhft.errors import ErrorCode, FedhftError
from fedhft.process.settings import PREFIX, ProcessSettings, flag_of, missing, variable_of

S = TypeVar("S", bound=ProcessSettings)

_SOURCES = ("config", "secrets_dir")
"""Settings that say where the others come from; only a flag or a variable can give them."""
_EARLIER_NAMES = {"settings": "config", "format": "output"}
"""Flags and variables of earlier releases that still work and are not shown, with their names now."""
_SHORT = {"output": "-o"}
_SERVICE_LINK = re.compile(r"(tcp|udp|sctp)://")
_WRONG_TYPE = {
    "int_parsing": "is not a whole number",
    "float_parsing": "is not a number",
    "bool_parsing": "is neither true nor false",
}


@dataclass(frozen=True)
class Option:
    """A setting on the command line and in the environment."""

    name: str
    description: str
    default: str
    """As people write it; empty when there is none."""
    choices: tuple[str, ...] | None = None
    switch: bool = False
    """Whether the flag takes no value."""

    @property
    def flag(self) -> str:
        """--some-name."""
        return flag_of(self.name)

    @property
    def variable(self) -> str:
        """FEDHFT_SOME_NAME, with what to set it to if it is a switch."""
        return variable_of(self.name) + ("=1" if self.switch else "")


@dataclass(frozen=True)
class _Source:
    """Values from one source, and how messages refer to each of them."""

    values: Mapping[str, Any]
    place: Callable[[str], str]
    secret: bool = False


def options_of(kind: type[ProcessSettings]) -> list[Option]:
    """Every option of a process: first its own, then what it shares with others."""
    names = dict.fromkeys(name for base in kind.__mro__ for name in vars(base).get("__annotations__", ()))
    return [_option(kind, name) for name in names if name in kind.model_fields]


def service_links(kind: type[ProcessSettings], environment: Mapping[str, str]) -> list[str]:
    """Variables that Kubernetes made for a Service whose name resembles one of our settings; they are not settings.

    For a Service called fedhft-metrics every pod of the namespace gets FEDHFT_METRICS_PORT=tcp://10.96.0.12:9101.
    """
    names = [variable_of(name) for name in kind.model_fields if name.endswith("_port")]
    return [name for name in names if _SERVICE_LINK.match(environment.get(name, ""))]


def read_settings(kind: type[S], arguments: Sequence[str]) -> S:
    """The settings of a process; the first source that has a value wins.

    Ends the process as argparse does: with 0 after `--help`, and with 2 for an unknown flag or for a value, from
    whatever source, that has the wrong type or is not among the choices. Raises FedhftError(INVALID_ARGUMENT) for a
    value that its field's own rule refuses, a missing required one, a file that cannot be read or has an unknown key,
    a secret that is no setting.
    """
    parser = _parser(kind)
    flags = vars(parser.parse_args(list(arguments)))
    links = {name.removeprefix(PREFIX).lower() for name in service_links(kind, os.environ)}
    environment = {name: value for name, value in EnvSettingsSource(kind)().items() if name not in links}
    for earlier, name in _earlier_names(kind):
        if value := os.environ.get(variable_of(earlier)):
            environment.setdefault(name, value)
    sources = [_Source(flags, flag_of), _Source(environment, variable_of)]
    file, folder = ({**environment, **flags}.get(name) for name in _SOURCES)
    if folder:
        sources.append(_secrets(kind, Path(folder)))
    if file:
        sources.append(_settings_file(kind, Path(file)))
    values: dict[str, Any] = {}
    for source in reversed(sources):
        values.update(source.values)
    try:
        return kind(**values)
    except FedhftError as error:
        raise FedhftError(error.code, _without_secrets(error.message, values, sources)) from None
    except ValidationError as error:
        fault = error.errors()[0]
        name = str(fault["loc"][0])
        if fault["type"] == "missing":
            raise missing(name) from None
        if fault["type"] == "value_error":
            text = f"{flag_of(name)}: {fault['ctx']['error']}"
            raise FedhftError(ErrorCode.INVALID_ARGUMENT, _without_secrets(text, values, sources)) from None
        parser.error(_wrong_type(kind, name, fault["type"], fault["msg"], sources))


def _without_secrets(message: str, values: Mapping[str, Any], sources: Sequence[_Source]) -> str:
    """A refusal with the secrets in it replaced by the names of their files."""
    for source in sources:
        for name, value in source.values.items() if source.secret else ():
            if values[name] == value and str(value) in message:
                message = message.replace(repr(value), "***").replace(str(value), "***")
                message += f" ({source.place(name)})"
    return message


def _parser(kind: type[ProcessSettings]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        kind.program, description=kind.about, allow_abbrev=False, argument_default=argparse.SUPPRESS
    )
    for option in options_of(kind):
        default = f"default: {option.default}; " if option.default else ""
        text = f"{option.description} [{default}{option.variable}]".replace("%", "%%")
        if option.switch:
            parser.add_argument(option.flag, action="store_true", help=text)
        else:
            flags = (_SHORT[option.name], option.flag) if option.name in _SHORT else (option.flag,)
            parser.add_argument(*flags, choices=option.choices, help=text)
    for earlier, name in _earlier_names(kind):
        parser.add_argument(flag_of(earlier), dest=name, help=argparse.SUPPRESS)
    return parser


def _earlier_names(kind: type[ProcessSettings]) -> list[tuple[str, str]]:
    return [(earlier, name) for earlier, name in _EARLIER_NAMES.items() if name in kind.model_fields]


def _option(kind: type[ProcessSettings], name: str) -> Option:
    field = kind.model_fields[name]
    switch = field.annotation is bool
    required = " (required)" if field.is_required() else ""
    return Option(
        name,
        description=f"{field.description}{required}",
        default="" if switch or required or field.default is None else str(field.default),
        choices=get_args(field.annotation) if get_origin(field.annotation) is Literal else None,
        switch=switch,
    )


def _settings_file(kind: type[ProcessSettings], path: Path) -> _Source:
    values = read_toml(path, f"{flag_of('config')} = {str(path)!r}", ErrorCode.INVALID_ARGUMENT)
    known = [name for name in kind.model_fields if name not in _SOURCES]
    for key in values:
        if key not in known:
            near = nearest(key, known)
            meant = f"did you mean {near}? All are in" if near else "see"
            raise _unreadable(
                "config",
                path,
                f"{key} is an unknown key",
                f"{meant} {kind.program} --help; a key is an option with _ for -",
            )
    return _Source(values, lambda name: f"{path}: {name}")


def _secrets(kind: type[ProcessSettings], folder: Path) -> _Source:
    if not folder.is_dir():
        raise _unreadable("secrets_dir", folder, "is not a folder", "check the path")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # a skipped file must not silently mean the default
            found = SecretsSettingsSource(kind, folder)()
        names = sorted(path.name for path in folder.iterdir())
    except (OSError, SettingsError) as error:
        raise _unreadable(
            "secrets_dir",
            folder,
            f"cannot be read ({error.__cause__ or error})",
            "make every secret a readable text file in it",
        ) from error
    for file in names:  # others may lie there too, but one with the prefix is meant for us
        name = file.lower().removeprefix(PREFIX.lower())
        if name != file.lower() and (name not in kind.model_fields or name in _SOURCES):
            raise _unreadable(
                "secrets_dir",
                folder,
                f"the file {file} is no setting of {kind.program}",
                f"see {kind.program} --help, or move the file elsewhere",
            )
    given = {name: value for name, value in found.items() if value}
    return _Source(given, lambda name: str(folder / (PREFIX + name).lower()), secret=True)


def _unreadable(name: str, path: Path, problem: str, fix: str) -> FedhftError:
    return FedhftError.field(ErrorCode.INVALID_ARGUMENT, flag_of(name), str(path), problem, fix)


def _wrong_type(kind: type[ProcessSettings], name: str, fault: str, message: str, sources: Sequence[_Source]) -> str:
    source = next(source for source in sources if name in source.values)
    shown = "" if source.secret else f" = {source.values[name]!r}"
    choices = _option(kind, name).choices
    problem = f"choose one of {', '.join(choices)}" if choices else _WRONG_TYPE.get(fault, message)
    return f"{source.place(name)}{shown}: {problem}"
