"""docs/settings.md and config.example.yaml, made from the settings themselves."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path
from typing import Final

from floradl.config.locations import LibraryPlace, Location
from floradl.config.settings import Key, sections, settings, variable
from floradl.config.types import Setting

_WIDTH: Final = 100
_TABLE_BEGINS: Final = "<!-- settings table: written by `./dev docs` -->"
_TABLE_ENDS: Final = "<!-- end of the settings table -->"
_HEAD: Final = """\
# Every setting of floradl with its default: take over what you want to change, nothing is needed.
#
# Read from --config, $FLORADL_CONFIG, $FLORADL_HOME/config.yaml, ~/.config/floradl/config.yaml or
# /etc/floradl/config.yaml. Relative paths are relative to this file's folder. Durations read 2s, 5m, 24h,
# 30d; sizes 0, 500MB, 1GiB. A value that starts with * or { is put in quotes. Each key has an environment
# variable, which wins over this file: download.concurrency is FLORADL_DOWNLOAD__CONCURRENCY.
"""


def settings_table() -> str:
    """Return all settings as a Markdown table: key, variable, default, meaning."""
    rows = ["| key | variable | default | meaning |", "|---|---|---|---|"]
    for key, setting in settings().items():
        names = ", ".join(f"`{name}`" for name in (variable(key), *setting.aliases))
        cells = (f"`{'.'.join(key)}`", names, f"`{_effective(setting)}`", setting.meaning)
        rows.append(f"| {' | '.join(cell.replace('|', '&#124;') for cell in cells)} |")
    return "\n".join(rows) + "\n"


def with_table(page: str) -> str:
    """Return `page` with today's settings table between its two marks."""
    before, _, rest = page.partition(_TABLE_BEGINS)
    _, _, after = rest.partition(_TABLE_ENDS)
    return f"{before}{_TABLE_BEGINS}\n{settings_table()}{_TABLE_ENDS}{after}"


def _effective(setting: Setting) -> str:
    kind = setting.type
    if isinstance(kind, Location | LibraryPlace) and setting.default is None and kind.default:
        return f"HOME/{kind.default}"
    return _shown_default(setting)


def _shown_default(setting: Setting) -> str:
    match setting.default:
        case None:
            return "null"
        case str() as text:
            return json.dumps(text) if text.startswith("{") else text
        case hosts:
            return json.dumps(list(hosts))


def example_config() -> str:
    """Return `config.example.yaml`: every key with its default, under what it means."""
    lines = [_HEAD.rstrip("\n")]
    written: set[Key] = set()
    for key, setting in settings().items():
        for depth in range(1, len(key)):
            if key[:depth] in sections() and key[:depth] not in written:
                written.add(key[:depth])
                lines += [""] * (depth == 1) + [f"{'  ' * (depth - 1)}{key[depth - 1]}:"]
        indent = "  " * (len(key) - 1)
        default, effective = _shown_default(setting), _effective(setting)
        meaning = setting.meaning + (f" (null: {effective})" if effective != default else "")
        lines += [""] * (len(key) == 1)
        lines += textwrap.wrap(meaning, _WIDTH, initial_indent=f"{indent}# ", subsequent_indent=f"{indent}# ")
        lines.append(f"{indent}{key[-1]}: {default}")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    Path("config.example.yaml").write_text(example_config(), encoding="utf-8")
    page = Path("docs/settings.md")
    page.write_text(with_table(page.read_text(encoding="utf-8")), encoding="utf-8")
