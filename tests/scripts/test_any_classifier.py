"""Models that others made, through the scripts: any classifier beside another, a plain ResNet101 through the chain."""

import json
from pathlib import Path

import keras
import numpy as np
import pytest
from conftest import small_net
from keras import layers
from PIL import Image

import evaluate_model
import export_model
import knowledge_distillation
import prune_model
import report
from compress import metrics
from compress.cli import app, configs
from compress.data import dataset
from compress.storage import files, records

pytestmark = pytest.mark.usefixtures("without_figures")


def test_evaluation_sets_any_classifier_beside_another(tmp_path, capsys):
    net = small_net("softmax")
    net.save(tmp_path / "a.keras")
    small_net(None).save(tmp_path / "b.h5")
    argv = [
        "--dataset",
        "digits",
        "--any_model",
        "--latency_runs",
        "2",
        "--output",
        str(tmp_path / "out.json"),
        "--model_path",
        str(tmp_path / "a.keras"),
        str(tmp_path / "b.h5"),
    ]
    assert evaluate_model.main(argv) == 0
    output, error = capsys.readouterr()
    assert error.count("\n") == 1 and "--any_model: deprecated, does nothing" in error
    assert "ECE: expected calibration error" in output and "accuracy of every class" in output
    result = json.loads((tmp_path / "out.json").read_text())
    test = dataset.load_data(configs.DataConfig.of(evaluate_model.build_parser().parse_args(argv)), (32, 32)).test
    answers = net.predict(test.images.astype("float32"), verbose=0)
    row = result["models"][0]
    assert row["acc"] == np.mean(answers.argmax(1) == test.labels)
    assert row["class_acc"] == [np.mean(answers[test.labels == c].argmax(1) == c) for c in range(10)]
    assert row["loss"] == pytest.approx(-np.mean(np.log(answers[np.arange(len(test.labels)), test.labels])), rel=1e-3)
    assert (row["parameters"], row["macs"], row["sparsity"]) == (net.count_params(), metrics.count_macs(net), 0)
    assert result["class_names"] == [str(c) for c in range(10)] and (tmp_path / "out.png").is_file()


def save_lambda(path):
    keras.Sequential([keras.Input((32, 32, 3)), layers.Lambda(lambda x: x), layers.Flatten(), layers.Dense(10)]).save(
        path
    )


def save_other_images(path):
    keras.Sequential([keras.Input((32, 32, 1)), layers.Flatten(), layers.Dense(10)]).save(path)


@pytest.mark.parametrize(
    ("save", "named"),
    [
        (save_lambda, "(Lambda), a layer of code"),
        (save_other_images, "RGB images"),
        (lambda path: path.write_bytes(b"nothing"), "no HDF5 and no zip file"),
        (lambda path: small_net(None, 7).save(path), "7 classes"),
        (lambda path: small_net(None, size=40).save(path), "40x40"),
    ],
)
@pytest.mark.parametrize("suffix", ["keras", "h5"])
def test_what_is_no_such_classifier_is_told_in_a_line(save, named, suffix, tmp_path, capsys):
    path = tmp_path / f"net.{suffix}"
    save(path)
    assert evaluate_model.main(["--dataset", "digits", "--model_path", str(path)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and named in error and "expected" in error


def test_a_network_of_free_size_that_these_images_are_too_small_for_is_told(tmp_path, capsys):
    image = keras.Input((None, None, 3))
    layers_ = [layers.Conv2D(2, 65), layers.GlobalAveragePooling2D(), layers.Dense(10)]
    answers = image
    for layer in layers_:
        answers = layer(answers)
    keras.Model(image, answers).save(tmp_path / "net.keras")
    assert (
        evaluate_model.main(
            [
                "--dataset",
                "digits",
                "--preprocessing",
                "none",
                "--model_path",
                str(tmp_path / "net.keras"),
            ]
        )
        == 2
    )
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "expected a classifier" in error and "Conv2D" in error


def test_a_damaged_resnet_is_no_foreign_model(tmp_path, capsys):
    (tmp_path / "history.json").write_text(json.dumps({"checkpoint": {"sha256": "0" * 64}}))
    small_net(None).save(tmp_path / "model.h5")
    assert evaluate_model.main(["--dataset", "digits", "--model_path", str(tmp_path / "model.h5")]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "damaged or was replaced" in error


def test_a_network_alone_is_compared_with_what_its_record_says_or_with_itself(tmp_path, capsys):
    folder = tmp_path / "pruned" / "iter1"
    folder.mkdir(parents=True)
    small_net(None).save(folder / "model.h5")
    arguments = {"model_path": [str(folder / "model.h5")], "dataset": "digits", "images": 8, "latency_runs": 0}
    (row,) = evaluate_model.run(**arguments)["models"]
    assert (row["compression_rate"], row["sparsity"]) == (1, 0) and "against itself" in capsys.readouterr().out
    content = {"sha256": [files.sha256(folder / "model.h5")], "compression_rate": [3.5], "sparsity": [0.75]}
    records.write_json(tmp_path / "pruned" / "result.json", content)
    (row,) = evaluate_model.run(**arguments)["models"]
    assert (row["compression_rate"], row["sparsity"]) == (3.5, 0.75)
    assert "against the base that its record names" in capsys.readouterr().out
    records.write_json(tmp_path / "pruned" / "result.json", content | {"sha256": ["0" * 64]})
    assert evaluate_model.run(**arguments)["models"][0]["compression_rate"] == 1


def test_macs_by_hand():
    first, depthwise, head = 16 * 16 * 9 * 3 * 4, 14 * 14 * 9 * 4, 8 * 10
    separable, grouped = 14 * 14 * (9 * 4 + 4 * 6), 14 * 14 * 3 * 8
    net = small_net(None)
    assert metrics.count_macs(net) == first + depthwise + separable + grouped + head
    nested = keras.Sequential([keras.Input((32, 32, 3)), net])
    assert metrics.count_macs(nested) == metrics.count_macs(net)


def test_every_call_of_a_shared_layer_or_model_is_work():
    conv, dense = layers.Conv2D(3, 3, padding="same"), layers.Dense(4)
    inner = keras.Sequential([keras.Input((16, 16, 3)), layers.Conv2D(5, 1), layers.GlobalAveragePooling2D()])
    image = keras.Input((32, 32, 3))
    first = conv(image)
    second = conv(layers.AveragePooling2D(2)(first))
    net = keras.Model(image, layers.Add()([dense(inner(second)), dense(inner(second * 2))]))
    by_hand = (32 * 32 + 16 * 16) * 9 * 3 * 3 + 2 * (16 * 16 * 3 * 5 + 5 * 4)
    assert metrics.count_macs(net) == by_hand


def test_sparsity_is_of_networks_of_the_same_layers():
    whole, other = small_net(None), keras.Sequential([keras.Input((32, 32, 3)), layers.Conv2D(2, 3, name="new")])
    names = [layer.name for layer in whole.layers if "conv" in layer.name]
    half = keras.Sequential([keras.Input((32, 32, 3)), layers.Conv2D(2, 3, name=names[0], bias_initializer="ones")])
    convolutions = sum(whole.get_layer(name).count_params() for name in names)
    assert evaluate_model.sparsity_of(half, whole) == pytest.approx(1 - (9 * 3 * 2 + 2) / convolutions)
    assert evaluate_model.sparsity_of(whole, whole) == 0
    assert evaluate_model.sparsity_of(other, whole) is None
    without = keras.Sequential([keras.Input((4, 4, 3)), layers.Flatten(), layers.Dense(2)])
    assert evaluate_model.sparsity_of(without, whole) is None


@pytest.mark.slow
def test_a_plain_resnet101_of_seven_classes_goes_the_whole_way_on_a_folder(tmp_path, monkeypatch):
    """Trained elsewhere on another preprocessing and image size, saved by plain Keras with a softmax head."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(1)
    for part, count in (("train", 24), ("test", 6)):
        for c in range(7):
            folder = tmp_path / "pictures" / part / f"class{c}"
            folder.mkdir(parents=True)
            for i in range(count):
                pixels = np.clip(rng.normal(36 * c, 20, (40, 52, 3)), 0, 255).astype("uint8")
                Image.fromarray(pixels).save(folder / f"{i}.png")
    net = keras.applications.ResNet101(weights=None, classes=7, input_shape=(48, 48, 3))
    net.save("net.keras")
    common = ["--dataset", "pictures", "--preprocessing", "tf", "--batch_size", "28", "--verbose", "0"]
    assert (
        prune_model.main(
            ["--base_model_path", "net.keras", "--prune_iter", "1", "--epoch_num", "1", "--target_macs", "2x", *common]
        )
        == 0
    )
    assert knowledge_distillation.main(["--root_folder", "model/pruned_model/iter1", "--epoch_num", "1", *common]) == 0
    assert (
        evaluate_model.main(
            [
                "--model_path",
                "net.keras",
                "model/pruned_model/iter1/model.h5",
                "model/kd_model/model.h5",
                "--output",
                "all.json",
                *common,
            ]
        )
        == 0
    )
    assert export_model.main(["--format", "savedmodel", "litert-int8", *common]) == 0
    assert report.main(["--dataset", "pictures", "--batch_size", "28", "--verbose", "0"]) == 0
    page = Path("model/report.html").read_text(encoding="utf-8")
    assert all(name in page for name in ("pruned_model/iter1", "kd_model", "litert-int8", "class6"))
    base, pruned, student = json.loads(Path("all.json").read_text())["models"]
    assert base["images"] == 42
    assert base["macs"] >= 2 * pruned["macs"] and student["compression_rate"] >= 12.82
    args = evaluate_model.build_parser().parse_args(["--model_path", "x", *common])
    folder = dataset.load_data(configs.DataConfig.of(args), (48, 48), iter)
    answers = net.predict(folder.test.images / 127.5 - 1, verbose=0)
    assert base["acc"] == np.mean(answers.argmax(1) == folder.test.labels)
    assert base["loss"] == pytest.approx(-np.mean(np.log(answers[np.arange(42), folder.test.labels])), rel=1e-3)
    student_net = keras.models.load_model("model/kd_model/model.h5")
    np.testing.assert_array_equal(
        student["acc"], np.mean(student_net.predict(folder.test.images, verbose=0).argmax(1) == folder.test.labels)
    )


def test_a_model_whose_input_lies_in_a_list_raises_no_warning_of_keras():
    image = keras.Input((2,))
    listed = keras.Model([image], keras.layers.Dense(1)(image))
    nested = keras.Model(image, keras.Model([image], listed(image))(image))
    app.start_keras(configs.MachineConfig(seed=1, verbose=0))
    for model in listed, nested:  # warnings are errors here
        assert model(np.zeros((1, 2), "float32"), training=False).shape == (1, 1)
