"""The manual page floradl(1), made of the help that the commands show, and of the settings.

`./dev docs` writes it. Source: man(7) of groff 1.23.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import click

from floradl import __version__
from floradl.cli import floradl
from floradl.commands.options import meanings
from floradl.config.settings import settings, variable

PAGE: Final = Path("deploy/man/floradl.1")
_PREFORMATTED: Final = "\b"  # how click marks a paragraph that is not to be wrapped
_FILES: Final = {
    "$FLORADL_HOME/config.yaml, $XDG_CONFIG_HOME/floradl/config.yaml, /etc/floradl/config.yaml": (
        "The configuration; the first that exists counts. --config and FLORADL_CONFIG name another."
    ),
    "~/flora/inbox": "The watch folder: a file there is a job.",
    "~/flora/library": "The downloaded files, and in its runs/ a sidecar for each run.",
    "~/flora/state": "The journal of the daemon.",
}
_KEY: Final = {
    "FLORA_API_KEY": "The API key.",
    "FLORA_API_KEY_FILE": "A file that holds it.",
    "FLORA_BASE_URL": "Where the API is.",
}


def man_page() -> str:
    """Return the page as roff."""
    return "\n".join(_lines()) + "\n"


def _lines() -> Iterator[str]:
    context = click.Context(floradl, info_name="floradl", **floradl.context_settings)
    summary, _, rest = (floradl.help or "").partition("\n\n")
    yield f'.TH FLORADL 1 "" "floradl {__version__}" "User Commands"'
    yield from (".SH NAME", f"floradl \\- {_text(_joined(summary)).rstrip('.')}")
    yield from (".SH SYNOPSIS", ".B floradl", "[\\fIOPTION\\fR]... \\fICOMMAND\\fR [\\fIARGUMENT\\fR]...")
    yield ".SH DESCRIPTION"
    yield from _paragraphs(rest)
    common = dict(_options(floradl, context))
    yield from (".SH OPTIONS", "These may stand before or after the command.")
    yield from _terms(common)
    yield ".SH COMMANDS"
    for name in floradl.list_commands(context):
        command = floradl.get_command(context, name)
        if command is not None and not command.hidden:
            yield from _command(command, click.Context(command, context, f"floradl {name}"), common)
    yield ".SH EXIT STATUS"
    yield from _terms({str(code): f"{meaning}." for code, meaning in meanings().items()})
    yield ".SH ENVIRONMENT"
    yield "Each setting has a variable, which wins over the configuration file; options win over both."
    yield from _terms(_KEY | {variable(key): f"{setting.meaning}." for key, setting in settings().items()})
    yield ".SH FILES"
    yield from _terms(_FILES)


def _command(command: click.Command, context: click.Context, common: dict[str, str]) -> Iterator[str]:
    usage = " ".join(piece for piece in command.collect_usage_pieces(context) if piece != "[OPTIONS]")
    name = str(context.info_name).removeprefix("floradl ")
    yield f".SS {_text(name)}"
    yield f".B floradl {_text(name)}"
    yield _text(f"[OPTION]... {usage}".rstrip())
    yield ".PP"
    yield from _paragraphs(command.help or "")
    yield from _terms({term: text for term, text in _options(command, context) if term not in common})
    yield ".PP"
    yield from _paragraphs(command.epilog or "")


def _options(command: click.Command, context: click.Context) -> Iterator[tuple[str, str]]:
    for parameter in command.get_params(context):
        record = parameter.get_help_record(context)
        if record is not None and record[1]:  # an argument has none: the usage names it
            yield record


def _terms(texts: dict[str, str]) -> Iterator[str]:
    for term, text in texts.items():
        yield from (".TP", f".B {_text(term)}", _line(_joined(text)))


def _paragraphs(text: str) -> Iterator[str]:
    for number, paragraph in enumerate(re.split(r"\n\s*\n", text.strip("\n"))):
        if number:
            yield ".PP"
        lines = [line.strip(" ") for line in paragraph.split("\n")]
        if lines[0] == _PREFORMATTED:
            yield from (".nf", *map(_line, paragraph.split("\n")[1:]), ".fi")
        else:
            yield _line(_joined(paragraph))


def _joined(text: str) -> str:
    return " ".join(text.split())


def _line(text: str) -> str:
    """Return a line of text, which may begin with what roff takes for a request."""
    return ("\\&" if text.startswith((".", "'")) else "") + _text(text)


def _text(text: str) -> str:
    text = (
        text.replace("…", "...")
        .replace("\\", "\\e")
        .replace("-", "\\-")
        .replace("`", "\\(ga")
        .replace("'", "\\(aq")
    )
    return "".join(char if char.isascii() else f"\\[u{ord(char):04X}]" for char in text)


if __name__ == "__main__":
    PAGE.write_text(man_page(), encoding="ascii")
