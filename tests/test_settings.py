from __future__ import annotations

import re
from pathlib import Path

from floradl.config.docs import example_config, settings_table
from floradl.config.load import Options, load_config
from floradl.config.settings import settings, variable
from floradl.yaml_reader import load

_EXAMPLE = Path(__file__).parent.parent / "config.example.yaml"


def test_the_example_file_is_what_the_settings_say() -> None:
    assert _EXAMPLE.read_text(encoding="utf-8") == example_config()


def test_the_example_file_has_every_key_and_only_defaults(tmp_path: Path) -> None:
    lines = load(_EXAMPLE.read_text(encoding="utf-8")).lines
    assert [key for key in settings() if key not in lines] == []
    environ = {"HOME": str(tmp_path)}
    example = load_config(Options(config=_EXAMPLE), environ)
    default = load_config(Options(), environ, system_file=tmp_path / "none.yaml")
    for section in (
        "home",
        "api",
        "queue",
        "sync",
        "output",
        "state_dir",
        "poll",
        "download",
        "webhook",
        "metrics",
        "web",
        "network",
        "hooks",
        "log",
    ):
        assert getattr(example, section) == getattr(default, section)


def test_every_key_of_the_example_file_has_a_comment_above() -> None:
    lines = _EXAMPLE.read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines):
        if re.match(r" *[a-z_]+: .", line):
            assert lines[number - 1].lstrip().startswith("#"), line


def test_the_table_has_a_row_for_every_key_with_its_variable() -> None:
    head, rule, *rows = settings_table().splitlines()
    assert (head.count("|"), rule.count("|")) == (5, 5)
    assert len(rows) == len(settings())
    for row, key in zip(rows, settings(), strict=True):
        assert row.startswith(f"| `{'.'.join(key)}` | `{variable(key)}`")
        assert row.count("|") == 5


def test_variables_are_named_after_their_keys() -> None:
    assert variable(("download", "concurrency")) == "FLORADL_DOWNLOAD__CONCURRENCY"
    assert variable(("state_dir",)) == "FLORADL_STATE_DIR"
    names = [name for key, setting in settings().items() for name in (variable(key), *setting.aliases)]
    assert len(names) == len(set(names))
