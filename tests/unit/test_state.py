"""Facts on disk: whole or not there, whatever happens between two steps of writing them."""

import json
import os
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clusterd import paths, state
from clusterd.errors import Failed

if TYPE_CHECKING:
    from unit.conftest import Box


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "folder" / "fact.json")


def names(path: str) -> list[str]:
    return os.listdir(os.path.dirname(path))


def test_what_is_not_there_is_none(path: str) -> None:
    assert state.read(path) is None


@pytest.mark.parametrize("durable", [True, False])
def test_what_is_written_is_read(path: str, durable: bool) -> None:
    state.write(path, {"epoch": 3, "name": "größe"}, durable=durable)
    assert state.read(path) == {"epoch": 3, "name": "größe"}
    assert names(path) == ["fact.json"]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@given(fact=json_values)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
def test_any_fact_comes_back(path: str, fact: Any) -> None:
    state.write(path, fact, durable=False)
    assert state.read(path) == fact


def test_names_that_are_no_utf8_come_back(path: str) -> None:
    name = os.fsdecode(b"caf\xe9")
    state.write(path, {name: 1})
    assert state.read(path) == {name: 1}
    state.write_text(path, name)
    assert Path(path).read_bytes() == b"caf\xe9"


def test_the_modes_keep_others_out(path: str) -> None:
    state.write(path, 1)
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    assert stat.S_IMODE(os.stat(os.path.dirname(path)).st_mode) == 0o700
    state.write(path, 1, mode=0o644)
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o644


def test_the_mode_does_not_depend_on_the_umask(path: str) -> None:
    before = os.umask(0o077)
    try:
        state.write(path, 1, mode=0o644)
    finally:
        os.umask(before)
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o644


@pytest.mark.parametrize("damage", ["", "{", "nonsense", '{"a": 1} trailing'])
def test_damaged_is_not_the_same_as_missing(path: str, damage: str) -> None:
    os.makedirs(os.path.dirname(path))
    Path(path).write_text(damage)
    with pytest.raises(Failed, match=r"fact\.json: cannot be read: .*; look at it, then remove it"):
        state.read(path)


def test_a_folder_in_its_place_is_not_missing(path: str) -> None:
    os.makedirs(path)
    with pytest.raises(Failed, match="cannot be read"):
        state.read(path)


def test_a_fact_that_is_no_json_leaves_the_old_one(path: str) -> None:
    state.write(path, {"epoch": 1})
    with pytest.raises(TypeError):
        state.write(path, {"epoch": {1, 2}})
    assert state.read(path) == {"epoch": 1}
    assert names(path) == ["fact.json"]


@pytest.mark.parametrize("step", ["fsync", "rename", "fchmod"])
def test_a_step_that_fails_leaves_the_old_one_and_no_litter(
    path: str, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    state.write(path, {"epoch": 1})

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as broken, pytest.raises(OSError, match="No space"):
        broken.setattr(os, step, full)
        state.write(path, {"epoch": 2})
    assert state.read(path) == {"epoch": 1}
    assert names(path) == ["fact.json"]


@pytest.mark.parametrize("step", ["fsync", "fchmod"])
def test_an_error_names_the_file(path: str, step: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as broken, pytest.raises(OSError, match="No space") as error:
        broken.setattr(os, step, full)
        state.write(path, {"epoch": 2})
    assert error.value.filename == path


def test_and_so_does_one_of_its_folder(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    state.write(path, {"epoch": 1})

    def broken(_fd: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(OSError, match="Input/output") as error:
        state.remove(path)
    assert error.value.filename == os.path.dirname(path)


def test_it_is_on_the_disk_before_it_has_its_name(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[str] = []
    fsync, rename = os.fsync, os.rename

    def noted_fsync(fd: int) -> None:
        steps.append("folder" if stat.S_ISDIR(os.fstat(fd).st_mode) else "file")
        fsync(fd)

    def noted_rename(old: str, new: str) -> None:
        steps.append("rename")
        rename(old, new)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(os, "rename", noted_rename)
    state.write(path, 1)
    assert steps == ["file", "rename", "folder"]
    steps.clear()
    state.write(path, 2, durable=False)
    assert steps == ["rename"]
    steps.clear()
    state.remove(path)
    assert steps == ["folder"]
    state.remove(path)
    assert steps == ["folder"], "there was nothing to remove"


WRITER = """
import sys
from clusterd import state
number = 0
while True:
    number += 1
    state.write(sys.argv[1], {"number": number, "again": str(number) * 2000}, durable=False)
"""


def test_a_reader_sees_the_old_one_or_the_new_one(path: str, box: "Box") -> None:
    state.write(path, {"number": 0, "again": ""})
    writer = subprocess.Popen([sys.executable, "-c", WRITER, path], env=box.env)
    try:
        end = time.monotonic() + 1.0
        numbers = [0]
        while time.monotonic() < end or numbers[-1] < 2:
            fact = state.read(path)
            assert fact["again"] == str(fact["number"]) * (2000 if fact["number"] else 0)
            numbers.append(fact["number"])
    finally:
        writer.kill()
        writer.wait()
    assert numbers == sorted(numbers)


def test_a_writer_killed_at_any_instant_leaves_a_whole_fact(path: str, box: "Box") -> None:
    for pause in (0.0, 0.01, 0.02, 0.03, 0.04, 0.05):
        with subprocess.Popen([sys.executable, "-c", WRITER, path], env=box.env) as writer:
            try:
                end = time.monotonic() + 30
                while state.read(path) is None and time.monotonic() < end:
                    time.sleep(0.001)
                time.sleep(pause)
            finally:
                writer.kill()
        fact = state.read(path)
        assert fact and fact["again"] == str(fact["number"]) * 2000
        state.remove(path)


def test_the_boot_has_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = state.boot_id()
    assert len(real) == 36
    assert real == state.boot_id()
    (tmp_path / "boot_id").write_text("another\n")
    monkeypatch.setattr(paths, "BOOT_ID", str(tmp_path / "boot_id"))
    assert state.boot_id() == "another"


def test_a_fact_is_readable_for_people(path: str) -> None:
    state.write(path, {"b": 1, "a": 2})
    assert Path(path).read_text() == '{\n "a": 2,\n "b": 1\n}\n'
    assert json.loads(Path(path).read_text()) == {"a": 2, "b": 1}
