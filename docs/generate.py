"""Check that the generated pages of docs/reference are up to date, or write them (--write).

`make reference` writes the pages, and `make lint` checks them. This file holds no lists: sections, commands, names and
files come from the tables that the code itself uses.
"""

from __future__ import annotations

import argparse
import ast
import dataclasses
import inspect
import re
import sys
import textwrap
from collections.abc import Iterable, Iterator
from enum import Enum
from pathlib import Path
from typing import Any, get_type_hints

import click
import typer.main
from edgefd_client.cli import make_parser

import edgefd
from edgefd.cli.main import app
from edgefd.config.keys import REQUIRED, Key, Part, all_parts, parts_of
from edgefd.config.protocols import PROTOCOLS
from edgefd.config.schema import SECTIONS
from edgefd.core.field_docs import doc_of, field_docs
from edgefd.core.yaml_files import dump_yaml
from edgefd.runs.files import RUN_FILES, RunFile

HERE = Path(__file__).parent / "reference"
NOTE = "<!-- This page is generated from the code: change the docstrings, then run `make reference`. -->"


def page(title: str, introduction: str, body: Iterable[str]) -> str:
    """Return a page; `body` is its paragraphs."""
    return "\n\n".join([f"# {title}", NOTE, "\n".join(textwrap.wrap(introduction, 120)), *body]) + "\n"


def table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    """Return a Markdown table."""
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)


def prose(text: str) -> str:
    """Return text for a Markdown page: `*` and `<` outside code mean themselves."""
    parts = text.split("`")
    return "`".join(part if i % 2 else re.sub(r"([*<])", r"\\\1", part) for i, part in enumerate(parts))


def code(text: object) -> str:
    """Return text as code."""
    return f"`{text}`"


# config.md


def config_page() -> str:
    """Return the page of all keys of a config."""
    introduction = (
        "The sections of a config, with every key. `edgefd check --explain CONFIG` prints the keys of one config with "
        "their values. On the command line, `section.key=value` sets a key. Where a description says None, YAML has "
        "`null`."
    )
    return page("Config keys", introduction, (text for section in SECTIONS for text in section_text(section)))


_OWN = {
    "method": " `package.module:METHOD` names [a method of your own](../guides/extending.md#a-method).",
    "partition": " `flwr_datasets:CLASS` names a partitioner of flwr-datasets, and `package.module:NAME` a function or "
    "class of your own, with its arguments as keys ([splits](../guides/simulate.md#data-splits-and-proxy-sets)).",
}
"""sentence about the objects of a user that the key of a section may name"""


def section_text(section: str) -> Iterator[str]:
    """Return the paragraphs about one section."""
    yield f"## {section}"
    parts = parts_of(section)
    if parts[0].name is not None:
        first = parts[0].keys[0]
        names = ", ".join(code(name) for name in first.choices)
        own = _OWN.get(section, "")
        yield f"`{first.name}` selects a form of this section (default `{first.default}`): {names}.{own}"
    for part in parts:
        yield from part_text(part)


def part_text(part: Part) -> Iterator[str]:
    """Return the paragraphs about one section, or about one form of it."""
    keys = part.keys
    if part.name is not None:
        yield f"### {part.keys[0].name}: {part.name}"
        keys = keys[1:]
    if part.doc:
        yield prose(f"{part.doc[:1].upper()}{part.doc[1:]}".removesuffix(".") + ".")
    if keys:
        yield table(("key", "value", "default", "meaning"), map(key_row, keys))


def key_row(key: Key) -> tuple[str, ...]:
    """Return the row of one key."""
    values = ", ".join(code(choice) for choice in key.choices) or key.type
    default = "required" if key.default is REQUIRED else code(dump_yaml(key.default, one_line=True))
    return code(key.name), values, default, prose(key.doc)


# cli.md


def cli_page() -> str:
    """Return the page of all commands."""
    introduction = (
        "The commands of `edgefd` and of `edgefd-client`, with every argument and option. `--help` after any command "
        "prints the same."
    )
    device = make_parser()
    return page(
        "Commands",
        introduction,
        [
            *command_text("edgefd", typer.main.get_command(app)),
            "## edgefd-client",
            str(device.description),
            *(text for command in subcommands(device) for text in parser_text(command)),
        ],
    )


def command_text(name: str, command: click.Command) -> Iterator[str]:
    """Return the paragraphs about a command of `edgefd`, or about a group and its commands."""
    yield f"{'##' if isinstance(command, click.Group) else '###'} {name}"
    yield from help_text(command.help or "")
    if isinstance(command, click.Group):
        for child, subcommand in sorted(command.commands.items(), key=lambda c: isinstance(c[1], click.Group)):
            yield from command_text(f"{name} {child}", subcommand)
        return
    helps = argument_helps(command.callback)
    yield from options(click_row(p, getattr(p, "help", None) or helps.get(p.name or "", "")) for p in command.params)


def help_text(text: str) -> Iterator[str]:
    """Return the paragraphs of a command's help; its example becomes code."""
    for paragraph in inspect.cleandoc(text).split("\n\n"):
        line = " ".join(paragraph.split())
        example = line.removeprefix("Example: ")
        yield prose(line) if line == example else f"```bash\n{example}\n```"


def options(rows: Iterable[tuple[str, ...]]) -> Iterator[str]:
    """Return the table of the arguments and options of a command, if it has any."""
    if listed := list(rows):
        yield table(("argument or option", "value", "default", "meaning"), listed)


def argument_helps(callback: Any) -> dict[str, str]:
    """Return the help of each parameter from its annotation: click does not show that of positional arguments."""
    hints = get_type_hints(inspect.unwrap(callback), include_extras=True)
    return {name: hint.__metadata__[0].help or "" for name, hint in hints.items() if hasattr(hint, "__metadata__")}


def click_row(parameter: click.Parameter, meaning: str) -> tuple[str, ...]:
    """Return the row of one argument or option of a command of `edgefd`."""
    kind, default = parameter.type, getattr(parameter.default, "value", parameter.default)
    if isinstance(parameter, click.Argument):
        name, value = code(parameter.human_readable_name), ""
    else:
        name = ", ".join(map(code, [*parameter.opts, *parameter.secondary_opts]))
        value = code(parameter.metavar or kind.name.upper())
    if isinstance(kind, click.Choice):
        value = ", ".join(code(choice) for choice in kind.choices)
    elif isinstance(kind, click.IntRange):
        top = "" if kind.max is None else f" to {kind.max}"
        value = f"{code(parameter.metavar or 'N')} from {kind.min}{top}"
    elif getattr(parameter, "is_flag", False):
        value, default = "", None
    repeated = "; repeatable" if getattr(parameter, "multiple", False) else ""
    return name, value + repeated, shown_default(parameter.required, default), prose(meaning)


def shown_default(required: bool, default: object) -> str:
    """Return the cell of the default of an option."""
    return "required" if required else "" if default is None else code(default)


def subcommands(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """Return the parsers of the commands of a parser."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            yield from action.choices.values()


def parser_text(parser: argparse.ArgumentParser) -> Iterator[str]:
    """Return the paragraphs about a command of `edgefd-client`."""
    yield f"### {parser.prog}"
    yield prose(parser.description or "")
    yield from options(parser_row(a) for a in parser._actions if not isinstance(a, argparse._HelpAction))


def parser_row(action: argparse.Action) -> tuple[str, ...]:
    """Return the row of one option of a command of `edgefd-client`."""
    is_flag = action.nargs == 0
    value = "" if is_flag else code(action.metavar or action.dest.upper())
    default = shown_default(action.required, None if is_flag else action.default)
    return ", ".join(map(code, action.option_strings)) or value, value, default, prose(action.help or "")


# python-api.md


def api_page() -> str:
    """Return the page of the names that `import edgefd` offers."""
    introduction = "The names that the package `edgefd` offers to Python programs (`edgefd.__all__`)."
    return page("Python API", introduction, (text for name in api_names() for text in object_text(name)))


def api_names() -> list[str]:
    """Return the public names of the package, without those such as __version__."""
    return [name for name in getattr(edgefd, "__all__", ()) if not name.startswith("__")]


def object_text(name: str) -> Iterator[str]:
    """Return the paragraphs about one name of the package."""
    thing = getattr(edgefd, name)
    yield f"## {name}"
    if not inspect.isclass(thing):
        yield signature(thing)
        yield from docstring(thing)
        return
    if dataclasses.is_dataclass(thing):
        yield from docstring(thing)
        yield from fields_text(thing)
    else:
        if "__init__" in vars(thing):
            yield signature(vars(thing)["__init__"], name)
        yield from docstring(thing)
    fields = getattr(thing, "__dataclass_fields__", {})
    for member_name, member in vars(thing).items():
        if member_name.startswith("_") or member_name in fields:
            continue
        function = getattr(member, "fget", None) or getattr(member, "__func__", member)
        if inspect.isfunction(function):
            yield f"### {name}.{member_name}"
            yield "A property." if isinstance(member, property) else signature(function)
            yield from docstring(function)


def signature(function: Any, name: str | None = None) -> str:
    """Return the signature of a function as it is written in the source; under another name, without `self`."""
    source = textwrap.dedent(inspect.getsource(inspect.unwrap(function)))
    definition = ast.parse(source).body[0]
    assert isinstance(definition, ast.FunctionDef)
    lines = source.splitlines()[definition.lineno - 1 : definition.body[0].lineno - 1]
    text = "\n".join(lines).rstrip().removesuffix(":")
    if name is not None:
        text = re.sub(r"^def __init__\((\s*)self(,\s*)?", rf"{name}(\1", text).removesuffix(" -> None")
    return f"```python\n{text}\n```"


def docstring(thing: Any) -> Iterator[str]:
    """Return the paragraphs of a docstring: blocks such as `Args:` become lists, and examples become code."""
    for paragraph in (inspect.getdoc(thing) or "").split("\n\n"):
        head, _, rest = paragraph.partition("\n")
        if paragraph.startswith(">>> "):
            yield f"```python\n{paragraph}\n```"
        elif re.fullmatch(r"[A-Z]\w+:", head) and rest.startswith("    "):
            yield head
            items = re.split(r"\n(?=\S)", textwrap.dedent(rest))
            yield "\n".join(f"- {prose(' '.join(item.split()))}" for item in items)
        else:
            yield paragraph


def fields_text(kind: Any) -> Iterator[str]:
    """Return the table of the fields of a dataclass, with their types as they are written in the source."""
    docs = field_docs(kind)
    rows = []
    for f in dataclasses.fields(kind):
        section = doc_of(f.default_factory) if inspect.isclass(f.default_factory) else ""
        rows.append((code(f.name), code(f.type), default_of(f), prose(docs.get(f.name, section))))
    if rows:
        yield table(("field", "type", "default", "meaning"), rows)


def default_of(field: dataclasses.Field[Any]) -> str:
    """Return the default of a field, by name for functions and classes."""
    if field.default_factory is not dataclasses.MISSING:
        return code(f"{getattr(field.default_factory, '__name__', field.default_factory)}()")
    if field.default is dataclasses.MISSING:
        return "required"
    if isinstance(field.default, Enum):
        return code(f"{type(field.default).__name__}.{field.default.name}")
    return code(getattr(field.default, "__name__", None) or repr(field.default))


# run-folder.md


def run_folder_page() -> str:
    """Return the page of the files of a run folder."""
    introduction = (
        "The files that a run writes into its folder. Where a type contains None, JSON has `null`. New versions may "
        "add files and fields."
    )
    overview = table(
        ("file", "written", "content"),
        ((code(file.name), prose(file.written), prose(file.content)) for file in RUN_FILES),
    )
    return page("Run folder", introduction, [overview, *(text for file in RUN_FILES for text in file_text(file))])


def file_text(file: RunFile) -> Iterator[str]:
    """Return the paragraphs about a JSON file and its fields."""
    for i, kind in enumerate(file.kinds):
        yield f"### {kind.__name__}" if i else f"## {file.name}"
        yield from docstring(kind)
        docs = field_docs(kind)
        rows = ((code(f.name), code(f.type), prose(docs.get(f.name, ""))) for f in dataclasses.fields(kind))
        yield table(("field", "type", "meaning"), rows)


# protocols.md


def protocols_page() -> str:
    """Return the page of the training protocols of published work."""
    introduction = (
        "Training protocols of published work. `protocol: NAME` in a config (or `protocol=NAME` on the command line) "
        "makes the settings below the defaults of the other sections; your own keys override them, also those of a "
        "file. A section of yours that names another method, rule or loss gets none of the protocol's settings. "
        "config.yaml in the run folder holds all resulting settings. A protocol says how clients train and "
        "exchange, not which data, partition and model they have."
    )
    return page("Training protocols", introduction, (text for name in PROTOCOLS for text in protocol_text(name)))


def protocol_text(name: str) -> Iterator[str]:
    """Return the paragraphs about one protocol."""
    protocol = PROTOCOLS[name]
    yield f"## {name}"
    yield wrapped(protocol.summary)
    yield f"```yaml\n{dump_yaml({key: dict(values) for key, values in protocol.settings.items()}).rstrip()}\n```"
    yield wrapped(f"Source: {protocol.source}")
    yield wrapped(f"What differs: {protocol.differs}")


def wrapped(text: str) -> str:
    """Return text in lines of at most 120 characters, without line breaks at hyphens."""
    return "\n".join(textwrap.wrap(text, 120, break_on_hyphens=False))


PAGES = {
    "config.md": config_page,
    "protocols.md": protocols_page,
    "cli.md": cli_page,
    "python-api.md": api_page,
    "run-folder.md": run_folder_page,
}


def undocumented() -> list[str]:
    """Return the keys, fields and names that have no description in the code."""
    keys = [key.name for part in all_parts() for key in part.keys if not key.doc]
    kinds = [kind for file in RUN_FILES for kind in file.kinds]
    fields = [f"{k.__name__}.{f.name}" for k in kinds for f in dataclasses.fields(k) if f.name not in field_docs(k)]
    names = [f"edgefd.{name}" for name in api_names() if not inspect.getdoc(getattr(edgefd, name))]
    return keys + fields + names


def outdated() -> list[str]:
    """Return the names of the pages that are out of date."""
    files = {HERE / name: make for name, make in PAGES.items()}
    return [
        file.name for file, make in files.items() if not file.is_file() or file.read_text(encoding="utf-8") != make()
    ]


def main(arguments: list[str]) -> None:
    """Write the pages if the arguments say so; otherwise exit with one line if a page or a description is wrong."""
    if missing := undocumented():
        sys.exit(f"{', '.join(missing)}: write a string after the field, or a docstring, that says what it is")
    if "--write" in arguments:
        for name, make in PAGES.items():
            (HERE / name).write_text(make(), encoding="utf-8")
    elif names := outdated():
        sys.exit(f"docs/reference: {', '.join(names)} differ from the code: run `make reference`")


if __name__ == "__main__":
    main(sys.argv[1:])
