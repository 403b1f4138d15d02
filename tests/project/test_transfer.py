"""experiments/transfer.py and the page about transfer learning: the pictures, and the classifier of plain Keras."""

import re
import types

import keras
import numpy as np
import pytest
from conftest import ROOT
from PIL import Image

import readings
import transfer
from compress.storage import opening


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with two pictures of each kind in each split."""
    before, transfer.SPLITS = transfer.SPLITS, dict.fromkeys(transfer.SPLITS, 2)
    folder = tmp_path_factory.mktemp("transfer")
    for name in ("my_images", "again"):
        transfer.draw(folder / name)
    transfer.SPLITS = before
    return folder


def test_the_pictures_are_the_same_whenever_they_are_drawn_and_no_two_alike(folder):
    several = [
        {path.relative_to(folder / name).as_posix(): path.read_bytes() for path in (folder / name).rglob("*.jpg")}
        for name in ("my_images", "again")
    ]
    assert several[0] == several[1] and len(several[0]) == 24 == len(set(several[0].values()))
    for name in several[0]:
        with Image.open(folder / "my_images" / name) as image:
            assert all(120 <= side <= 300 for side in image.size) and image.mode == "RGB"
            assert np.asarray(image).std() > 5


@pytest.mark.slow
def test_the_classifier_of_the_page_is_the_one_that_was_measured_and_is_opened(folder, monkeypatch):
    page = (ROOT / "docs" / "how-to" / "transfer-learning.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert 'weights="imagenet"' in code
    monkeypatch.chdir(folder)
    monkeypatch.setattr(keras.Model, "fit", lambda *args, **more: None)
    names = {}
    exec(code.replace('weights="imagenet"', "weights=None"), names)
    ours, theirs = transfer.build(), names["model"]
    kinds = [[type(layer).__name__ for layer in net._flatten_layers()] for net in (ours, theirs)]
    assert kinds[0] == kinds[1] and ours.count_params() == theirs.count_params()
    found = opening.load_network("my_model.keras", 4, (96, 96, 3))
    images = np.random.default_rng(0).integers(0, 256, (2, 96, 96, 3)).astype("float32")
    scores = keras.ops.softmax(found(images, training=False))
    np.testing.assert_allclose(scores, theirs(images, training=False), atol=1e-5)


def test_its_record_has_what_a_table_shows(folder):
    model, path = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Flatten(), keras.layers.Dense(4)]), "x.keras"
    model.save(folder / path)
    args = types.SimpleNamespace(seed=3, epoch_num=25)
    found = transfer.record(args, model, folder / path, 0.75, 12.0)
    row = readings.measured(found, {"transfer/base/seed3": found}, {})
    assert (row["validation"], row["parameters"], row["macs"], row["epochs"]) == (0.75, 772, 768, "25")
    assert row["seed"] == 3 and row["compression rate"] == 1 and row["bytes"] == (folder / path).stat().st_size
