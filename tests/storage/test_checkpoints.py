"""checkpoints.py, bare.py: files of this suite and of keras.applications, bare weights, damaged and foreign files."""

import dataclasses
import re
import shutil
import zipfile
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest
import resnets
from conftest import narrow_widths, randomised
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from compress.engine import folding
from compress.errors import InputError
from compress.storage import archives, bare, checkpoints, hdf5, headers, opening


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A narrow model of the suite and its file."""
    path = tmp_path_factory.mktemp("saved") / "model.h5"
    model = randomised(resnets.build_resnet(widths=narrow_widths()))
    checkpoints.save_model(model, path)
    return model, path


def weights_in(path):
    """The bare.Weights of a file without a config."""
    with archives.opened(path) as (file, config, _):
        assert config is None
        return bare.read(path, archives.arrays(file, path), archives.groups(file))


@pytest.fixture(scope="module")
def application(tmp_path_factory):
    """keras.applications' ResNet50 with a softmax head of 7 classes for 48x40 images, and its file."""
    path = tmp_path_factory.mktemp("application") / "resnet.h5"
    model = randomised(keras.applications.ResNet50(weights=None, classes=7, input_shape=(48, 40, 3)))
    model.save(path)
    return model, path


def test_round_trip_is_bit_equal_here_and_in_plain_keras(saved, pictures):
    model, path = saved
    wanted = model.predict_on_batch(pictures[0])
    np.testing.assert_array_equal(opening.load_network(path, 10, (32, 32, 3)).predict_on_batch(pictures[0]), wanted)
    np.testing.assert_array_equal(keras.models.load_model(path).predict_on_batch(pictures[0]), wanted)


def test_the_file_holds_no_optimiser_and_little_beside_weights(saved):
    model, path = saved
    model.compile("adam", "mse")
    model.optimizer.build(model.trainable_variables)
    checkpoints.save_model(model, path)
    with h5py.File(path) as file:
        assert "optimizer_weights" not in file
    wide = resnets.cost_of(resnets.full_widths(50))[0] * 4
    assert path.stat().st_size - model.count_params() * 4 < 0.01 * wide


@pytest.mark.slow
def test_application_with_softmax_gives_the_same_classes_on_rgb(application):
    model, path = application
    rgb = np.random.default_rng(3).integers(0, 256, (5, 48, 40, 3)).astype("float32")
    wanted = model.predict_on_batch(keras.applications.resnet.preprocess_input(rgb.copy()))
    loaded = opening.load_network(path, 7, (48, 40, 3))
    np.testing.assert_allclose(keras.ops.softmax(loaded.predict_on_batch(rgb)), wanted, atol=1e-5)
    feature = keras.Model(model.inputs, model.get_layer("conv3_block4_out").output)
    ours = keras.Model(loaded.inputs, loaded.get_layer("conv3_block4_out").output)
    np.testing.assert_allclose(
        ours.predict_on_batch(rgb),
        feature.predict_on_batch(keras.applications.resnet.preprocess_input(rgb.copy())),
        rtol=1e-3,
        atol=1e-3,
    )


@pytest.mark.parametrize(
    "mode", [pytest.param(mode, marks=pytest.mark.slow) for mode in ("tf", "torch", "unit", "none")]
)
def test_a_model_trained_on_another_preprocessing_answers_alike_on_plain_rgb(mode, application, tmp_path):
    """Border pixels too: what pads the first convolution is a zero behind the preprocessing."""
    model, path = application
    rgb = np.random.default_rng(4).integers(0, 256, (3, 48, 40, 3)).astype("float32")
    seen = (
        keras.applications.imagenet_utils.preprocess_input(rgb.copy(), mode=mode)
        if mode in ("tf", "torch")
        else rgb / 255
        if mode == "unit"
        else rgb
    )
    loaded = opening.load_network(path, 7, (48, 40, 3), mode)
    logits = loaded(rgb, training=False)  # called, not compiled: that would take ten times as long
    np.testing.assert_allclose(keras.ops.softmax(logits), model(seen, training=False), atol=1e-5)
    np.testing.assert_allclose(folding.FoldedModel(loaded)(rgb), logits, rtol=1e-3, atol=1e-3)
    checkpoints.save_model(loaded, tmp_path / "model.h5")  # from here on the file tells
    again = opening.load_network(tmp_path / "model.h5", preprocessing="caffe")
    np.testing.assert_array_equal(again(rgb, training=False), logits)


@pytest.mark.slow
def test_a_keras_archive_is_read_as_the_h5_of_the_same_model(application, saved, tmp_path):
    model, path = application
    model.compile("adam", "categorical_crossentropy")
    model.optimizer.build(model.trainable_variables)  # its slots lie in the archive too
    keras.models.load_model(saved[1]).save(tmp_path / "ours.keras")
    model.save(tmp_path / "theirs.keras")
    for h5, archive in ((path, tmp_path / "theirs.keras"), (saved[1], tmp_path / "ours.keras")):
        one, other = (opening.open_network(name).model for name in (h5, archive))
        assert one.get_config() == other.get_config()
        for before, after in zip(one.weights, other.weights, strict=True):
            np.testing.assert_array_equal(before, after)
        assert dataclasses.replace(headers.read_header(archive), path=str(h5)) == headers.read_header(h5)


def test_zip_files_that_are_no_model_or_swell_are_refused(application, tmp_path):
    application[0].save(tmp_path / "good.keras")
    content = (tmp_path / "good.keras").read_bytes()
    (tmp_path / "cut.keras").write_bytes(content[:-200] + content[-100:])
    (tmp_path / "flipped.keras").write_bytes(content[: 10**6] + bytes(50) + content[10**6 + 50 :])
    with zipfile.ZipFile(tmp_path / "other.keras", "w") as archive:
        archive.writestr("a.txt", "text")
    with zipfile.ZipFile(tmp_path / "bomb.keras", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("config.json", "{}")
        archive.writestr("model.weights.h5", bytes(10**7))
    for name in ("cut", "flipped", "other", "bomb"):
        with pytest.raises(InputError, match=rf"^received .*{name}\.keras") as caught:
            opening.open_network(tmp_path / f"{name}.keras")
        assert "\n" not in str(caught.value) and "expected" in str(caught.value)


@pytest.mark.slow
def test_bare_weights_in_the_applications_layout(application, tmp_path):
    model, _ = application
    path = tmp_path / "resnet50_weights_tf_dim_ordering_tf_kernels.h5"
    with h5py.File(path, "w") as file:  # as the published files are laid out: layer/layer/weight:0, no model_config
        for layer in model.layers:
            for variable in layer.variables:
                file[f"{layer.name}/{layer.name}/{variable.name}:0"] = np.asarray(variable)
    found = weights_in(path)
    assert (found.depth, found.stem, found.classes, found.rescaling) == (50, "imagenet", 7, None)
    assert headers.read_header(path) == headers.Header(str(path), 7, None)
    built = opening.load_network(path, 3, (32, 32, 3), new_head="if needed")
    assert built.output_shape == (None, 3)
    np.testing.assert_array_equal(
        built.get_layer("conv5_block3_2_conv").kernel, model.get_layer("conv5_block3_2_conv").kernel
    )


@pytest.fixture(scope="module")
def all_blocks():
    """A narrow ResNet50 with all its blocks."""
    return resnets.build_resnet(widths=narrow_widths(blocks=None))


@pytest.mark.parametrize(
    ("blocks", "without", "more", "words"),
    [
        ((3, 4, 6, 2), "", "", ""),
        ((1, 1, 1, 1), "", "", ""),
        ((3, 4, 6, 3), "conv5_block3_1_conv", "", "conv5_block3"),  # a hole is no block less
        ((3, 4, 6, 3), "conv5_block3_[12]_conv", "", "conv5_block3"),
        ((3, 4, 6, 3), "conv4_block2_", "", "conv4_block2_1_conv"),
        ((3, 4, 6, 3), "conv3_block", "", "blocks"),
        ((2, 2, 2, 2), "", "conv2_block1_se_conv", "conv2_block1_se_conv"),
        ((3, 4, 6, 3), "", "aux_1_conv", "aux_1_conv"),
        ((2, 2, 2, 2), "", "conv6_block1_1_conv", "conv6_block1_1_conv"),
    ],
)
def test_blocks_may_be_fewer_but_each_is_whole(blocks, without, more, words, all_blocks, tmp_path):
    model, kept = all_blocks, set(resnets.inner_names(blocks))
    with h5py.File(tmp_path / "weights.h5", "w") as file:
        for layer in model.layers:
            gone = "_block" in layer.name and f"{layer.name[: layer.name.index('_', 6)]}_1_conv" not in kept
            for variable in layer.variables if not gone and not (without and re.match(without, layer.name)) else ():
                file[f"{layer.name}/{variable.name}"] = np.asarray(variable)
        if more:
            file[f"{more}/kernel"] = np.zeros((1, 1, 6, 6), "float32")
    if not words:
        found = weights_in(tmp_path / "weights.h5")
        assert resnets.blocks_of(found.widths) == blocks
        built = opening.load_network(tmp_path / "weights.h5", 10, (32, 32, 3))
        for ours, theirs in zip(built.layers[-1].variables, model.layers[-1].variables, strict=True):
            np.testing.assert_array_equal(ours, theirs)
        return
    with pytest.raises(InputError, match=f"^.*the weights of a ResNet50, .*{words}"):
        headers.read_header(tmp_path / "weights.h5")


def test_another_class_count_or_size_is_refused(saved):
    _, path = saved
    with pytest.raises(InputError, match=r".* with 10 classes, expected 7, .*train_base_model\.py --model_path"):
        opening.load_network(path, 7)
    with pytest.raises(InputError, match="received .* for images of 32x32, expected 64x64"):
        opening.load_network(path, 10, (64, 64, 3))


def foreign_files(folder, good):
    """Paths of files that are no classifier of images."""
    other = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    other.save(folder / "dense.h5")
    (folder / "empty.h5").write_bytes(b"")
    (folder / "text.h5").write_text("not HDF5")
    (folder / "half.h5").write_bytes(good.read_bytes()[: good.stat().st_size // 2])
    h5py.File(folder / "hollow.h5", "w").close()
    with h5py.File(folder / "string.h5", "w") as file:
        file["conv1_conv/conv1_conv/kernel"] = "text"
    (folder / "folder.h5").mkdir()
    return [*sorted(folder.glob("*.h5")), folder / "missing.h5"]


def test_foreign_files_are_refused_in_one_line(saved, tmp_path):
    for path in foreign_files(tmp_path, saved[1]):
        for read in (headers.read_header, opening.open_network):
            with pytest.raises(InputError, match=rf"^received .*{path.name}") as caught:
                read(path)
            assert "\n" not in str(caught.value), path


def test_links_and_external_storage_are_not_followed(saved, tmp_path):
    _, good = saved
    secret = tmp_path / "secret.bin"
    secret.write_bytes(bytes(10**5))
    for kind, why in (
        ("soft", r"conv1_conv/bias that is missing"),
        ("external", r"conv1_conv/bias that is missing"),
        ("storage", "is not a plain array"),
        ("virtual", "is not a plain array"),
    ):
        path = tmp_path / f"{kind}.h5"
        path.write_bytes(good.read_bytes())
        with h5py.File(path, "r+") as file:
            name = "model_weights/conv1_conv/conv1_conv/bias"
            shape = file[name].shape
            del file[name], file.attrs["weights_sha256"]  # which would give any other array away
            if kind == "soft":
                file[name] = h5py.SoftLink("/model_weights/conv1_bn/conv1_bn/beta")
            elif kind == "external":
                file[name] = h5py.ExternalLink(str(good), name)
            elif kind == "storage":
                file.create_dataset(name, shape, "f4", external=[(str(secret), 0, h5py.h5f.UNLIMITED)])
            else:
                layout = h5py.VirtualLayout(shape, "f4")
                layout[:] = h5py.VirtualSource(str(good), name, shape)
                file.create_virtual_dataset(name, layout)
        with pytest.raises(InputError, match=f"^received .*{why}"):
            opening.open_network(path)


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS"),
        (b"\n<!DOCTYPE html><html>", "web page"),
        (b"\x1c\0\0\0TFL3", "LiteRT"),
        (b"PK\3\4\0\0\0\0archive/data.pkl", "PyTorch"),
        (b"", "an empty file"),
        (None, "SavedModel"),
    ],
)
def test_what_is_no_model_is_named(content, what, tmp_path):
    path = tmp_path / "model.h5"
    if content is None:
        path.mkdir()
        (path / "saved_model.pb").touch()
    else:
        path.write_bytes(content)
    with pytest.raises(InputError, match=f"received .*model.h5, which is .*{what}") as caught:
        headers.read_header(path)
    assert "did you mean" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"# Title", "no HDF5 and no zip file;"),
        (b"\x89HDF\r\n\x1a\n" + bytes(100), "a truncated or damaged HDF5 file of 108"),
        (b"PK\x03\x04" + bytes(1200), "a truncated or damaged zip file of 1,204 bytes;"),
    ],
)
def test_a_file_that_is_no_model_is_called_what_it_is(content, what, tmp_path):
    (tmp_path / "README.md").write_bytes(content)
    with pytest.raises(InputError, match=f"README.md, which is {what}") as caught:
        headers.read_header(tmp_path / "README.md")
    assert "empty" not in str(caught.value)


@pytest.mark.parametrize("name", ["history.json", "result.json"])
def test_a_damaged_record_beside_a_model_is_a_warning(name, saved, capsys, tmp_path):
    path = Path(shutil.copy(saved[1], tmp_path / "model.h5"))
    (tmp_path / name).write_text('{"val_acc": [0.5')
    headers.read_header(path)
    told = capsys.readouterr().err
    assert told.startswith(f"warning: received {tmp_path / name}, expected JSON (") and told.count("\n") == 1
    assert told.endswith(f"; what it said of {path} is not known\n")


def test_of_a_folder_the_models_below_are_named(tmp_path):
    models = [tmp_path / "model" / name / "model.h5" for name in "abcdef"]
    for path in models:
        path.parent.mkdir(parents=True)
        path.touch()
    named = f"; models below {tmp_path / 'model'}: {', '.join(map(str, models[:4]))} and 2 more"
    for place in (tmp_path / "model", tmp_path / "model" / "model.h5"):  # as a script makes of --root_folder model
        with pytest.raises(InputError) as caught:
            headers.read_header(place)
        assert str(caught.value).endswith(named)
    with pytest.raises(InputError, match="which is a folder; expected an .h5 or .keras file of Keras$"):
        (tmp_path / "bare").mkdir()
        headers.read_header(tmp_path / "bare")


@pytest.mark.parametrize("suffix", ["h5", "keras"])
def test_the_optimizers_share_of_a_file_is_told_apart(suffix, tmp_path):
    net = keras.Sequential([keras.Input((64,)), keras.layers.Dense(512), keras.layers.Dense(3)])
    net.compile("adam", "mse")
    net.save(tmp_path / f"bare.{suffix}")
    bare = archives.optimizer_bytes(tmp_path / f"bare.{suffix}")
    net.fit(np.zeros((2, 64)), np.zeros((2, 3)), verbose=0)
    net.save(tmp_path / f"net.{suffix}")
    slots = sum(np.asarray(v).nbytes for v in net.optimizer.variables)
    assert bare < 100 and slots > 2 * 4 * net.count_params()
    assert archives.optimizer_bytes(tmp_path / f"net.{suffix}") == slots


def test_old_names_are_read_bare(saved, tmp_path):
    """As Keras 1 wrote them, with its epsilon of 1e-3; deeper networks number their blocks."""
    model, _ = saved
    names = {"0": "1", "1": "2a", "2": "2b", "3": "2c"}

    def old(layer):
        stage, block, part, kind = re.fullmatch(r"conv(\d)_block(\d+)_(\d)_(conv|bn)", layer).groups()
        block = "abcdef"[int(block) - 1] if stage != "4" else "a" if block == "1" else f"b{int(block) - 1}"
        return f"{'res' if kind == 'conv' else 'bn'}{stage}{block}_branch{names[part]}"

    with h5py.File(tmp_path / "old.h5", "w") as file:
        for layer in model.layers:
            name = {"conv1_conv": "conv1", "conv1_bn": "bn_conv1", "predictions": "fc1000"}.get(layer.name, layer.name)
            name = old(name) if "block" in name and layer.variables else name
            for variable in layer.variables:
                short = {
                    "kernel": "W",
                    "bias": "b",
                    "moving_mean": "running_mean",
                    "moving_variance": "running_std",
                }.get(variable.name, variable.name)
                file[f"{name}/{name}_{short}:0"] = np.asarray(variable)
    found = weights_in(tmp_path / "old.h5")
    assert (found.old, found.classes, found.widths) == (True, 10, narrow_widths())
    ours = opening.load_network(tmp_path / "old.h5", 10, (32, 32, 3), "none")
    twin = keras.models.clone_model(
        model,
        clone_function=lambda layer: type(layer).from_config(
            layer.get_config()
            | (
                {"epsilon": 1e-3}
                if layer.name.endswith("_bn")
                else {"scale": 1.0, "offset": 0.0}
                if layer.name == "normalization"
                else {}
            )
        ),
    )
    twin.set_weights(model.get_weights())
    rgb = np.random.default_rng(1).normal(0, 1, (3, 32, 32, 3)).astype("float32")
    np.testing.assert_allclose(ours.predict_on_batch(rgb), twin.predict_on_batch(rgb), rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_weights_of_keras_3_are_read_by_their_numbers(tmp_path):
    whole = randomised(resnets.build_resnet(widths=narrow_widths(blocks=None)))
    model = keras.Model(whole.get_layer("conv1_pad").input, whole.output)  # without the layer on pixels
    for name, net in (("flat", model), ("nested", keras.Sequential([model, keras.layers.Dropout(0.1)]))):
        net.save_weights(tmp_path / f"{name}.weights.h5")
        found = weights_in(tmp_path / f"{name}.weights.h5")
        for layer in model.layers:
            for variable in layer.variables:
                np.testing.assert_array_equal(found.arrays[layer.name, variable.name], variable)
    whole.save_weights(path := tmp_path / "scaled.weights.h5")
    found = weights_in(path)
    for layer in whole.layers:
        for variable in layer.variables:
            np.testing.assert_array_equal(found.arrays[layer.name, variable.name], variable)
    with pytest.raises(InputError, match=r"normalization \(Rescaling\), whose numbers .*model.save\('model.keras'\)"):
        opening.load_network(path)
    other = keras.Sequential([model, keras.layers.BatchNormalization()])
    other.save_weights(tmp_path / "other.weights.h5")
    with pytest.raises(
        InputError, match=r"expected a whole model.* a ResNet50, .*batch_normalization, which lies elsewhere"
    ):
        headers.read_header(tmp_path / "other.weights.h5")


@pytest.mark.slow
@pytest.mark.parametrize("named", [True, False])
def test_weights_of_keras_3_with_a_rescaling_and_augmentation(named, tmp_path, capsys):
    """Names tell fewer blocks than a ResNet50's, too; Keras before 3.9 kept none."""
    core = randomised(
        resnets.build_resnet(
            widths=narrow_widths(blocks=(2, 1, 1, 1) if named else None), normalization=((127.5,) * 3,) * 2
        )
    )
    net = keras.Sequential([keras.Input((32, 32, 3)), keras.layers.RandomFlip(), core, keras.layers.Dropout(0.2)])
    net.save_weights(path := tmp_path / "m.weights.h5")
    if not named:
        with h5py.File(path, "r+") as file:
            file.visititems(lambda _, item: item.attrs.pop("name", None) and None)
    ours = opening.load_network(path, preprocessing="tf")
    warned = capsys.readouterr().err  # nothing says whether this network's strides and activations are those
    assert re.search(r"warning: .*not compared .*strides.*version 1.*ReLU.*1\.001e-05.*average.*the whole", warned)
    rgb = np.random.default_rng(1).uniform(0, 255, (3, 32, 32, 3)).astype("float32")
    np.testing.assert_allclose(ours(rgb, training=False), net(rgb, training=False), rtol=1e-4, atol=1e-4)


def test_nan_in_a_weight_is_refused(saved, tmp_path):
    path = tmp_path / "nan.h5"
    path.write_bytes(saved[1].read_bytes())
    with h5py.File(path, "r+") as file:
        file["model_weights/conv1_conv/conv1_conv/bias"][0] = np.nan
        del file.attrs["weights_sha256"]
    with pytest.raises(InputError, match=r"conv1_conv/bias holds NaN"):
        opening.load_network(path)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cut=st.floats(0, 1), flips=st.lists(st.tuples(st.floats(0, 0.2), st.integers(0, 255)), max_size=8))
def test_damaged_files_never_give_anything_but_an_input_error(saved, tmp_path, cut, flips):
    content = bytearray(saved[1].read_bytes())
    content = content[: int(cut * len(content))]
    for place, value in flips:
        if content:
            content[int(place * (len(content) - 1))] = value
    (tmp_path / "damaged.h5").write_bytes(content)
    try:
        opening.open_network(tmp_path / "damaged.h5")
    except InputError as error:
        assert str(error).startswith("received")


def test_a_failed_save_leaves_the_old_file(saved, tmp_path, monkeypatch):
    model, good = saved
    path = tmp_path / "model.h5"
    path.write_bytes(good.read_bytes())

    def fail(model, where):
        where.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(hdf5, "write", fail)
    with pytest.raises(InputError, match=r"model\.h5 can't be written .disk full"):
        checkpoints.save_model(model, path)
    assert path.read_bytes() == good.read_bytes()
    assert [p.name for p in tmp_path.iterdir()] == ["model.h5"]
