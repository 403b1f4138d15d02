"""docs/: what the pages say of flags, files and folders is what there is."""

import ast
import importlib.util
import re
from pathlib import Path

import pytest
import test_layers
from conftest import ROOT, SCRIPTS

DOCS = ROOT / "docs"
PAGES = sorted(path.relative_to(ROOT).as_posix() for path in DOCS.rglob("*.md"))


@pytest.fixture(scope="module")
def commands():
    spec = importlib.util.spec_from_file_location("commands", DOCS / "commands.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_of_commands_is_what_the_parsers_say(commands):
    assert set(commands.SCRIPTS) == set(SCRIPTS)
    assert commands.PAGE.read_text(encoding="utf-8") == commands.current(), "stale: python docs/commands.py"


@pytest.mark.parametrize("script", SCRIPTS)
def test_the_page_of_commands_has_every_flag_with_default_and_choices(script, commands):
    text = commands.PAGE.read_text(encoding="utf-8")
    section = re.search(rf"^## {script}\.py$(.*?)(?=^## )", text, re.MULTILINE | re.DOTALL)[1]
    parser = importlib.import_module(script).build_parser()
    for action in parser._actions:
        if action.dest == "help":
            continue
        flag = (action.option_strings or [action.metavar])[0]
        assert f"`{flag}`" in section
        rows = [row for row in text.splitlines() if row.startswith(f"| `{flag}`")]
        assert rows and all(len(re.split(r"(?<!\\)\|", row)) == 6 for row in rows)
        if action.choices and not isinstance(action.default, list) and action.default is not None:
            assert any(
                all(f"`{choice}`" in row for choice in action.choices) and f"| {action.default} |" in row
                for row in rows
            )


def test_the_default_of_a_switch_is_the_parsers(commands):
    for script in SCRIPTS:
        parser = importlib.import_module(script).build_parser()
        for action in parser._actions:
            if action.nargs == 0 and action.dest != "help" and action.default is not None:
                assert commands.row_of(parser, action)[2] == ("on" if action.default else "off"), action.dest


def test_a_flag_stands_once_where_scripts_declare_it_alike(commands):
    one, other = (importlib.import_module(f"{name}") for name in ("sensitivity", "report"))
    text = commands.page({"sensitivity": one.build_parser(), "report": other.build_parser()})
    assert text.count("| `--batch_size` |") == 1  # alike
    assert text.count("| `--output` |") == 2  # a table, a page


def test_the_architecture_lists_the_folders_as_they_describe_themselves():
    told = re.findall(r"^\| `compress/(\w+)` \| (.+) \|$", (DOCS / "architecture.md").read_text(), re.MULTILINE)
    docstrings = {
        folder: ast.get_docstring(ast.parse((ROOT / "compress" / folder / "__init__.py").read_text()))
        for folder in test_layers.FOLDERS
    }
    assert told == list(docstrings.items())
    assert {path.parent.name for path in ROOT.glob("compress/*/__init__.py")} == docstrings.keys()


def test_the_architecture_names_everything_in_the_root():
    text = (DOCS / "architecture.md").read_text()
    told = set(re.findall(r"^\| `([\w.]+)/?` \|", text.partition("## The root")[2].partition("\n## ")[0], re.MULTILINE))
    there = {path.name for path in ROOT.glob("*.py")} | {
        "compress",
        "tests",
        "docs",
        "experiments",
        "benchmarks",
        "model",
    }
    assert told == there and all((ROOT / name).exists() for name in there)


def test_a_change_goes_where_the_architecture_says():
    table = (DOCS / "architecture.md").read_text().partition("## Where a change goes")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (an?(?:other)? .+|another .+?) \|$", table, re.MULTILINE)
    assert len(rows) == 14
    for row in rows:
        codes = re.findall(r"`([^`]+)`", row)
        files = [code for code in codes if re.search(r"\.(py|txt|md)$", code)]
        sources = "\n".join((ROOT / file).read_text(encoding="utf-8") for file in files)
        for code in {*codes} - {*files}:
            assert re.search(rf"{re.escape(code)}\b", sources), (row, code)


@pytest.mark.parametrize("page", [*PAGES, "README.md", "SECURITY.md", "CONTRIBUTING.md", "benchmarks/README.md"])
def test_the_files_that_a_page_names_are_there(page):
    text = re.sub(r"^```.*?^```", "", (ROOT / page).read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    named = set(re.findall(r"`((?:compress|tests|docs|experiments|benchmarks)/[\w./-]*|[\w-]+\.(?:py|sh|toml))`", text))
    for name in named:
        assert (ROOT / name).exists(), name


def test_the_readme_is_short_and_its_first_command_on_the_first_screen():
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 200 and lines.index("```") < 12


NO_CLASSIFIERS = {  # kinds of keras.layers that no classifier of images is made of
    "bases of others": {"Layer", "Wrapper"},
    "cells, which lie in an RNN alone": {"GRUCell", "LSTMCell", "SimpleRNNCell", "StackedRNNCells"},
    "of boxes": {"MaxNumBoundingBoxes"},
    "of sound": {"MelSpectrogram", "STFTSpectrogram"},
    "of text and tables": {
        *("CategoryEncoding", "Discretization", "HashedCrossing", "Hashing", "IntegerLookup", "StringLookup"),
        "TextVectorization",
    },
}


def test_the_page_on_own_models_names_every_kind_of_keras_that_is_not_read():
    import inspect

    import keras

    from compress.storage import vocabulary

    kinds = {name for name, kind in vars(keras.layers).items() if inspect.isclass(kind)}
    assert all(issubclass(getattr(keras.layers, name), keras.Layer) for name in kinds - {"InputSpec"})
    read = {"InputLayer", *vocabulary.LAYERS, *vocabulary.WRAPPERS, *vocabulary.OTHER_NAMES, "Pipeline"}
    unread = kinds - {"InputSpec"} - read - set().union(*NO_CLASSIFIERS.values())
    page = (DOCS / "how-to" / "own-model.md").read_text(encoding="utf-8")
    table = page.partition("| The file has | What to do |")[2].partition("\n\n")[0]
    told = {name for row in table.splitlines() for name in re.findall(r"`(\w+)`", row.partition(" | ")[0])}
    assert unread == told & kinds


def test_the_site_loads_nothing_from_elsewhere():
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    assert "strict: true" in text and "font: false" in text and "http" not in text
    assert re.search(r"mkdocs build --strict$", (ROOT / "Makefile").read_text(), re.MULTILINE)  # -q would hide warnings
    assert not [
        path
        for path in DOCS.rglob("*")
        if path.suffix in (".md", ".css", ".svg")
        and re.search(
            r"(?:src=|!\[[^]]*\]\(|url\(|@import |xlink:href=)[\"']?https?:", path.read_text(encoding="utf-8")
        )
    ]


def test_every_page_is_in_the_navigation():
    told = re.findall(r"^ +- .+: (\S+\.md)$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(f"docs/{page}" for page in told) == PAGES


def test_the_example_of_jpeg_copies_writes_them(tmp_path, monkeypatch):
    import pickle

    import numpy as np
    from PIL import Image

    (code,) = re.findall(r"```python\n(.*?)```", (DOCS / "how-to" / "jpeg-copies.md").read_text(), re.DOTALL)
    folder = tmp_path / "data" / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    pixels = np.random.default_rng(0).integers(0, 256, (3, 3, 32, 32), "uint8")
    (folder / "batches.meta").write_bytes(pickle.dumps({b"label_names": [b"cat", b"dog"]}))
    (folder / "test_batch").write_bytes(pickle.dumps({b"data": pixels.reshape(3, -1), b"labels": [1, 0, 1]}))
    monkeypatch.chdir(tmp_path)
    exec(code, {})
    places = sorted(path.relative_to("copies").as_posix() for path in Path("copies").rglob("*.jpg"))
    assert places == [
        f"quality{quality}/test/{name}.jpg" for quality in (75, 85) for name in ("cat/0001", "dog/0000", "dog/0002")
    ]
    with Image.open("copies/quality85/test/cat/0001.jpg") as image:
        copy = np.asarray(image, float)
    assert image.format == "JPEG" and copy.shape == (32, 32, 3)
    brightness = [part.mean() for part in (copy, pixels[1].transpose(1, 2, 0))]
    assert abs(brightness[0] - brightness[1]) < 3


def test_the_example_of_an_own_loss_trains_a_student(tmp_path, monkeypatch):
    import keras
    import numpy as np
    import resnets
    from conftest import narrow_widths

    from compress.distillation.distiller import Outputs

    page = (DOCS / "how-to" / "python.md").read_text(encoding="utf-8")
    (code,) = re.findall(
        r"```python\n(.*?)```", page.partition("## A loss of your own")[2].partition("\n## ")[0], re.DOTALL
    )
    (tmp_path / "model" / "base_model").mkdir(parents=True)
    resnets.build_resnet(widths=narrow_widths(blocks=(1, 1, 1, 1))).save(tmp_path / "model" / "base_model" / "model.h5")
    rng = np.random.default_rng(0)
    np.save(tmp_path / "my_images.npy", rng.integers(0, 256, (4, 32, 32, 3)).astype("uint8"))
    np.save(tmp_path / "my_labels.npy", rng.integers(0, 10, 4))
    monkeypatch.chdir(tmp_path)
    names, as_written = {}, 'compile("adam")'
    assert as_written in code
    exec(code.replace(as_written, 'compile("adam", run_eagerly=True)'), names)  # two steps are not worth a graph
    # equal maps have the loss 0 whatever their scale; of one place each, other places are (1 - 0)^2 apart, twice
    one, other = np.zeros((2, 1, 2, 2, 3), "float32")
    one[0, 0, 0], other[0, 1, 1] = 2, 5
    outputs = [Outputs(None, [maps]) for maps in (one, 3 * one, other)]
    assert float(names["attention_loss"](outputs[0], outputs[1], None)) == pytest.approx(0, abs=1e-6)
    assert float(names["attention_loss"](outputs[0], outputs[2], None)) == pytest.approx(2 / 4)
    half = {name: group.width // 2 for name, group in names["graph"].groups.items()}
    assert {name: group.width for name, group in names["Graph"](names["student"]).groups.items()} == half
    start = names["inherit_student"](names["graph"], half)
    kernels = [net.get_layer("conv2_block1_1_conv").kernel for net in (start, keras.models.load_model("student.h5"))]
    assert np.abs(np.asarray(kernels[0]) - np.asarray(kernels[1])).max() > 1e-4
