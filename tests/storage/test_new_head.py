"""opening.load_network with a new head: other classes, all else as the file has it."""

import shlex

import keras
import numpy as np
import pytest
from PIL import Image

import prune_model
import sensitivity
import train_base_model
from compress.errors import InputError
from compress.storage import opening

pytestmark = pytest.mark.usefixtures("without_figures")


def ended(*layers, size=(12, 10, 3)):
    return keras.Sequential([keras.Input(size), keras.layers.Conv2D(4, 3, activation="relu"), *layers])


POOL, POOL1D = keras.layers.GlobalAveragePooling2D, keras.layers.GlobalAveragePooling1D
NETWORKS = {
    "dense": lambda: ended(POOL(), keras.layers.Dense(5)),
    "softmax behind": lambda: ended(POOL(), keras.layers.Dense(5), keras.layers.Dropout(0.5), keras.layers.Softmax()),
    "convolution": lambda: ended(keras.layers.Conv2D(5, 1), POOL(), keras.layers.Activation("softmax")),
    "nested": lambda: keras.Sequential(
        [keras.Input((12, 10, 3)), keras.layers.RandomFlip(), ended(POOL(), keras.layers.Dense(5))]
    ),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_a_new_head_has_other_classes_and_all_else_is_kept(name, tmp_path):
    path = tmp_path / "model.keras"
    theirs = NETWORKS[name]()
    theirs.save(path)
    net = opening.load_network(path, 7, new_head="if needed")
    assert net.output_shape == (None, 7)
    kept = [v for v in net.weights if v.shape[-1] != 7]
    wanted = [v for v in theirs.weights if v.shape[-1] != 5 or v.path.split("/")[-1] not in ("kernel", "bias")]
    assert [v.shape for v in kept if "seed" not in v.path] == [v.shape for v in wanted if "seed" not in v.path]
    for now, old in zip(kept, wanted, strict=True):
        np.testing.assert_array_equal(now, old)
    same = opening.load_network(path, 5, new_head="if needed")
    fresh = opening.load_network(path, 5, new_head="always")
    heads = [[np.asarray(v) for v in other.weights if v.name == "kernel"][-1] for other in (theirs, same, fresh)]
    np.testing.assert_array_equal(heads[0], heads[1])
    assert heads[2].shape == heads[0].shape and np.abs(heads[2] - heads[0]).max() > 1e-3
    assert np.isfinite(np.asarray(fresh(np.ones((1, 12, 10, 3), "float32"), training=False))).all()
    ends = [
        layer for layer in fresh._flatten_layers() if getattr(layer, "activation", None) is keras.activations.softmax
    ]
    assert not ends


def test_a_new_head_of_mobilenet_reshapes_other_classes(tmp_path):
    path = tmp_path / "model.h5"
    keras.applications.MobileNet(weights=None, classes=5, input_shape=(32, 32, 3), alpha=0.25).save(path)
    assert opening.load_network(path, 9, new_head="if needed").output_shape == (None, 9)


def test_what_has_no_head_gets_none(tmp_path):
    path = tmp_path / "model.keras"
    ended(
        keras.layers.Conv2D(5, 1),
        keras.layers.Flatten(),
        keras.layers.Reshape((8, 50)),
        POOL1D(),
        keras.layers.Softmax(),
    ).save(path)
    with pytest.raises(InputError, match="whose 50 classes are not the outputs of a Dense layer or a convolution"):
        opening.load_network(path, 7, new_head="if needed")


def test_the_command_for_a_new_head_passes_the_checks_that_it_meets(tmp_path, monkeypatch):
    """What the message says is done, and its command parsed and checked, for stock data and for a folder."""
    monkeypatch.chdir(tmp_path)
    ended(POOL(), keras.layers.Dense(5), size=(24, 24, 3)).save("theirs.keras")
    (tmp_path / "model" / "of_10_classes").mkdir(parents=True)  # of another run

    def message(script, **flags):
        with pytest.raises(InputError) as error:
            script.run(**flags)
        return str(error.value)

    def command_of(text):
        return shlex.split(text.partition("is trained by: ")[2])[2:]

    text = message(prune_model, base_model_path="theirs.keras", dataset="digits", val_split=0.2)
    assert "5 classes for images of 24x24, expected 10 classes and images of 32x32, as digits has them" in text
    again = message(train_base_model, model_path="theirs.keras", dataset="digits", save_folder="x")
    assert "for images of 24x24, expected 32x32" in again and "set_weights" in again
    built = ended(POOL(), keras.layers.Dense(5), size=(32, 32, 3))
    built.set_weights(keras.models.load_model("theirs.keras").get_weights())
    built.save("resized.keras")
    args = train_base_model.build_parser().parse_args(command_of(text))
    assert train_base_model.check(args).size == (32, 32)
    assert (args.save_folder, args.val_split, args.dataset) == ("./model/of_10_classes_2", 0.2, "digits")

    for label in "ab":  # a folder is resized to the model's size, but where it is asked for another
        (tmp_path / "photos" / label).mkdir(parents=True)
        for i in range(9):
            Image.new("RGB", (30, 20), (9 * i, i, 0)).save(tmp_path / "photos" / label / f"{i}.png")
    text = message(prune_model, base_model_path="theirs.keras", dataset="./photos", image_size=64)
    assert "expected 64x64" in text and "without `image_size` the images of a folder are resized to 24x24" in text
    text = message(sensitivity, model_path="theirs.keras", dataset="./photos", class_num=2)
    args = train_base_model.build_parser().parse_args(command_of(text))
    assert train_base_model.check(args).size == (24, 24)


def test_the_command_for_a_new_head_says_what_pixels_the_model_takes(tmp_path, monkeypatch):
    """A network with code in front is only read beside a word on what it does."""
    monkeypatch.chdir(tmp_path)
    front = keras.layers.Lambda(lambda x: x / 255)
    keras.Sequential([keras.Input((32, 32, 3)), front, ended(POOL(), keras.layers.Dense(5), size=(32, 32, 3))]).save(
        "theirs.keras"
    )
    with pytest.raises(InputError, match="is trained by") as error:
        prune_model.run(base_model_path="theirs.keras", dataset="digits", preprocessing="unit")
    words = shlex.split(str(error.value).partition("is trained by: ")[2])[2:]
    train_base_model.check(train_base_model.build_parser().parse_args(words))


ONE_OUTPUT = {  # of two classes, as tutorials have cats and dogs
    "sigmoid": (1, "sigmoid"),
    "sigmoid behind": lambda x: keras.layers.Activation("sigmoid")(keras.layers.Dense(1)(x)),
    "operation behind": lambda x: keras.ops.sigmoid(keras.layers.Dense(1)(x)),
    "logit": (1, None),
    "labels of five": (5, "sigmoid"),
}


@pytest.mark.parametrize("name", ONE_OUTPUT)
def test_a_head_of_two_classes_takes_the_place_of_a_sigmoid(name, tmp_path, capsys):
    image = keras.Input((12, 10, 3))
    features = keras.layers.Conv2D(4, 3)(keras.layers.Rescaling(1 / 255)(image))
    end = ONE_OUTPUT[name]
    end = keras.layers.Dense(end[0], activation=end[1]) if isinstance(end, tuple) else end
    theirs = keras.Model(image, end(POOL()(features)))
    theirs.save(tmp_path / "model.keras")
    net = opening.load_network(tmp_path / "model.keras", 2, new_head="if needed", verbose=1)
    assert "sigmoid" not in "".join(capsys.readouterr())
    pixels = np.random.default_rng(0).uniform(0, 255, (3, 12, 10, 3)).astype("float32")
    kernel, bias = net.layers[-1].get_weights()  # the last layer, linear
    wanted = np.asarray(keras.Model(image, features)(pixels)).mean((1, 2)) @ kernel + bias
    np.testing.assert_allclose(net(pixels, training=False), wanted, rtol=1e-4, atol=1e-5)
    assert wanted.shape == (3, 2)


def test_one_output_is_refused_with_the_way_to_two(tmp_path):
    path = tmp_path / "model.keras"
    ended(POOL(), keras.layers.Dense(1, activation="sigmoid")).save(path)
    with pytest.raises(
        InputError, match="one output for two classes; .* trained by: .*train_base_model.py --model_path"
    ):
        opening.open_network(path)
