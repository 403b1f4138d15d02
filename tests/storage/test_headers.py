"""headers.py and opening.load_network: what a file says before Keras starts is what the opened network has."""

import keras
import pytest

from compress.errors import InputError
from compress.storage import headers, opening


def ended(*layers, size=(12, 10, 3)):
    return keras.Sequential([keras.Input(size), keras.layers.Conv2D(4, 3, activation="relu"), *layers])


@keras.saving.register_keras_serializable("mine")
class Mine(keras.layers.Layer):
    def call(self, x):
        return x


POOL = keras.layers.GlobalAveragePooling2D
NETWORKS = {
    "dense": lambda: ended(POOL(), keras.layers.Dense(5)),
    "softmax behind": lambda: ended(POOL(), keras.layers.Dense(5), keras.layers.Dropout(0.5), keras.layers.Softmax()),
    "convolution": lambda: ended(keras.layers.Conv2D(5, 1), POOL(), keras.layers.Activation("softmax")),
    "nested": lambda: keras.Sequential(
        [keras.Input((12, 10, 3)), keras.layers.RandomFlip(), ended(POOL(), keras.layers.Dense(5))]
    ),
}


@pytest.mark.parametrize("ending", [".h5", ".keras"])
@pytest.mark.parametrize("name", NETWORKS)
def test_a_header_says_what_the_network_has(name, ending, tmp_path):
    path = tmp_path / f"model{ending}"
    NETWORKS[name]().save(path)
    assert headers.read_header(path) == headers.Header(str(path), 5, (12, 10, 3))
    net = opening.load_network(path, 5, (12, 10, 3))
    assert net.input_shape == (None, 12, 10, 3) and net.output_shape == (None, 5)


def test_what_is_open_is_not_known(tmp_path):
    path = tmp_path / "model.keras"
    ended(keras.layers.Flatten(), keras.layers.Reshape((5, 64)), keras.layers.Flatten(), size=(12, 10, 3)).save(path)
    assert headers.read_header(path).classes is None
    ended(POOL(), keras.layers.Dense(5), size=(None, None, 3)).save(path)
    assert headers.read_header(path) == headers.Header(str(path), 5, None)


def test_code_is_refused_before_keras_starts(tmp_path):
    path = tmp_path / "model.keras"
    ended(Mine(name="own"), POOL(), keras.layers.Dense(5)).save(path)
    with pytest.raises(InputError, match=r"own \(Mine\), a class of its author's own"):
        headers.read_header(path)
    path.write_bytes(path.read_bytes()[:900])
    with pytest.raises(InputError, match="expected an .h5 or .keras"):
        headers.read_header(path)


def test_a_network_of_other_ends_is_not_trained(tmp_path):
    path = tmp_path / "model.keras"
    NETWORKS["dense"]().save(path)
    with pytest.raises(InputError, match="with 5 classes, expected 6"):
        opening.load_network(path, 6)
    with pytest.raises(InputError, match="for images of 12x10, expected 12x12"):
        opening.load_network(path, 5, (12, 12, 3))
    ended(POOL(), keras.layers.Dense(5, activation="sigmoid")).save(path)
    with pytest.raises(InputError, match="outputs of a sigmoid"):
        opening.load_network(path)
