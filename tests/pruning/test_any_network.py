"""Scopes, criteria, removal and curves on networks of all kinds, against numpy and networks that are built."""

import json
import shutil

import keras
import numpy as np
import pytest
import resnets
import zoo
from conftest import narrow_widths
from PIL import Image

import knowledge_distillation as distilling
import prune
import prune_model
import sensitivity
from compress import metrics
from compress.cli import configs
from compress.data import decoding
from compress.errors import InputError
from compress.graph.convolutions import convolutions
from compress.graph.network import Graph
from compress.pruning import allocation, budgets, criteria, iterations, masks, overview, removal
from compress.pruning.scope import Scope

pytestmark = pytest.mark.usefixtures("without_figures")

L = keras.layers


def built(name):
    return zoo.calibrated(zoo.NETWORKS[name]())


def vgg_like(flatten):
    image = keras.Input((6, 6, 3))
    x = L.Conv2D(6, 3, activation="relu", name="conv")(image)
    x = L.Flatten()(x) if flatten else L.GlobalAveragePooling2D()(x)
    return keras.Model(image, L.Dense(4, name="logits")(L.Dense(9, activation="relu", name="hidden")(x)))


# ---- scopes


def test_the_inner_scope_of_a_resnet_is_its_inner_convolutions():
    model = resnets.build_resnet(widths=narrow_widths())
    assert list(Scope.of(model).names) == resnets.inner_names((2, 1, 1, 1))
    everything = Scope.of(model, "all")
    assert set(everything.names) == set(everything.graph.groups) and len(everything.names) == 10 + 5


def test_hidden_dense_layers_may_lose_units_behind_flatten_alone():
    assert Scope.of(vgg_like(True), "all").names == ("conv", "hidden")
    assert Scope.of(vgg_like(True)).names == ("hidden",)  # the convolution reads the image
    assert Scope.of(vgg_like(False)).names == ()
    assert Scope.of(vgg_like(False), "all").names == ("conv", "hidden")


def test_channels_go_in_steps_of_a_grouped_convolution():
    scope = Scope.of(built("grouped_convolution"), "all")
    multiple, floor = scope.permitted(6)
    steps = {name: group.step for name, group in scope.groups.items()}
    assert max(steps.values()) > 1
    for name, step in steps.items():
        assert multiple[name] * step % 6 == 0 and floor[name] * step >= masks.FLOOR > (floor[name] - 1) * step
    scores = criteria.compute_scores("l2", scope, None, None)
    for name, keep in masks.create_mask(scores, 0.9, multiple, floor).items():
        assert keep.all() or keep.sum() * steps[name] % 6 == 0


# ---- criteria


def test_l1_of_an_expansion_adds_its_convolution_and_its_depthwise_one():
    model = built("inverted_residual")
    found = criteria.compute_scores("l1", model, None, None)
    members = [
        np.abs(np.asarray(model.get_layer("expand").kernel, np.float64)).sum((0, 1, 2)),
        np.abs(np.asarray(model.get_layer("depthwise").kernel, np.float64)).sum((0, 1, 3)),
    ]
    assert list(found) == ["expand"]
    np.testing.assert_allclose(found["expand"], -sum(m / m.mean() for m in members))


def test_l2_of_a_stream_also_adds_the_kernels_that_read_it():
    model = built("residual")
    scope = Scope.of(model, "all")
    name = next(name for name, group in scope.groups.items() if len(group.makers) > 1)
    group, members = scope.groups[name], []
    for maker in group.makers:
        members.append(np.sqrt((np.asarray(model.get_layer(maker).kernel, np.float64) ** 2).sum((0, 1, 2))))
    for reader in group.readers:
        kernel = np.asarray(model.get_layer(reader).kernel, np.float64)
        kernel = kernel.reshape(-1, *kernel.shape[-2:])
        members.append(np.sqrt((kernel**2).sum((0, 2))))
    found = criteria.compute_scores("l2", scope, None, None)[name]
    np.testing.assert_allclose(found, -sum(m / m.mean() for m in members))


def test_fpgm_is_the_sum_of_distances_to_the_other_filters():
    model = built("plain_cnn")
    found = criteria.compute_scores("fpgm", Scope.of(model, "all"), None, None)
    assert set(found) == {"one", "two"}
    for name, values in found.items():
        kernel = np.asarray(model.get_layer(name).kernel, np.float64)
        filters = [kernel[..., c] for c in range(kernel.shape[-1])]
        wanted = [-sum(np.linalg.norm(f - other) for other in filters) for f in filters]
        np.testing.assert_allclose(values, wanted, rtol=1e-6)


@pytest.mark.skipif(keras.backend.backend() == "numpy", reason="no gradients")
def test_taylor_without_batch_norm_is_the_slope_along_a_gate_of_the_filter():
    keras.utils.set_random_seed(1)  # no ReLU of the hidden layer changes its side within the step of the slope
    model, rng = zoo.lively(vgg_like(True)), np.random.default_rng(0)
    images, labels = rng.normal(0, 1, (6, 6, 6, 3)).astype("float32"), rng.integers(0, 4, 6)
    found = criteria.compute_scores("taylor", Scope.of(model, "all"), images, labels, batch_size=6)
    for name in ("conv", "hidden"):
        layer = model.get_layer(name)
        before = [np.array(v) for v in layer.weights]

        def loss(channel, gate, layer=layer, before=before):
            for variable, value in zip(layer.weights, before, strict=True):
                variable.assign(value * np.where(np.arange(value.shape[-1]) == channel, gate, 1))
            return metrics.classification_metrics(np.asarray(model(images)), labels)["loss"]

        for channel in range(3):
            slope = (loss(channel, 1.001) - loss(channel, 0.999)) / 0.002
            assert found[name][channel] == pytest.approx(-abs(slope), rel=0.05, abs=1e-3)
        loss(-1, 1)
    assert min(np.abs(values).max() for values in found.values()) > 0.01


def test_groups_that_a_criterion_cannot_score_stay_whole():
    image = keras.Input((6, 6, 3))
    x = L.BatchNormalization(name="norm")(L.Conv2D(6, 3, name="plain")(image))
    x = L.Conv2D(5, 3, activation="relu", name="zeros")(x)
    scope = Scope.of(keras.Model(image, L.Dense(3)(L.GlobalAveragePooling2D()(x))), "all")
    images = np.random.default_rng(0).normal(0, 1, (4, 6, 6, 3)).astype("float32")
    for criterion, names in (("apoz", ["zeros"]), ("bn", ["plain"]), ("l1", ["plain", "zeros"])):
        assert list(criteria.scored_by(criterion, scope).names) == names
        assert list(criteria.compute_scores(criterion, scope, images, None)) == names


@pytest.mark.parametrize(
    ("criterion", "words"), [("apoz", "no ReLU-like activation"), ("bn", "no batch-norm with a gamma")]
)
def test_a_network_that_a_criterion_cannot_score_is_told_which_can(criterion, words):
    image = keras.Input((6, 6, 3))
    x = L.Conv2D(5, 3, activation="silu", name="b")(L.Conv2D(6, 3, activation="silu", name="a")(image))
    model = keras.Model(image, L.Dense(3)(L.GlobalAveragePooling2D()(x)), name="smooth")
    with pytest.raises(InputError, match=words) as error:
        criteria.compute_scores(criterion, criteria.scored_by(criterion, Scope.of(model, "all")), None, None)
    assert "smooth" in str(error.value) and "l1, l2, taylor, fpgm or random" in str(error.value)
    with pytest.raises(InputError, match='`scope="all"`'):
        criteria.scored_by("l1", Scope.of(vgg_like(False)))


# ---- removal


def counted(model):
    kinds = (L.Conv1D, L.Conv2D, L.Conv3D, L.DepthwiseConv2D, L.SeparableConv2D)
    found = {layer for layer in model._flatten_layers() if isinstance(layer, kinds)}
    return sum(layer.count_params() for layer in found)


@pytest.mark.parametrize(
    "name",
    ["inverted_residual", "transfer_learning", "grouped_convolution", "separable_convolutions", "inception_added"],
)
def test_masked_and_trimmed_networks_have_the_sparsity_that_was_counted(name):
    model, rng = built(name), np.random.default_rng(1)
    mask = {}
    for group in Scope.of(model, "all").groups.values():
        mask[group.name] = rng.random(group.width) < 0.6
        mask[group.name][0] = True
    small = prune.trim_model(model, mask)
    wanted = 1 - counted(small) / counted(model)
    assert prune.compute_sparsity(small, model) == pytest.approx(wanted) and wanted > 0.1
    before, images = counted(model), zoo.images(model)
    images = images if len(images) > 1 else images[0]
    prune.apply_mask(model, mask)
    assert counted(model) == before and prune.compute_sparsity(model, model) == pytest.approx(wanted)
    answers = np.asarray(model(images))
    np.testing.assert_allclose(answers, small(images), rtol=1e-4, atol=1e-5 * np.abs(answers).max())


def test_dense_layers_on_maps_are_convolutions_and_the_classifier_is_none():
    """As in ConvNeXt, where they hold nearly all parameters."""
    x = image = keras.Input((8, 8, 3))
    x = L.Conv2D(6, 3, name="stem")(x)
    x = L.Dense(6, name="narrow")(L.Dense(24, activation="gelu", name="wide")(x))
    model = keras.Model(image, L.Dense(4, name="classes")(L.GlobalAveragePooling2D()(x)))
    masks = {name: np.arange(24) < 6 for name, group in Graph(model).groups.items() if group.width == 24}
    whole, left = 6 * (27 + 1) + 24 * 7 + 6 * 25, 6 * (27 + 1) + 6 * 7 + 6 * 7
    assert len(masks) == 1
    assert removal.compute_sparsity(removal.trim_model(model, masks), model) == pytest.approx(1 - left / whole)
    assert set(convolutions(model)) == {"stem", "wide", "narrow"}


def test_sparsity_of_a_network_without_convolutions_counts_its_dense_layers():
    model = built("mlp")
    name, group = next(iter(Graph(model).groups.items()))
    small = removal.trim_model(model, {name: np.arange(group.width) > 1})
    kernels = [sum(v.count_params() for v in m.layers if isinstance(v, L.Dense)) for m in (small, model)]
    assert removal.compute_sparsity(small, model) == pytest.approx(1 - kernels[0] / kernels[1])


# ---- curves and budgets


def test_curves_of_any_network_are_the_metrics_of_trimmed_ones():
    model, rng = built("inverted_residual"), np.random.default_rng(2)
    images, labels = zoo.images(model, 9)[0], rng.integers(0, 3, 9)
    scope = Scope.of(model, "all")
    scores = criteria.compute_scores("random", scope, None, None)
    config = configs.CriterionConfig(batch_size=4)
    whole, curves = allocation.measure_curves(scope, scores, (images, labels), (0.5,), config)
    assert whole["loss"] == pytest.approx(
        metrics.classification_metrics(np.asarray(model(images)), labels)["loss"], rel=1e-3
    )
    for name, curve in curves.items():
        small = scope.graph.trimmed({name: masks.least_idle(scores[name], curve["kept"][0])})
        wanted = metrics.classification_metrics(np.asarray(small(images)), labels)["loss"]
        assert curve["loss"][0] == pytest.approx(wanted, rel=1e-3)


def test_a_target_out_of_reach_tells_what_is_in_reach():
    scope = Scope.of(built("inverted_residual"))
    config = configs.PruneConfig(target_macs=(100.0, True), verbose=0)
    with pytest.raises(InputError, match="every inner layer at its floor"):
        budgets.of(config, scope)
    config, whole = configs.PruneConfig(target_compression=1.1, verbose=0), scope.model.count_params()
    found = budgets.of(config, scope)
    assert found.unit == "parameters" and found.start == whole and found.end == pytest.approx(whole / 1.1)


# ---- records


def test_a_record_of_an_earlier_version_keeps_the_meaning_of_its_keys(tmp_path):
    widths = narrow_widths(7, 9, 5)
    scope = Scope.of(resnets.build_resnet(widths=widths))
    record = {"channels": {name: [width] for name, width in widths.items()}}
    found = iterations.group_of_keys(record, scope, tmp_path)
    assert set(found) == set(widths) and len(set(found.values())) == len(widths) == len(scope.graph.groups)
    assert "conv3_block1_3_conv" in scope.graph.groups[found["conv3_stream"]].makers
    assert found["conv4_block1_2_conv"] == "conv4_block1_2_conv"
    assert list(iterations.pruned(record)) == list(scope.names)
    new = {"channels": {}}
    assert list(iterations.group_of_keys(new, scope, tmp_path)) == list(scope.graph.groups)
    assert iterations.pruned(json.loads(json.dumps(new))) == {name: [7] for name in scope.names}
    with pytest.raises(InputError, match=r"result\.json"):
        iterations.group_of_keys({"channels": {"conv3_stream": [10]}}, scope, tmp_path)


# ---- the table before work starts


def test_the_table_tells_every_channel_once():
    model = built("inverted_residual")
    scope = Scope.of(model)
    rows, groups = overview.details(scope, "l1"), scope.graph.groups
    assert [(name, words) for name, _, words in rows[: len(groups)]] == [
        ("expand", "may go"),
        ("stem", "stay: outside the inner scope"),
    ]
    assert rows[len(groups) :] == [("logits", "3", "held by logits: they are an output of the model")]
    short = overview.summary(scope, "l1")
    made = sum(int(channels.replace(",", "")) for *_, channels in short)
    assert made == sum(group.width for group in groups.values()) + 3
    assert [words for words, *_ in overview.parts(Scope.of(model, "all"), "l1")] == ["may go"]


def test_costs_at_a_share_meet_the_limit():
    scope = Scope.of(built("plain_cnn"), "all")
    whole = scope.graph.cost()
    for unit in ("parameters", "macs"):
        limit = 0.8 * getattr(whole, unit)
        budget = budgets.Budget(unit.replace("macs", "MACs"), limit / 0.8, limit, 0.8)
        cost = scope.graph.cost(overview.at_cost(scope, budget))
        assert 0.5 * limit < getattr(cost, unit) <= limit
    assert overview.after_iterations(scope, 0.3, 2) == {"one": 4, "two": 4}
    assert overview.after_iterations(scope, 0.15, 1) == {"one": 5, "two": 6}


def test_a_dry_run_prints_and_writes_nothing(tmp_path, capsys, monkeypatch):
    built("plain_cnn").save(tmp_path / "net.keras")
    monkeypatch.chdir(tmp_path)
    words = ["--base_model_path", "net.keras", "--dry_run", "--criterion", "l1", "--target_compression", "1.2"]
    assert prune_model.main([*words, "--root_folder", "new", "--scope", "all"]) == 0
    printed = capsys.readouterr().out
    assert "may go" in printed and "held by" in printed and "nothing is written" in printed
    assert [path.name for path in tmp_path.iterdir()] == ["net.keras"]


def test_a_dry_run_of_open_sizes_takes_those_of_the_data(tmp_path, capsys, monkeypatch):
    built("open_image_size").save(tmp_path / "net.keras")
    monkeypatch.chdir(tmp_path)
    words = [
        "--base_model_path",
        "net.keras",
        "--dry_run",
        "--criterion",
        "l1",
        "--target_macs",
        "1.2x",
        "--scope",
        "all",
    ]
    (tmp_path / "photos" / "cat").mkdir(parents=True)  # empty: no image is read
    fixed = keras.models.clone_model(built("open_image_size"), input_tensors=keras.Input((32, 32, 3)))
    for size in (["--dataset", "digits"], ["--dataset", "photos", "--image_size", "32"]):
        assert prune_model.main([*words, *size, "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["macs"][0] == metrics.count_macs(fixed)
    assert prune_model.main([*words, "--dataset", "photos"]) == 2
    assert "images of any size; expected --image_size" in capsys.readouterr().err


# ---- before images are decoded


@pytest.fixture
def photographs(tmp_path, monkeypatch):
    """A folder of three classes, photos, none of which can be decoded; the list of those that were tried."""
    for kind in "abc":
        (tmp_path / "photos" / kind).mkdir(parents=True)
        for number in range(3):
            Image.new("RGB", (8, 8), (number, 0, 99)).save(tmp_path / "photos" / kind / f"{number}.png")
    monkeypatch.chdir(tmp_path)
    tried = []

    def decode(path, *_):
        tried.append(path)
        raise ValueError("not now")

    monkeypatch.setattr(decoding, "decode", decode)
    return tried


def two_layers(side=8):
    """A network without batch-norm; `side` None takes images of any size."""
    image = keras.Input((side, side, 3))
    x = L.Conv2D(5, 3, activation="relu", name="two")(L.Conv2D(6, 3, activation="relu", name="one")(image))
    return keras.Model(image, L.Dense(3, name="logits")(L.GlobalAveragePooling2D()(x)))


ON_PHOTOS = ["--dataset", "photos", "--scope", "all", "--batch_size", "2"]


@pytest.mark.parametrize("side", [8, None])
def test_the_table_and_the_target_are_told_before_the_first_image_is_decoded(side, photographs, capsys):
    two_layers(side).save("net.keras")
    assert prune_model.main(["--base_model_path", "net.keras", *ON_PHOTOS, "--target_macs", "1.2x"]) == 2
    printed, error = capsys.readouterr()
    assert len(photographs) == 9 and "not now" in error  # the end of the run
    assert "may go" in printed and "held by logits: " in printed and "MACs shall be left" in printed


@pytest.mark.parametrize("side", [8, None])
@pytest.mark.parametrize(
    ("script", "flags", "named"),
    [
        (prune_model, ["--criterion", "bn"], "--criterion: received bn"),
        (sensitivity, ["--criterion", "bn"], "--criterion: received bn"),
        (prune_model, ["--target_macs", "900x"], "--target_macs: received a target of"),
        (prune_model, ["--dataset", "others"], "with 3 classes, expected 2, as others has them; a model with a new"),
        (sensitivity, ["--dataset", "others"], "with 3 classes, expected 2, as others has them; a model with a new"),
        (distilling, ["--dataset", "others", "--target_compression", "1"], "with 3 classes, expected 2, as others has"),
        (distilling, ["--stream_divisor", "2"], "--stream_divisor: received 2, but the teacher has no residual"),
        (distilling, ["--student_path", "sigmoid.keras"], "sigmoid.keras, which answers the outputs of a sigmoid"),
    ],
)
def test_what_cannot_be_done_with_a_network_is_refused_before_an_image_is_decoded(
    side, script, flags, named, photographs, capsys
):
    net = two_layers(side)
    net.save("net.keras")
    keras.Model(net.inputs[0], L.Activation("sigmoid")(net.outputs[0])).save("sigmoid.keras")
    for kind in "ab":
        shutil.copytree(f"photos/{kind}", f"others/{kind}")
    model = {prune_model: "--base_model_path", sensitivity: "--model_path", distilling: "--root_folder"}[script]
    words = [word for word in ON_PHOTOS if script is not distilling or word not in ("--scope", "all")]
    assert script.main([model, "net.keras", *words, *flags]) == 2
    assert named in capsys.readouterr().err and not photographs
