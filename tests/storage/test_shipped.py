"""shipped.py: the student that comes with the suite is moved, never lost, wherever a run is killed."""

import shutil
from pathlib import Path

import pytest

from compress.storage import records, shipped

ROOT = Path(__file__).parents[2]


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@pytest.fixture
def place(tmp_path):
    """A copy of the folder with the shipped student."""
    shutil.copytree(
        ROOT / "model" / "kd_model",
        tmp_path / "model" / "kd_model",
        ignore=lambda folder, names: [name for name in names if (Path(folder) / name).is_dir()],
    )
    assert records.read_json(tmp_path / "model" / "kd_model" / "result.json")["shipped"] is True
    return tmp_path / "model" / "kd_model"


def test_it_is_moved_whole_and_what_lies_there_stays(place, capsys):
    was = contents(place)
    shipped.set_aside(place)
    assert contents(place.parent / "shipped_student") == was and not contents(place)
    assert f"was moved from {place} to {place.parent / 'shipped_student'}" in capsys.readouterr().out
    records.write_json(place / "result.json", {"val_acc": 0.5})  # the user's own
    shipped.set_aside(place)
    assert list(contents(place)) == ["result.json"]
    (place.parent / "shipped_student" / "result.json").write_text("{}")  # a user's changes
    records.write_json(place / "result.json", {"shipped": True})
    shipped.set_aside(place)
    assert contents(place.parent / "shipped_student") == was | {"result.json": b"{}"}
    assert list(contents(place.parent / "shipped_student2")) == ["result.json"]


@pytest.mark.parametrize("number", range(1, 9))
def test_killed_at_any_moment_it_is_there_whole_and_the_next_run_goes_on(number, place, monkeypatch):
    was, calls = contents(place), iter(range(1, 99))

    def counted(original):
        def call(*args, **kwargs):
            if next(calls) == number:
                raise KeyboardInterrupt
            return original(*args, **kwargs)

        return call

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        for owner, name in ((shutil, "copy2"), (shipped.files, "move"), (Path, "unlink")):
            patch.setattr(owner, name, counted(getattr(owner, name)))
        shipped.set_aside(place)
    there = place.parent / "shipped_student"
    assert was in [contents(folder) for folder in (place, there) if folder.exists()]
    shipped.set_aside(place)
    assert contents(there) == was and not contents(place)


def test_a_run_that_has_a_state_stays(place):
    was = contents(place)
    (place / "state.npz").write_bytes(b"")
    shipped.set_aside(place)
    assert contents(place) == was | {"state.npz": b""} and not (place.parent / "shipped_student").exists()
