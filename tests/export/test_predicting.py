"""evaluate_model.py --predict: single photographs by class name, read as in training."""

import json

import numpy as np
import pytest
import resnets
from conftest import narrow_widths, randomised
from PIL import Image

import evaluate_model
from compress.cli import photographs
from compress.storage import checkpoints

NAMES = ["cat", "dog", "fox", "hen", "owl", "pig", "rat"]


@pytest.fixture(scope="module")
def net():
    """A narrow network whose classes are told apart without certainty."""
    model = randomised(resnets.build_resnet(classes=7, widths=narrow_widths()))
    model.get_layer("predictions").kernel.assign(np.random.default_rng(1).normal(0, 0.003, (8, 7)))
    return model


@pytest.fixture(scope="module")
def named(net, tmp_path_factory):
    path = tmp_path_factory.mktemp("named") / "net.h5"
    checkpoints.save_model(net, path, NAMES)
    return path


@pytest.fixture
def photos(tmp_path):
    """A folder of photographs of several sizes and kinds, with files that are none."""
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    (folder / ".hidden").mkdir()
    rng = np.random.default_rng(2)
    for name, size in (("a.png", (60, 40)), ("B b.jpg", (33, 90)), ("more/c.bmp", (20, 20)), (".hidden/d.png", (9, 9))):
        Image.fromarray(rng.integers(0, 256, (6, 6, 3)).astype("uint8")).resize(size).save(folder / name)
    (folder / "notes.txt").write_text("no photograph")
    return folder


def call(*words):
    return evaluate_model.main(["--model_path", *map(str, words)])


def wanted(net, path):
    """Class probabilities by plain Keras and numpy, of an image that Pillow reads."""
    image = np.asarray(Image.open(path).convert("RGB").resize((32, 32), Image.Resampling.BILINEAR), "float32")
    logits = np.float64(net.predict_on_batch(image[None])[0])
    return np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()


def test_photographs_and_folders_of_them_are_told_by_name_and_probability(net, named, photos, tmp_path, capsys):
    out = tmp_path / "predicted.json"
    assert call(named, "--predict", photos / "a.png", photos, "--output", out, "--batch_size", 2) == 0
    found = json.loads(out.read_text())
    assert [row["path"] for row in found["photographs"]] == [
        str(photos / name) for name in ("a.png", "B b.jpg", "a.png", "more/c.bmp")
    ]
    assert found["class_names"] == NAMES
    for row in found["photographs"]:
        probabilities = wanted(net, row["path"])
        assert [best["index"] for best in row["classes"]] == list(np.argsort(-probabilities))[:5]
        assert [best["class"] for best in row["classes"]] == [NAMES[best["index"]] for best in row["classes"]]
        np.testing.assert_allclose(
            [best["probability"] for best in row["classes"]], np.sort(probabilities)[::-1][:5], atol=1e-4
        )
    text = capsys.readouterr().out
    again = evaluate_model.run(**found["run"]["flags"] | {"output": None, "verbose": 0})  # the flags of a record
    assert again["photographs"] == found["photographs"]
    best = found["photographs"][1]["classes"][0]
    assert f"{100 * best['probability']:.2f}" in text and best["class"] in text and "B b.jpg" in text


def test_what_is_left_out_of_a_folder_is_named_in_a_line(named, photos, capsys):
    (photos / "more" / "e.heic").write_text("of a phone")
    (photos / "more" / "linked.png").symlink_to(photos / "a.png")
    assert call(named, "--predict", photos / "a.png") == 0
    assert "skipped" not in capsys.readouterr().err
    assert call(named, "--predict", photos) == 0
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "skipped" in line]
    for what in ("1 hidden folder (", "1 .txt (", "1 .heic (", "more/e.heic)", "1 linked file (", "more/linked.png)"):
        assert what in line
    (photos / "none").mkdir()
    (photos / "none" / "f.heic").write_text("of a phone")
    assert call(named, "--predict", photos / "none") == 2
    assert "holds no images" in (err := capsys.readouterr().err) and "skipped: 1 .heic (f.heic)" in err


def test_the_table_fits_80_columns(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    best = [{"class": f"tiger_swallowtail_{i}", "index": i, "probability": 1 / (i + 2)} for i in range(5)]
    photographs.show("model/kd_model/model.h5", [{"path": f"{'long' * 12}/{'name' * 12}.png", "classes": best}])
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert any("longlong" in line and line.count(".") > 3 for line in lines)  # the path, shortened
    for row in best:
        assert any(row["class"] in line and f"{100 * row['probability']:.2f}" in line for line in lines)


def test_without_names_classes_are_numbered_and_said_so(net, photos, tmp_path, capsys):
    checkpoints.save_model(net, tmp_path / "bare.h5")
    assert call(tmp_path / "bare.h5", "--predict", photos / "a.png") == 0
    out, error = capsys.readouterr()
    assert "photographs of other sizes resized to 32x32: bilinear, antialiased" in out
    assert f"class {wanted(net, photos / 'a.png').argmax()} " in out and "classes and no class names" in error
    (tmp_path / "labels.txt").write_text("one\ntwo\n")
    assert call(tmp_path / "bare.h5", "--predict", photos / "a.png") == 0
    assert "has 7 classes and 2 class names" in capsys.readouterr().err


def test_what_can_not_be_read_is_named_in_one_line(named, photos, tmp_path, capsys):
    (photos / "broken.jpg").write_bytes(b"no image")
    (photos / "cut.png").write_bytes((photos / "a.png").read_bytes()[:60])
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "link.png").symlink_to(photos / "a.png")
    for size in (1, 128):
        assert call(named, "--predict", photos, "--batch_size", size) == 2
        out, error = capsys.readouterr()
        assert error.count("broken.jpg cannot") == error.count("cut.png cannot") == 1, error
        assert error.count("\n") == 2 and error.startswith("warning: skipped: ") and not out, error
    (tmp_path / "README.md").write_text("# Title")
    assert call(named, "--predict", tmp_path / "README.md") == 2
    assert capsys.readouterr().err.endswith("README.md is no image; expected photographs\n")
    assert call(named, "--predict", photos / "gone.jpg", tmp_path / "empty", photos / "a.png") == 2
    error = capsys.readouterr().err
    assert "gone.jpg is not there; " in error and "empty holds no images" in error and error.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--dataset", "digits"], "--dataset: received it beside --predict"),
        (["--images=3"], "--images: received it"),
        (["--no-per_class"], "--per_class: received it"),
        (["--image_size", "64"], "takes images of 32x32"),
    ],
)
def test_flags_that_say_nothing_about_photographs_are_refused(words, told, named, photos, capsys):
    assert call(named, "--predict", photos / "a.png", *words) == 2
    assert told in (error := capsys.readouterr().err) and error.count("\n") == 1


def test_one_model_at_a_time(named, photos, capsys):
    assert call(named, named, "--predict", photos / "a.png") == 2
    assert "received 2 models beside --predict" in capsys.readouterr().err


def test_an_exported_file_with_a_batch_of_its_own_or_that_fails(photos, tmp_path, capsys):
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    weights = np.random.default_rng(3).normal(0, 0.02, (3, 5)).astype("float32")

    def written(name, batch, rows):
        make, float32 = onnx.helper, onnx.TensorProto.FLOAT
        nodes = [
            make.make_node("ReduceMean", ["x"], ["mean"], axes=[1, 2], keepdims=0),
            make.make_node("Reshape", ["mean", "shape"], ["rows"]),
            make.make_node("MatMul", ["rows", "w"], ["y"]),
        ]
        arrays = [
            onnx.numpy_helper.from_array(weights, "w"),
            onnx.numpy_helper.from_array(np.array([rows, 3]), "shape"),
        ]
        graph = make.make_graph(
            nodes,
            "net",
            [make.make_tensor_value_info("x", float32, [batch, 20, 20, 3])],
            [make.make_tensor_value_info("y", float32, [batch, 5])],
            arrays,
        )
        onnx.save(make.make_model(graph, opset_imports=[make.make_opsetid("", 13)], ir_version=8), tmp_path / name)
        return tmp_path / name

    paths = [photos / "more" / "c.bmp", photos / "a.png", photos / "B b.jpg"]
    assert call(written("two.onnx", 2, 2), "--predict", *paths, "--output", tmp_path / "out.json") == 0
    for row in json.loads((tmp_path / "out.json").read_text())["photographs"]:
        image = Image.open(row["path"]).convert("RGB").resize((20, 20), Image.Resampling.BILINEAR)
        logits = np.float64(np.asarray(image, "float32").mean((0, 1)) @ weights)
        assert row["classes"][0]["index"] == logits.argmax()
        assert row["classes"][0]["probability"] == pytest.approx(1 / np.exp(logits - logits.max()).sum(), rel=1e-4)
    capsys.readouterr()
    for name, batch, rows, told in (
        ("fails.onnx", "N", 7, "which fails on images of 20x20 ("),
        ("huge.onnx", 10**9, 10**9, "expected a classifier of images"),
    ):
        assert call(written(name, batch, rows), "--predict", *paths) == 2
        out, error = capsys.readouterr()
        assert told in error and error.splitlines()[-1].startswith("evaluate_model.py: --model_path: ") and not out
