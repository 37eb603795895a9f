"""What a word was meant to be, and what it costs to guess."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable

import pytest

from floradl.config.types import Choice
from floradl.errors import JobError
from floradl.library.template import Template
from floradl.sources.job_file import described, parse_job
from floradl.yaml_reader import load, nearest

LONG = "k" * 1_000_000


def test_the_nearest_word_is_found_and_none_where_none_is_near() -> None:
    assert nearest("lable", ["label", "run"]) == "label"
    assert nearest("lable", ["label", "run"], cutoff=0.95) is None
    assert nearest("xyz", ["label", "run"]) is None


def test_a_word_that_is_too_long_to_be_any_is_none_of_them() -> None:
    assert nearest("label" * 20, ["label" * 20]) is None


def peak(work: Callable[[], object]) -> int:
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_a_key_of_a_megabyte_is_refused_for_a_few_times_its_size() -> None:
    def refused() -> None:
        for text in (f'{{"run": "run_a", "{LONG}": "x"}}', f'run: run_a\n? "{LONG}"\n: x\n'):
            with pytest.raises(JobError) as caught:
                parse_job(text.encode(), "job")
            assert len(described(caught.value)) < 400

    assert peak(refused) < 12 * len(LONG)


@pytest.mark.parametrize("word", [LONG, r"\n" * 500_000], ids=["letters", "escapes"])
def test_a_json_text_of_a_megabyte_is_read_for_a_few_times_its_size(word: str) -> None:
    assert peak(lambda: load(f'{{"label": "{word}"}}')) < 12 * len(LONG)


def test_a_setting_of_a_megabyte_is_refused_for_a_few_times_its_size() -> None:
    def refused() -> None:
        with pytest.raises(ValueError, match="none of"):
            Choice(("auto", "json")).read(LONG)
        with pytest.raises(ValueError, match="is not a field"):
            Template.parse(f"{{{LONG}}}{{ext}}")

    assert peak(refused) < 20 * len(LONG)
