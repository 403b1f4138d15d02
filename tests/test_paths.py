"""Paths as people give them: what a shell leaves in place, archives, addresses, slips of spelling."""

import importlib

import pytest
from test_layers import SCRIPTS

import folders
import values
from errors import InputError


def text_flags(script):
    """(flag, parser) of all flags that take text of any kind."""
    parser = importlib.import_module(script).build_parser()
    return [(action.option_strings[0], parser) for action in parser._actions
            if action.nargs != 0 and not action.choices and action.type in (None, values.path)]


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_tilde_behind_an_equals_sign_is_the_home_in_every_flag_that_takes_text(script, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "me"))
    for flag, parser in text_flags(script):
        for action in parser._actions:
            action.required = False
        found = getattr(parser.parse_args([f"{flag}=~/runs"]), flag.removeprefix("--"))
        assert found in (str(tmp_path / "me" / "runs"), [str(tmp_path / "me" / "runs")])


def test_some_script_has_every_path():
    assert {flag for script in SCRIPTS for flag, _ in text_flags(script)} >= {
        "--dataset", "--data_dir", "--model_path", "--save_folder", "--root_folder", "--base_model_path", "--output",
        "--tensorboard", "--predict", "--history_path"}


@pytest.mark.parametrize(("text", "meant"), [
    ("'{}'", "{}"), ('"{}"', "{}"), ("{}\n", "{}"), (" {} ", "{}"), ("$PETS", "{}"), ("${{PETS}}", "{}"),
    ("file://{}", "expected a path: {}"), ("file://localhost{}", "expected a path: {}"),
    ("https://example.org/pets.zip", "received https://example.org/pets.zip, expected a path on this machine"),
    ("s3://bucket/pets", "nothing is downloaded"), ("~nobody.at.all/x", "a user of this machine behind ~")])
def test_slips_are_refused_with_what_was_meant(text, meant, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PETS", str(tmp_path))
    for script, flag in (("train_base_model", "--dataset"), ("train_base_model", "--save_folder")):
        with pytest.raises(SystemExit, match="2"):
            importlib.import_module(script).build_parser().parse_args([f"{flag}={text.format(tmp_path)}"])
        err = capsys.readouterr().err
        assert f": {flag}: received " in err and meant.format(tmp_path) in err and err.count("\n") == 1


@pytest.mark.parametrize("name", ["cats'", "'s nachts", " 1", "a b", "$5", "~", "ä", "C:\\pets", "plain"])
def test_a_path_that_is_there_is_taken_as_it_stands(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).mkdir()
    assert values.path(f"./{name}") == f"./{name}" and values.path(str(tmp_path / name)) == str(tmp_path / name)


@pytest.mark.parametrize(("name", "words"), [
    ("CIFAR10", "; did you mean cifar10[?]"), ("cifar-100", "; did you mean cifar100[?]"),
    ("Digits", "; did you mean digits[?]"), ("mnist", "folder that exists$"), ("", "folder that exists"),
    ("my_pet", "; did you mean my_pets[?]"), ("./my-pets/", "; did you mean ./my_pets[?]"),
    ("my_pets.tar.gz", "an archive, .*: mkdir my_pets && tar -xf my_pets.tar.gz -C my_pets$"),
    ("a b.ZIP", "an archive, .*: unzip 'a b.ZIP' -d 'a b'$"), ("notes.txt", "is a file, expected cifar10")])
def test_a_data_set_that_is_no_folder_is_told_what_it_is(name, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_pets").mkdir()
    for file in ("my_pets.tar.gz", "a b.ZIP", "notes.txt"):
        (tmp_path / file).write_bytes(b"PK")
    with pytest.raises(InputError, match=f"^--dataset: received {name!r}.*{words}"):
        folders.list_folder(name)
