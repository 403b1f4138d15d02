"""What is given as a model and is none: it is called what it is, and what the line says to do makes a model of it."""

import json
import os
import pathlib
import re
import shlex
import subprocess
import sys
import zipfile

import keras
import numpy as np
import pytest
from keras import layers

from compress.errors import InputError
from compress.storage import headers, kinds, opening

RGB = np.random.default_rng(3).uniform(0, 255, (2, 8, 8, 3)).astype("float32")


@pytest.fixture(scope="module")
def network():
    return keras.Sequential(
        [keras.Input((8, 8, 3)), layers.Rescaling(1 / 255), layers.Conv2D(2, 3), layers.Flatten(), layers.Dense(3)]
    )


def refused(path):
    """The line that a path is refused with."""
    with pytest.raises(InputError) as caught:
        headers.read_header(path)
    assert "\n" not in str(caught.value) and "expected" in str(caught.value)
    return str(caught.value)


def ran(command, folder):
    """Runs the printed command of Python in a folder."""
    words = shlex.split(command)
    assert words[:3] == ["python", "-m", "zipfile"]
    subprocess.run([sys.executable, *words[1:]], cwd=folder, check=True)


@pytest.mark.parametrize("name", ["my model", "net.keras"])
def test_an_unpacked_archive_is_packed_by_the_printed_command(name, network, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    network.save("whole.keras")
    zipfile.ZipFile("whole.keras").extractall(name)
    for given in (name, f"{name}/config.json"):
        line = refused(given)
        command = re.search(r"(python -m zipfile .*)$", line)[1]
        assert "unpacked .keras file" in line
    ran(command, tmp_path)
    (packed,) = [path for path in os.listdir() if path.endswith(".keras") and path not in (name, "whole.keras")]
    np.testing.assert_allclose(opening.open_network(packed).model(RGB), network(RGB), rtol=1e-5, atol=1e-5)


def test_a_folder_around_the_parts_of_an_archive_is_left_out_by_the_printed_commands(network, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    network.save("whole.keras")
    zipfile.ZipFile("whole.keras").extractall("parts")
    with zipfile.ZipFile("again.keras", "w") as archive:
        for part in os.listdir("parts"):
            archive.write(f"parts/{part}", f"parts/{part}")
    pack, unpack = re.search(r"writes it: (.*), behind (.*)$", refused("again.keras")).groups()
    ran(unpack, tmp_path)
    ran(pack, tmp_path)
    found = opening.open_network(shlex.split(pack)[4]).model(RGB)
    np.testing.assert_allclose(found, network(RGB), rtol=1e-5, atol=1e-5)


def test_a_config_without_weights_becomes_a_model_by_the_printed_code(network, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model.json").write_text(network.to_json())
    network.save_weights("net.weights.h5")
    line = refused("model.json")
    assert "config of a model" in line and "without its weights" in line
    build, load, save = re.search(r"(model = .*?), then (model\.load.*?) with .*, and (model\.save.*)$", line).groups()
    exec(f"{build}; {load.replace('...', repr('net.weights.h5'))}; {save}", {"keras": keras, "pathlib": pathlib})
    np.testing.assert_allclose(opening.open_network("model.keras").model(RGB), network(RGB), rtol=1e-5, atol=1e-5)


def safetensors():
    header = b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
    return len(header).to_bytes(8, "little") + header + bytes(4)


KINDS = {  # name of a file: (content, what it is called, what is expected)
    "net.tflite": (b"\x1c\0\0\0TFL3", "LiteRT", "Keras model that it was made from"),
    "net.onnx": (b"\x08\x07\x12\x07pytorch", "an ONNX file", "Keras model that it was made from"),
    "frozen.pb": (b"\x08\x01", "SavedModel", "Keras model that it was made from"),
    "net.mlmodel": (b"\x08\x01", "Core ML", "Keras model that it was made from"),
    "net.pt": (
        b"PK\3\4\0\0\0\0archive/data.pkl",
        "PyTorch",
        "built in Keras, these weights given to it by set_weights",
    ),
    "net.pth": (b"\x80\x02\x8a\nl\xfc", "PyTorch", "transposed to (h, w, in, out)"),
    "net.safetensors": (safetensors(), "a safetensors file", "transposed to (h, w, in, out)"),
    "net.npy": (b"\x93NUMPY\1\0", "an array of NumPy", "set_weights"),
    "net.pkl": (b"\x80\x04\x95", "a pickle", "Keras model"),
    "net.h5.gz": (b"\x1f\x8b\x08\0", "a compressed archive", "unpacked"),
    "net.yaml": (b"backend: tensorflow\nclass_name: Sequential\n", "without its weights", "a file of both"),
    "web.json": (b'{"format": "layers-model", "modelTopology": {}}', "TensorFlow.js", "tensorflowjs_converter"),
    "net.index": (b"\0\0", "a part of a TensorFlow checkpoint", "net') in tf.keras 2"),
    "net.data-00000-of-00001": (b"\0\0", "a part of a TensorFlow checkpoint", "net') in tf.keras 2"),
    "model.ckpt-9.meta": (b"\n\xff", "a part of a TensorFlow checkpoint", "model.ckpt-9') in tf.keras 2"),
}


@pytest.mark.parametrize("name", KINDS)
def test_files_of_others_are_called_what_they_are(name, tmp_path):
    content, what, way = KINDS[name]
    (tmp_path / name).write_bytes(content)
    line = refused(tmp_path / name)
    assert re.search(f"which is .*{re.escape(what)}.*; expected .*{re.escape(way)}", line)


@pytest.mark.parametrize(
    ("named", "found"),
    [("ckpt-9", "ckpt-9"), ("/elsewhere/ckpt-10", "ckpt-10"), ("x", "ckpt-12"), (None, "ckpt-12")],
)
def test_of_several_checkpoints_the_last_is_named(named, found, tmp_path):
    for number in (9, 10, 12):
        (tmp_path / f"ckpt-{number}.index").write_bytes(b"\0")
    if named:
        (tmp_path / "checkpoint").write_text(
            f'model_checkpoint_path: "{named}"\nall_model_checkpoint_paths: "ckpt-9"\n'
        )
    assert f"load_weights({str(tmp_path / found)!r})" in refused(tmp_path)


def test_every_part_and_the_name_of_a_checkpoint_lead_to_the_same_weights(tmp_path):
    for name in ("ckpt-1.index", "ckpt-1.data-00000-of-00001"):
        (tmp_path / name).write_bytes(b"\0")
    (tmp_path / "checkpoint").write_text('model_checkpoint_path: "ckpt-1"\n')
    lines = [refused(tmp_path / name) for name in ("", "checkpoint", "ckpt-1.index", "ckpt-1", *os.listdir(tmp_path))]
    assert {re.search(r"load_weights\((.*?)\)", line)[1] for line in lines} == {repr(str(tmp_path / "ckpt-1"))}


def test_a_saved_model_of_keras_2_names_what_opens_it(tmp_path):
    (tmp_path / "saved_model.pb").touch()
    assert "Keras model that it was made from" in refused(tmp_path)
    (tmp_path / "keras_metadata.pb").touch()
    assert f"tf_keras.models.load_model({str(tmp_path)!r}).save('model.h5')" in refused(tmp_path)


def test_an_archive_of_a_model_names_the_model(tmp_path):
    with zipfile.ZipFile(tmp_path / "net.zip", "w") as archive:
        archive.writestr("run/net.h5", b"")
    assert "a zip file that holds 'run/net.h5'; expected that file, unpacked" in refused(tmp_path / "net.zip")


def test_models_and_their_records_are_no_other_kind(network, tmp_path):
    for name in ("net.keras", "net.h5"):
        network.save(tmp_path / name)
    network.save_weights(tmp_path / "net.weights.h5")
    (tmp_path / "history.json").write_text(json.dumps({"loss": [1]}))
    assert not any(kinds.of_other(tmp_path / name) for name in [*os.listdir(tmp_path), "missing"])
