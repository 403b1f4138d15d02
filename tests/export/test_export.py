"""export_model.py: each file in its own runtime against plain Keras, and what a user gets wrong."""

import importlib.util
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import keras
import numpy as np
import pytest
import resnets
from conftest import narrow_widths, randomised

import evaluate_model
import export_model
from compress import metrics
from compress.cli import configs
from compress.errors import InputError
from compress.export import measuring, metadata, writers
from compress.report import records
from compress.report.tree import Run
from compress.storage import checkpoints, saving

NAMES = ["hot dog", "not, a dog", "Füchse 🦊", "0", 'quoted "d"', *"fghij"]
IMAGES = np.random.default_rng(5).integers(0, 256, (40, 32, 32, 3)).astype("uint8")
KERAS = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="TensorFlow's exporters")
pytestmark = KERAS


@pytest.fixture(scope="module")
def network():
    """Narrow, with lively weights and a classifier that tells its classes apart."""
    net = randomised(resnets.build_resnet(widths=narrow_widths(8, 16, 8)))
    net.get_layer("predictions").kernel.assign(np.random.default_rng(1).normal(0, 0.003, (16, 10)))
    return net


@pytest.fixture(scope="module")
def written(network, tmp_path_factory):
    """{format: path}, all of one network."""
    folder = tmp_path_factory.mktemp("exported")
    return {name: writers.write(network, name, folder, IMAGES, NAMES) for name in writers.FORMATS}


def plain(network, images=IMAGES):
    """What Keras itself answers."""
    return network.predict_on_batch(images.astype("float32"))


@pytest.mark.parametrize("name", ["savedmodel", "onnx", "litert"])
@pytest.mark.parametrize("count", [1, 40])
def test_a_file_answers_in_its_runtime_what_plain_keras_answers(name, count, network, written):
    for threads in writers.thread_counts(name):
        logits = writers.runner(written[name], name, threads)(IMAGES[:count])
        np.testing.assert_allclose(logits, plain(network, IMAGES[:count]), rtol=1e-3, atol=1e-3)


def test_statistics_of_a_normalization_are_constants_of_an_onnx_file(tmp_path):
    image = keras.Input((8, 8, 3))
    x = keras.layers.Normalization(mean=[120.0, 110, 100], variance=[4000.0, 4100, 4200])(image)
    net = keras.Model(image, keras.layers.Dense(3)(keras.layers.Flatten()(x)))
    path, pixels = writers.write(net, "onnx", tmp_path), IMAGES[:2, :8, :8]
    np.testing.assert_allclose(writers.runner(path, "onnx", 1)(pixels), plain(net, pixels), rtol=1e-3, atol=1e-3)


def test_what_tf2onnx_has_no_operation_for_is_written_as_onnx_by_others(tmp_path):
    """GELU, of which TensorFlow makes Erfc, grouped convolutions, and augmentation."""
    layers, image = keras.layers, keras.Input((8, 8, 3))
    x = layers.RandomContrast(0.5, value_range=(0, 255))(image)
    x = keras.ops.gelu(layers.Conv2D(4, 3, activation="gelu")(layers.Rescaling(1 / 255)(x)), approximate=False)
    x = layers.Conv2D(6, 3, groups=2)(x)
    net = keras.Model(image, layers.Dense(3)(layers.Flatten()(x)))
    path, pixels = writers.write(net, "onnx", tmp_path), IMAGES[:2, :8, :8]
    np.testing.assert_allclose(writers.runner(path, "onnx", 1)(pixels), plain(net, pixels), rtol=1e-3, atol=1e-4)
    # what was put in their place is gone again: the network trains with its augmentation
    assert not np.allclose(net(pixels, training=True), plain(net, pixels), atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("inside", [False, True])
def test_augmentation_in_front_of_batch_norm_leaves_it_as_outside_training(inside, tmp_path):
    """As in the commonest transfer learning; Keras' augmentation takes a call that says nothing for training."""
    layers = keras.layers
    body = [layers.Conv2D(4, 3, strides=2), layers.BatchNormalization(), layers.ReLU(), layers.GlobalMaxPooling2D()]
    body = [keras.Sequential([keras.Input((8, 8, 3)), *body])] if inside else body
    net = keras.Sequential(
        [keras.Input((8, 8, 3)), layers.RandomFlip(), layers.RandomRotation(0.1), layers.Rescaling(1 / 255), *body]
    )
    net.add(layers.Dense(3))
    net.set_weights([w + np.linspace(0.1, 0.7, w.size).reshape(w.shape) for w in net.get_weights()])
    before, pixels = [np.array(v) for v in net.variables], IMAGES[:5, :8, :8]
    wanted = plain(net, pixels)
    for name in writers.FORMATS:
        path = writers.write(net, name, tmp_path, IMAGES[:, :8, :8])
        assert all(np.array_equal(old, new) for old, new in zip(before, net.variables, strict=True)), name
        if name != "litert-int8":
            np.testing.assert_allclose(writers.runner(path, name, 1)(pixels), wanted, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (
            "many\nlines\nerror: op Strange is not supported\nand",
            r"ValueError: error: op Strange is not supported; exp",
        ),
        (
            'failed: invalid model. In Node, ("a/b/Erfc", Erfc, "", -1)',
            "no operation like TensorFlow's Erfc; e",
        ),
        ("loc(x): error: 'tf.TensorListReserve' op requires", "no operation like TensorFlow's TensorListReserve; exp"),
        ("word " * 100, r"word \.\.\.; exp"),
    ],
)
def test_what_a_converter_cannot_take_is_one_line(said, why, network, tmp_path, monkeypatch):
    def fail(*_, **__):
        raise ValueError(said)

    monkeypatch.setattr(type(network), "export", fail)
    with pytest.raises(InputError, match=f"`format`: received onnx, which this network can't be written in: .*{why}"):
        writers.write(network, "onnx", tmp_path)
    assert not list(tmp_path.iterdir())


def test_int8_is_whole_numbers_throughout_and_near(network, written):
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(written["litert-int8"]))
    interpreter.allocate_tensors()
    kinds = {detail["dtype"] for detail in interpreter.get_tensor_details()}
    assert kinds <= {np.uint8, np.int8, np.int32, np.int64, np.bool_}, kinds
    assert interpreter.get_input_details()[0]["dtype"] == np.uint8
    logits, wanted = writers.runner(written["litert-int8"], "litert-int8", 1)(IMAGES), plain(network)
    assert np.corrcoef(logits.ravel(), wanted.ravel())[0, 1] > 0.98
    assert writers.size(written["litert-int8"]) < writers.size(written["litert"])


def test_int8_takes_every_byte_whichever_pixels_it_was_calibrated_on(network, tmp_path):
    from ai_edge_litert.interpreter import Interpreter

    dim = (IMAGES // 4 + 20).astype("uint8")
    interpreter = Interpreter(str(writers.write(network, "litert-int8", tmp_path, dim)))
    assert interpreter.get_input_details()[0]["quantization"] == (1.0, 0) and dim.max() < 100


@pytest.mark.slow
def test_files_open_without_this_suite(written):
    """In a process that has none of its modules."""
    code = (
        "import sys, numpy as np, onnxruntime, tensorflow as tf\n"
        "x = np.zeros((2, 32, 32, 3), 'float32')\n"
        "serve = tf.saved_model.load(sys.argv[1]).signatures['serving_default']\n"
        "a = serve(image=tf.constant(x))['logits'].numpy()\n"
        "b = onnxruntime.InferenceSession(sys.argv[2]).run(None, {'image': x})[0]\n"
        "assert a.shape == b.shape == (2, 10) and np.allclose(a, b, atol=1e-3), (a, b)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, written["savedmodel"], written["onnx"]],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(written["onnx"]).parent,
    )
    assert done.returncode == 0, done.stderr


def test_a_failed_export_leaves_the_file_before_it(network, written, tmp_path, monkeypatch):
    (tmp_path / "model.tflite").write_bytes(b"before")

    def fail(*_):
        raise OSError("no space left on device")

    monkeypatch.setattr(writers, "_flat_buffer", fail)
    with pytest.raises(OSError, match="no space"):
        writers.write(network, "litert", tmp_path, IMAGES)
    assert [path.name for path in tmp_path.iterdir()] == ["model.tflite"]
    assert (tmp_path / "model.tflite").read_bytes() == b"before"


def test_a_folder_that_cannot_be_replaced_stays(network, tmp_path, monkeypatch):
    (tmp_path / "savedmodel").mkdir()
    (tmp_path / "savedmodel" / "x.pb").write_bytes(b"before")
    monkeypatch.setattr(writers, "_save_constant", lambda model, path: path.mkdir())
    with monkeypatch.context() as patch:
        patch.setattr(writers.files, "move", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            writers.write(network, "savedmodel", tmp_path, IMAGES)
    assert [path.relative_to(tmp_path).as_posix() for path in sorted(tmp_path.rglob("*"))] == [
        "savedmodel",
        "savedmodel/x.pb",
    ]
    writers.write(network, "savedmodel", tmp_path, IMAGES)
    assert not (tmp_path / "savedmodel" / "x.pb").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["savedmodel"]


def test_the_script_writes_files_table_and_record_and_does_it_again(network, tmp_path, capsys):
    checkpoints.save_model(network, tmp_path / "model.h5")
    argv = [
        "--model_path",
        str(tmp_path / "model.h5"),
        "--dataset",
        "digits",
        "--format",
        "savedmodel",
        "litert-int8",
        "--calibration_images",
        "32",
        "--latency_runs",
        "3",
    ]
    for _ in range(2):  # the second writes over the first
        assert export_model.main(argv) == 0
    folder = tmp_path / "exported"
    assert {path.name for path in folder.iterdir()} == {"savedmodel", "model-int8.tflite", "labels.txt", "export.json"}
    record = json.loads((folder / "export.json").read_text())
    h5, saved, int8 = record["files"]
    assert (h5["format"], h5["bytes"]) == ("h5", (tmp_path / "model.h5").stat().st_size)
    assert saved["agreement"] == 1 and saved["acc"] == h5["acc"] and 0 < int8["agreement"] <= 1
    assert int8["bytes"] == (folder / "model-int8.tflite").stat().st_size < h5["bytes"]
    assert record["images"] == 144 and record["split"] == "validation" and record["calibration_images"] == 32
    images = export_model.build_parser().parse_args(argv)
    from compress.data import dataset

    split = dataset.load_data(configs.DataConfig.of(images), (32, 32), iter).val
    run = writers.runner(folder / "model-int8.tflite", "litert-int8", 1)
    assert int8["acc"] == metrics.classification_metrics(run(split.images), split.labels)["acc"]
    assert list(int8["latency_ms_by_threads"]) == [str(count) for count in writers.thread_counts("litert-int8")]
    assert int8["latency_ms_median"] == min(int8["latency_ms_by_threads"].values())
    versions = record["run"]["versions"]
    assert versions.keys() >= {"keras", "ai-edge-litert"} and "onnx" not in versions
    output = capsys.readouterr().out
    assert "litert-int8" in output and "144 validation images" in output


def test_a_record_tells_the_versions_of_what_runs_its_files():
    import onnx
    import onnxruntime
    import tf2onnx

    assert writers.versions(["savedmodel"]) == {}
    told = writers.versions(["onnx", "litert", "litert-int8"])
    assert told.pop("ai-edge-litert")[0].isdigit()
    assert told == {package.__name__: package.__version__ for package in (onnx, onnxruntime, tf2onnx)}


def test_latency_is_of_the_fastest_number_of_threads():
    pause = {1: 0.004, 2: 0.001, 7: 0.008}
    functions = {threads: lambda images, seconds=seconds: time.sleep(seconds) for threads, seconds in pause.items()}
    row = measuring.fastest(functions, (2, 2, 3), 5)
    assert row["threads"] == 2 and list(row["latency_ms_by_threads"]) == ["1", "2", "7"]
    assert 1 <= row["latency_ms_p10"] <= row["latency_ms_median"] <= row["latency_ms_p90"]
    assert row["latency_ms_median"] == row["latency_ms_by_threads"]["2"] < row["latency_ms_by_threads"]["1"]


@pytest.mark.parametrize(("name", "package"), [("onnx", "tf2onnx"), ("litert", "ai_edge_litert")])
def test_a_missing_package_is_named(name, package, network, tmp_path, monkeypatch, capsys):
    checkpoints.save_model(network, tmp_path / "model.h5")
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda n, *a: None if n == package else found(n, *a))
    assert export_model.main(["--model_path", str(tmp_path / "model.h5"), "--dataset", "digits", "--format", name]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and package.replace("_", "-") in error and "requirements-export.txt" in error
    assert not (tmp_path / "exported").exists()


def test_a_killed_export_is_cleared_away(network, tmp_path):
    checkpoints.save_model(network, tmp_path / "model.h5")
    left = tmp_path / "exported" / ".partial-x" / "savedmodel"
    left.mkdir(parents=True)
    shutil.copy(tmp_path / "model.h5", left)
    assert (
        export_model.main(
            [
                "--model_path",
                str(tmp_path / "model.h5"),
                "--dataset",
                "digits",
                "--format",
                "savedmodel",
                "--latency_runs",
                "0",
                "--verbose",
                "0",
            ]
        )
        == 0
    )
    assert {path.name for path in (tmp_path / "exported").iterdir()} == {"savedmodel", "labels.txt", "export.json"}


def test_a_file_says_what_its_classes_are_called_and_what_pixels_it_expects(written):
    import ast
    import zipfile

    import onnx
    import onnxruntime

    props = {prop.key: prop.value for prop in onnx.load(written["onnx"]).metadata_props}
    assert ast.literal_eval(props["names"]) == dict(enumerate(NAMES)) and json.loads(props["class_names"]) == NAMES
    assert (props["imgsz"], props["Image.BitmapPixelFormat"], props["Image.NominalPixelRange"]) == (
        "[32, 32]",
        "Rgb8",
        "NominalRange_0_255",
    )
    onnx.checker.check_model(str(written["onnx"]))
    assert metadata.of_onnx(onnxruntime.InferenceSession(str(written["onnx"]))) == (tuple(NAMES), True)
    for name in ("litert", "litert-int8"):
        with zipfile.ZipFile(written[name]) as archive:
            assert archive.read("labels.txt").decode().splitlines() == NAMES
        assert metadata.of_litert(written[name]) == (tuple(NAMES), True)
    extra = written["savedmodel"] / "assets.extra"
    assert (extra / "labels.txt").read_text("utf-8").splitlines() == NAMES
    assert json.loads((extra / "metadata.json").read_text())["output"] == "logits"


def test_a_size_beside_a_stock_set_is_refused_and_without_one_nothing_is_measured(tmp_path, capsys):
    image = keras.Input((None, None, 3))
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(4, 3)(image))
    saving.save_network(keras.Model(image, keras.layers.Dense(10)(x)), tmp_path / "open.h5")
    words = ["--model_path", str(tmp_path / "open.h5"), "--image_size", "64", "--format", "onnx", "--latency_runs", "0"]
    assert export_model.main([*words, "--dataset", "digits"]) == 2
    told = capsys.readouterr().err
    assert "--image_size: received 64 beside digits, whose images are 32x32; expected none, or no --dataset" in told
    assert not (tmp_path / "exported").exists()
    assert export_model.main(words) == 0
    assert "the images of cifar10 aren't 64 pixels wide" in " ".join(capsys.readouterr().out.split())
    graph = pytest.importorskip("onnx").load(tmp_path / "exported" / "model.onnx").graph
    assert [size.dim_value for size in graph.input[0].type.tensor_type.shape.dim[1:]] == [64, 64, 3]


@pytest.mark.slow
def test_without_images_files_are_written_compared_and_said_not_to_be_measured(network, tmp_path, capsys):
    checkpoints.save_model(network, tmp_path / "model.h5", NAMES)
    assert (
        export_model.main(
            ["--model_path", str(tmp_path / "model.h5"), "--format", "onnx", "litert-int8", "--latency_runs", "0"]
        )
        == 0
    )
    out, error = capsys.readouterr()
    assert "accuracy not measured: no data set was named, and" in " ".join(
        out.split()
    ) and "is no model of cifar10" in (" ".join(out.split()))
    assert error == (
        "warning: --format: litert-int8 needs images to measure its ranges on, expected --dataset and no "
        "--no-measure; it is not written\n"
    )
    folder = tmp_path / "exported"
    assert {path.name for path in folder.iterdir()} == {"model.onnx", "labels.txt", "export.json"}
    assert (folder / "labels.txt").read_text("utf-8").splitlines() == NAMES
    record = json.loads((folder / "export.json").read_text())
    flags = record["run"]["flags"]
    assert record["not_measured"] and flags["measure"] is False
    assert (flags["dataset"], flags["class_num"]) == ("cifar10", 10)  # none was named, so that it was no error
    assert record["class_names"] == NAMES and record["split"] is None
    with pytest.raises(InputError, match="written without images"):  # a report has nothing to show of it
        records.READERS["export"](Run("exported", "export", folder, record, []))
    h5, onnx = record["files"]
    assert h5["acc"] is None and onnx["acc"] is None and onnx["agreement"] == 1
    made_up = measuring.made_up((32, 32, 3)).images
    found = writers.runner(folder / "model.onnx", "onnx", 1)(made_up)
    softmax = [np.exp(logits) / np.exp(logits).sum(1, keepdims=True) for logits in (found, plain(network, made_up))]
    assert np.ptp(softmax[1], 0).max() > 0.01  # they are told apart, so that agreement says something
    assert onnx["largest_difference"] == pytest.approx(np.abs(softmax[0] - softmax[1]).max(), abs=1e-5)


def test_without_images_int8_alone_is_refused(network, tmp_path, capsys):
    checkpoints.save_model(network, tmp_path / "model.h5", NAMES)  # which aren't cifar10's: nothing is downloaded
    argv = ["--model_path", str(tmp_path / "model.h5"), "--format", "litert-int8"]
    assert export_model.main([*argv, "--no-measure"]) == 2
    assert export_model.main(argv) == 2
    assert capsys.readouterr().err.count("litert-int8 needs images") == 2
    assert not (tmp_path / "exported").exists()
    assert export_model.main([*argv, "--dataset", str(tmp_path / "gone")]) == 2
    assert "gone" in capsys.readouterr().err


def test_a_file_that_answers_otherwise_is_warned_of(network, tmp_path, capsys):
    def start(threads):
        return lambda images: 10 * plain(network, images)[:, ::-1]

    config = configs.ExportConfig(tmp_path / "model.h5", latency_runs=0, verbose=0)
    images = measuring.made_up((32, 32, 3))
    checkpoints.save_model(network, tmp_path / "model.h5")
    row, logits = measuring.measure("onnx", config.model_path, start, images, config)
    row = measuring.compare(row, logits, plain(network, images.images), config)
    assert row["largest_difference"] > 0.1 and "disagrees with" in capsys.readouterr().err


def predicted(path, photo, capsys, *more):
    """What evaluate_model.py --predict tells of one photograph, and what it prints on standard error."""
    assert evaluate_model.main(["--model_path", str(path), "--predict", str(photo), "--json", *more]) == 0
    out, error = capsys.readouterr()
    return json.loads(out)["photographs"][0]["classes"], error.partition(str(path))[2]


@pytest.mark.parametrize("name", ["onnx", "litert", "litert-int8"])
def test_an_exported_file_classifies_photographs(name, network, written, tmp_path, capsys):
    from PIL import Image

    Image.fromarray(np.random.default_rng(3).integers(0, 256, (5, 7, 3)).astype("uint8")).resize((70, 50)).save(
        photo := tmp_path / "a.png"
    )
    shrunk = np.asarray(Image.open(photo).resize((32, 32), Image.Resampling.BILINEAR))[None]
    logits = writers.runner(written[name], name, 1)(shrunk)[0]
    if name != "litert-int8":
        np.testing.assert_allclose(logits, plain(network, shrunk)[0], rtol=1e-3, atol=1e-3)
    wanted = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
    found, _ = predicted(written[name], photo, capsys)
    assert [row["class"] for row in found] == [NAMES[i] for i in np.argsort(-wanted, kind="stable")[:5]]
    np.testing.assert_allclose([row["probability"] for row in found], np.sort(wanted)[::-1][:5], rtol=1e-5)


def test_files_without_metadata_are_given_pixels_as_they_are_and_said_so(written, tmp_path, capsys):
    import onnx

    bare = onnx.load(written["onnx"])
    del bare.metadata_props[:]
    onnx.save(bare, tmp_path / "bare.onnx")
    from PIL import Image

    Image.fromarray(IMAGES[0]).save(photo := tmp_path / "a.png")
    with_names, _ = predicted(written["onnx"], photo, capsys)
    without, error = predicted(tmp_path / "bare.onnx", photo, capsys)
    assert "doesn't say what pixels it takes" in error and "are numbered, from 0" in error
    assert [row["probability"] for row in without] == [row["probability"] for row in with_names]
    assert without[0]["class"] == f"class {with_names[0]['index']}"
    (tmp_path / "labels.txt").write_text("\n".join(NAMES))
    assert predicted(tmp_path / "bare.onnx", photo, capsys)[0] == with_names


def test_hostile_exported_files_are_refused(written, tmp_path, capsys):
    import onnx
    from PIL import Image

    Image.fromarray(IMAGES[0]).save(photo := tmp_path / "a.png")
    proto = onnx.load(written["onnx"])
    onnx.save(proto, tmp_path / "outside.onnx", save_as_external_data=True, size_threshold=0)
    (tmp_path / "short.tflite").write_bytes(written["litert"].read_bytes()[:5000])
    (tmp_path / "text.onnx").write_text("<html>")
    node, (x, y) = (
        onnx.helper.make_node("Flatten", ["x"], ["y"]),
        [onnx.helper.make_tensor_value_info(*info) for info in (("x", 1, [1, 3, 8, 8]), ("y", 1, [1, 192]))],
    )
    nchw = onnx.helper.make_model(
        onnx.helper.make_graph([node], "g", [x], [y]), ir_version=9, opset_imports=[onnx.helper.make_opsetid("", 17)]
    )
    onnx.save(nchw, tmp_path / "nchw.onnx")
    for name, told in {
        "outside.onnx": "whose weights lie in other files",
        "short.tflite": "which LiteRT can't open",
        "text.onnx": "which ONNX Runtime can't open",
        "nchw.onnx": "(N, height, width, 3)",
        "gone.onnx": "expected a file",
    }.items():
        assert evaluate_model.main(["--model_path", str(tmp_path / name), "--predict", str(photo)]) == 2
        error = capsys.readouterr().err
        assert told in error and error.count("\n") == 1, error
