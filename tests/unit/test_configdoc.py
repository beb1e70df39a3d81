"""The reference page: made from the configspecs, complete, and the committed one is up to date."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from configobj import Section

from clusterd import configdoc, configspec, configtypes

ROOT = Path(__file__).resolve().parents[2]


def keys() -> list[tuple[Section, str]]:
    found: list[tuple[Section, str]] = []
    for _, spec, _ in configdoc.FILES:
        configdoc.parse(spec).walk(lambda section, key: found.append((section, key)))
    return found


def test_the_committed_page_is_up_to_date() -> None:
    committed = (ROOT / "docs" / "configuration.md").read_text()
    assert committed == configdoc.page(), "run: python3 -m clusterd.configdoc >docs/configuration.md"


def test_it_is_printed() -> None:
    env = {**os.environ, "PYTHONPATH": str(ROOT / "lib")}
    argv = [sys.executable, "-m", "clusterd.configdoc"]
    assert subprocess.run(argv, env=env, capture_output=True, text=True, check=True).stdout == configdoc.page()


@pytest.mark.parametrize(("section", "key"), keys(), ids=[f"{section.name}-{key}" for section, key in keys()])
def test_every_key_is_explained(section: Section, key: str) -> None:
    if key == "__many__":
        return
    meaning, wrong = configdoc.about(section, key)
    assert meaning.endswith(".")
    assert wrong.endswith(".")
    assert f"{key}`" in configdoc.page()


@pytest.mark.parametrize(("section", "key"), keys(), ids=[f"{section.name}-{key}" for section, key in keys()])
def test_every_default_is_allowed(section: Section, key: str) -> None:
    given = configdoc.default(section[key])
    if given is None:
        assert "default" not in section[key]
    else:
        configtypes.validator().check(section[key], None, missing=True)
        assert given in configdoc.SHOWN or f"- Default: `{given}`" in configdoc.page()


def test_the_examples_mention_every_key_of_the_cluster() -> None:
    example = (ROOT / "conf" / "cluster.conf").read_text()
    known: list[str] = []
    configdoc.parse(configspec.CLUSTER).walk(lambda _, key: known.append(key))
    assert [key for key in known if f"{key} = " not in example] == ["__many__"]
