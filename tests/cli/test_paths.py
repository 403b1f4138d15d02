"""Paths as people give them: what a shell leaves in place, archives, addresses, slips of spelling."""

import importlib
import subprocess
from pathlib import Path

import pytest
from conftest import SCRIPTS

from compress.cli import messages, values
from compress.data import folders
from compress.errors import InputError


def text_flags(script):
    """(flag, parser) of all flags that take text of any kind."""
    parser = importlib.import_module(script).build_parser()
    return [
        (action.option_strings[0], parser)
        for action in parser._actions
        if action.nargs != 0
        and action.option_strings
        and not action.choices
        and (action.type in (None, values.path, values.model, values.data_set))
    ]


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_tilde_behind_an_equals_sign_is_the_home_in_every_flag_that_takes_text(script, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "me"))
    for flag, parser in text_flags(script):
        for action in parser._actions:
            action.required = False
        found = getattr(parser.parse_args([f"{flag}=~/runs"]), flag.removeprefix("--"))
        assert found in (str(tmp_path / "me" / "runs"), [str(tmp_path / "me" / "runs")])


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize("text", ["", " ", "''"])
def test_an_empty_path_is_not_the_current_folder(script, text, capsys):
    """As of `--root_folder "$UNSET"`."""
    for flag, parser in text_flags(script):
        with pytest.raises(SystemExit, match="2"):
            parser.parse_args([flag, text])
        assert f"{script}.py: {flag}: received {text!r}, " in capsys.readouterr().err


def test_an_empty_path_is_none_from_python_either():
    with pytest.raises(InputError, match="^`root_folder`: received '', expected a path$"):
        importlib.import_module("report").run(root_folder="")


def test_a_folder_stands_for_the_model_in_it(tmp_path, monkeypatch):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "model.h5").write_bytes(b"")
    for script in ("evaluate_model", "export_model", "sensitivity", "train_base_model", "prune_model"):
        flag = "--base_model_path" if script == "prune_model" else "--model_path"
        found = getattr(importlib.import_module(script).build_parser().parse_args([flag, f"{tmp_path}/run/"]), flag[2:])
        assert found in (str(tmp_path / "run" / "model.h5"), [str(tmp_path / "run" / "model.h5")])
    assert values.model(str(tmp_path)) == str(tmp_path)  # the reader says what it lacks
    (tmp_path / "run").rename(tmp_path / "imagenet")
    monkeypatch.chdir(tmp_path)
    assert values.model("imagenet") == "imagenet"  # a word of train_base_model.py


def test_some_script_has_every_path():
    assert {flag for script in SCRIPTS for flag, _ in text_flags(script)} >= {
        "--dataset",
        "--data_dir",
        "--model_path",
        "--save_folder",
        "--root_folder",
        "--base_model_path",
        "--output",
        "--tensorboard",
        "--predict",
        "--history_path",
    }


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("'{}'", "{}"),
        ('"{}"', "{}"),
        ("{}\n", "{}"),
        (" {} ", "{}"),
        ("$PETS", "{}"),
        ("${{PETS}}", "{}"),
        ("file://{}", "expected a path: {}"),
        ("file://localhost{}", "expected a path: {}"),
        ("https://example.org/pets.zip", "received https://example.org/pets.zip, expected a path on this machine"),
        ("s3://bucket/pets", "nothing is downloaded"),
        ("~nobody.at.all/x", "a user of this machine behind ~"),
    ],
)
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


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("CIFAR10", "; did you mean cifar10[?]"),
        ("cifar-100", "; did you mean cifar100[?]"),
        ("Digits", "; did you mean digits[?]"),
        ("mnist", "subfolder of images for each class$"),
        ("", "no data set and no folder"),
        ("my_pet", "; did you mean my_pets[?]"),
        ("./my-pets/", "; did you mean ./my_pets[?]"),
        ("my_pets.tar.gz", "an archive, .*: mkdir my_pets && tar -xf my_pets.tar.gz -C my_pets$"),
        ("a b.ZIP", "an archive, .*: unzip 'a b.ZIP' -d 'a b'$"),
        ("notes.txt", "is a file, expected cifar10"),
    ],
)
def test_a_data_set_that_is_no_folder_is_told_what_it_is(name, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_pets").mkdir()
    for file in ("my_pets.tar.gz", "a b.ZIP", "notes.txt"):
        (tmp_path / file).write_bytes(b"PK")
    with pytest.raises(InputError, match=f"^`dataset`: received {name!r}.*{words}"):
        folders.list_folder(name)


@pytest.mark.parametrize(
    ("table", "head", "suffix", "place"),
    [
        ("train.csv", "id,label", "", "train"),
        ("train/metadata.csv", "file_name,label", ".png", "train"),
        ("labels.csv", "number,image,class,weight", ".png", "."),
    ],
)
def test_labels_in_a_table_are_told_with_the_command_that_sorts_the_images(table, head, suffix, place, tmp_path):
    root, rows = tmp_path / "my 'pets", [head]
    (root / place).mkdir(parents=True)
    for i in range(8):
        (root / place / f"im {i}.png").write_bytes(bytes([i]))
        cells = {"number": str(i), "weight": "1"} | dict.fromkeys(("class", "label"), ("cat", "dog")[i % 2])
        rows.append(",".join(cells.get(name, f"im {i}{suffix}") for name in head.split(",")))
    (root / table).write_text("\n".join(rows))
    for name in (root / table, root):  # the last command runs
        with pytest.raises(InputError) as caught:
            folders.list_folder(str(name))
        first, command = str(caught.value).split("which this copies the images: ")
        assert first.endswith(f"the labels in {root / table} are not read: expected a folder for each class, into ")
        assert messages.COMMAND.search(str(caught.value))[1] == command  # which has a line of its own
    subprocess.run(["bash", "-c", command], check=True)
    listing = folders.list_folder(f"{root}_by_class")
    assert listing.class_names == ("cat", "dog")
    for path, label in zip(*listing.splits["train"], strict=True):
        assert Path(path).read_bytes()[0] % 2 == label


@pytest.mark.parametrize("label", ["../../x", "/etc", ".ssh", "$(id)", "a/b"])
def test_no_command_is_made_of_labels_that_lead_elsewhere(label, tmp_path):
    for i in range(4):
        (tmp_path / f"{i}.png").write_bytes(b"")
    (tmp_path / "t.csv").write_text(f"id,label\n0.png,a\n1.png,b\n2.png,{label}\n3.png,a\n")
    with pytest.raises(InputError, match="t.csv are not read: expected a folder for each class$"):
        folders.list_folder(str(tmp_path))


@pytest.mark.parametrize(
    ("name", "others", "meant"),
    [
        ("/tmp/nope", ["/tmp/nohome", "/tmp/x"], None),  # what both share in front doesn't make them alike
        ("m/aa/model.h5", ["m/zz/model.h5"], None),  # nor behind
        (
            "m/prund_model/iter1/model.h5",
            ["m/base/model.h5", "m/pruned_model/iter1/model.h5"],
            "m/pruned_model/iter1/model.h5",
        ),
        ("m/kd/model.h5", ["m/kdx/model.h5", "m/kd_model/model.h5"], "m/kd_model/model.h5"),
        ("pets", [], None),
        ("/tmp/nofile.h5", ["/tmp/nf.h5", "/tmp/x.h5"], None),  # nor does an ending
        ("/tmp/modle.h5", ["/tmp/nf.h5", "/tmp/model.h5"], "/tmp/model.h5"),
        ("m/base_model/model.h5", ["m/demo/base_model/model.h5"], "m/demo/base_model/model.h5"),
    ],
)
def test_a_suggestion_is_alike_where_the_paths_differ(name, others, meant):
    assert values.nearest(name, others) == meant
