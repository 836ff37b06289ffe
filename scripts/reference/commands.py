"""docs/cli.md: every command with its parameters."""

import inspect
from collections.abc import Iterator
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from typer import Context
from typer.models import ArgumentInfo, CommandInfo, OptionInfo

from consumers.cli import app
from scripts.reference import GENERATED


def commands() -> dict[str, CommandInfo]:
    """Every command by its full name, such as `topics create`."""
    found = {_name(command): command for command in app.registered_commands}
    for group in app.registered_groups:
        assert group.typer_instance is not None
        alone = group.typer_instance.registered_callback
        if alone is not None and alone.invoke_without_command:
            found[str(group.name)] = CommandInfo(str(group.name), callback=alone.callback)
        for command in group.typer_instance.registered_commands:
            group_name = f"{group.name} " if isinstance(group.name, str) else ""  # mend.py has none
            found[group_name + _name(command)] = command
    return found


def parameters(command: CommandInfo) -> Iterator[tuple[str, Any, Any, str]]:
    """(how it is written, type, default, meaning); arguments are written in capitals."""
    assert command.callback is not None
    hints = get_type_hints(command.callback, include_extras=True)
    for name, parameter in inspect.signature(command.callback).parameters.items():
        hint = hints[name]
        if hint is Context:
            continue
        info = next(iter(getattr(hint, "__metadata__", ())), None)
        kind = hint.__origin__ if info is not None else hint
        if not isinstance(info, OptionInfo):
            meaning = info.help if isinstance(info, ArgumentInfo) and info.help else ""
            yield name.upper(), kind, parameter.default, meaning
            continue
        # `typer.Option("--json")` inside Annotated arrives as the default.
        given = info.default if isinstance(info.default, str) else None
        yield given or f"--{name.replace('_', '-')}", kind, parameter.default, info.help or ""


def cli_page() -> str:
    """docs/cli.md."""
    lines = [
        "# Commands",
        "",
        GENERATED.format("consumers/cli.py, mend.py, segments.py and size.py"),
        "",
        "Exit codes: 0 done, 1 an error while running, 2 wrong usage or settings, 130 stopped.",
        "Errors and progress go to stderr. Every command reads the [settings](settings.md).",
        "",
    ]
    for name, command in commands().items():
        found = list(parameters(command))
        words = [_used(p, kind, default) for p, kind, default, _ in found]
        if len(words) > 10:
            words = [word for word in words if not word.startswith("[")] + ["[…]"]
        usage = " ".join(words)
        lines += [f"## `segstream {name}{' ' * bool(usage)}{usage}`", ""]
        lines += [inspect.getdoc(command.callback) or "", ""]
        rows = [
            f"| `{p}` | {_kind(kind)} | {_given(default)} | {meaning or _bare(p)} |"
            for p, kind, default, meaning in found
        ]
        if rows:
            lines += ["| parameter | type | default | meaning |", "|---|---|---|---|", *rows, ""]
    return "\n".join(lines)


def _name(command: CommandInfo) -> str:
    assert command.callback is not None
    return command.name or command.callback.__name__.replace("_", "-")


def _used(parameter: str, kind: Any, default: Any) -> str:
    """As it is written in a usage line; in brackets what may be left out."""
    if default is inspect.Parameter.empty:
        return f"{parameter} …" if parameter.startswith("--") else parameter
    return f"[{parameter}]" if parameter.isupper() or kind is bool else f"[{parameter} …]"


def _bare(parameter: str) -> str:
    return {"CUSTOMER": "userId, or `a:` + anonymousId."}[parameter]


def _kind(kind: Any) -> str:
    if get_origin(kind) is UnionType:
        kind = next(k for k in get_args(kind) if k is not NoneType)
    if get_origin(kind) is list:
        (kind,) = get_args(kind)
    if hasattr(kind, "__members__"):
        return " or ".join(f"`{member}`" for member in kind)
    if get_origin(kind) is Literal:
        return " or ".join(f"`{value}`" for value in get_args(kind))
    names = {bool: "switch", int: "integer", float: "number", str: "text", Path: "path"}
    return names[kind]


def _given(default: Any) -> str:
    if default is inspect.Parameter.empty:
        return "required"
    return "–" if default is None or default is False else f"`{default}`"
