"""criteria.py and prune.py against numpy: scores, masks, the trimmed network beside the masked one."""

import re

import keras
import numpy as np
import pytest
import resnets
from conftest import narrow_widths, randomised
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import prune
from compress import metrics
from compress.distillation import student
from compress.engine import recalibration
from compress.errors import InputError
from compress.graph.network import Graph
from compress.pruning import criteria, masks
from compress.storage import checkpoints

SEEDS = st.integers(0, 2**32 - 1)
IMAGES = np.random.default_rng(5).integers(0, 256, (10, 32, 32, 3)).astype("uint8")
LABELS = np.random.default_rng(6).integers(0, 10, 10)


def calm(model):
    """The model with the batch-norm statistics of some noise and weaker branches.

    Activations, logits and gradients are of order 1 then, as after training, and 1e-4 is far above rounding.
    """
    norms = [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]
    for norm in norms:
        norm.momentum = 0
        if norm.name.endswith("_3_bn"):
            norm.gamma.assign(np.asarray(norm.gamma) * 0.3)
    model(images_for(model, 16), training=True)
    for norm in norms:
        norm.momentum = 0.9
    return model


def images_for(model, count=4):
    return np.random.default_rng(count).integers(0, 256, (count, *model.input_shape[1:])).astype("float32")


@pytest.fixture(scope="module", params=["cifar", pytest.param("imagenet", marks=pytest.mark.slow)])
def pair(request):
    """A model that no test changes, and another of the same shapes to write on."""
    shape = (32, 32, 3) if request.param == "imagenet" else (9, 14, 3)
    build = {"input_shape": shape, "stem": request.param, "widths": narrow_widths()}
    return calm(randomised(resnets.build_resnet(**build), 3)), resnets.build_resnet(**build)


@pytest.fixture(scope="module")
def base():
    """A narrow ResNet50 that no test changes, the same one whatever ran before: a slope may lie on a ReLU's kink."""
    keras.utils.set_random_seed(1)
    return calm(randomised(resnets.build_resnet(widths=narrow_widths()), 4))


@pytest.fixture(scope="module")
def copy():
    """A model of the base's shapes to write on."""
    return resnets.build_resnet(widths=narrow_widths())


def inner(model):
    return [
        layer.name
        for layer in model.layers
        if layer.name.startswith("conv") and "block" in layer.name and layer.name.endswith(("_1_conv", "_2_conv"))
    ]


def named(mask):
    """A mask by the names that the graph has: a stream's is that of the first convolution which writes it."""
    return {name.replace("_stream", "_block1_3_conv"): keep for name, keep in mask.items()}


def random_mask(widths, rng, share):
    """A mask of about every other group, streams and stem among them, with at least one channel kept in each."""
    mask = {}
    for group, width in widths.items():
        if rng.random() < 0.6:
            mask[group] = rng.random(width) > share
            mask[group][rng.integers(width)] = True
    return mask


def masked_and_trimmed(pair, mask):
    parent, copy = pair
    copy.set_weights(parent.get_weights())
    prune.apply_mask(copy, named(mask))
    return copy, prune.trim_model(parent, named(mask))


def convolution_parameters(model):
    return sum(layer.count_params() for layer in model.layers if isinstance(layer, keras.layers.Conv2D))


# ---- scores ----


@pytest.fixture(scope="module")
def activations(base):
    """{layer: activations (10, h, w, channels)} of the inner channels, from a plain sub-model."""
    names = inner(base)
    outputs = keras.Model(base.input, [base.get_layer(name[:-4] + "relu").output for name in names])(IMAGES)
    return dict(zip(names, map(np.asarray, outputs), strict=True))


@pytest.mark.parametrize("batch_size", [4, 128])  # 4 + 4 + 2 images; more than there are
def test_apoz_is_the_share_of_zeros(base, activations, batch_size):
    apoz = criteria.compute_apoz(base, IMAGES, batch_size)
    assert list(apoz) == inner(base)
    assert {0 < np.mean(values == 0) < 1 for values in activations.values()} == {True}
    turned = 0  # a value within rounding of 0 may fall on either side
    for name, values in activations.items():
        zeros = (values == 0).sum((0, 1, 2))
        found = apoz[name] * values[..., 0].size
        np.testing.assert_allclose(found, np.round(found), atol=1e-6)
        turned += np.abs(np.round(found) - zeros).sum()
    assert turned <= 2


def test_apoz_of_a_dead_and_of_a_live_channel(narrow_model):
    for name in ("conv2_block1_1", "conv5_block1_2"):
        norm = narrow_model.get_layer(f"{name}_bn")
        gamma, beta = np.array(norm.gamma), np.array(norm.beta)
        gamma[:2], beta[:2] = 0, (-1, 1)
        norm.gamma.assign(gamma)
        norm.beta.assign(beta)
    apoz = criteria.compute_apoz(narrow_model, IMAGES, 4)
    for name in ("conv2_block1_1_conv", "conv5_block1_2_conv"):
        assert apoz[name][0] == 1 and apoz[name][1] == 0
    mask = masks.create_mask({"conv2_block1_1_conv": np.array([1.0, 0, 0, 0, 0, 0])})
    np.testing.assert_array_equal(mask["conv2_block1_1_conv"], [False] + [True] * 5)


def test_scores_of_weights_are_numpys(base):
    scores = {name: criteria.compute_scores(name, base, None, None) for name in ("l1", "l2", "bn")}
    for name in inner(base):
        kernel = np.asarray(base.get_layer(name).kernel, np.float64)
        gamma = np.asarray(base.get_layer(name[:-4] + "bn").gamma, np.float64)
        filters = [kernel[..., c] for c in range(kernel.shape[-1])]
        np.testing.assert_allclose(scores["l1"][name], [-np.abs(f).sum() for f in filters])
        np.testing.assert_allclose(scores["l2"][name], [-np.linalg.norm(f) for f in filters])
        np.testing.assert_allclose(scores["bn"][name], -np.abs(gamma))
    assert all(list(found) == inner(base) for found in scores.values())


def test_random_scores_follow_the_seed(base):
    one, again, other = (criteria.compute_scores("random", base, None, None, seed=seed) for seed in (3, 3, 4))
    for name in inner(base):
        np.testing.assert_array_equal(one[name], again[name])
        assert not np.array_equal(one[name], other[name])
        assert one[name].shape == (6,) and len(set(one[name])) == 6


@pytest.fixture(scope="module")
def pooled(base):
    """A copy of the base up to its average pooling, in float64: (N, 32, 32, 3) -> (N, 8)."""
    keras.config.set_dtype_policy("float64")
    try:
        model = resnets.build_resnet(widths=narrow_widths())
    finally:
        keras.config.set_dtype_policy("float32")
    model.set_weights(base.get_weights())
    return keras.Model(model.input, model.get_layer("avg_pool").output)


def losses_with_gate(base, pooled, name, channel, gate):
    """Cross-entropy of each image with one channel's output behind its batch-norm times `gate`, in float64."""
    norm = pooled.get_layer(f"{name[:-5]}_bn")
    kept = np.array(norm.gamma), np.array(norm.beta)
    gates = np.where(np.arange(len(kept[0])) == channel, gate, 1)
    for variable, values in zip((norm.gamma, norm.beta), kept, strict=True):
        variable.assign(values * gates)
    head = base.get_layer("predictions")
    logits = np.asarray(pooled(IMAGES)) @ np.asarray(head.kernel, np.float64) + np.asarray(head.bias)
    for variable, values in zip((norm.gamma, norm.beta), kept, strict=True):
        variable.assign(values)
    assert logits.dtype == np.float64
    return np.log(np.exp(logits).sum(1)) - logits[np.arange(len(LABELS)), LABELS]


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="the oracle computes in float64")
@pytest.mark.parametrize("batches", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_taylor_is_the_slope_of_the_loss_along_a_gate(base, pooled, batches):
    scores = criteria.compute_scores("taylor", base, IMAGES, LABELS, batch_size=10 // batches)
    assert list(scores) == inner(base)
    for name, channel in (
        ("conv2_block1_1_conv", 0),
        ("conv2_block2_1_conv", 5),
        ("conv3_block1_2_conv", 3),
        ("conv4_block1_1_conv", 1),
        ("conv5_block1_2_conv", 2),
    ):
        up, down = (losses_with_gate(base, pooled, name, channel, 1 + step) for step in (1e-6, -1e-6))
        slopes = ((up - down) / 2e-6).reshape(batches, -1).mean(1)  # one a batch
        assert scores[name][channel] == pytest.approx(-np.sqrt(np.mean(slopes**2)), rel=0.01, abs=1e-5)


# ---- masks within a layer ----


@settings(deadline=None, max_examples=60)
@given(seed=SEEDS, channels=st.integers(3, 40), skew=st.floats(0.5, 4))
def test_default_rule_removes_what_is_above_mean_plus_deviation(seed, channels, skew):
    values = np.random.default_rng(seed).random(channels) ** skew
    mask = masks.create_mask({"a": values}, floor=1)["a"]
    deviation = np.sqrt(sum((v - sum(values) / channels) ** 2 for v in values) / channels)
    wanted = [not v > sum(values) / channels + deviation + 1e-12 for v in values]
    np.testing.assert_array_equal(mask, wanted)
    assert mask.dtype == bool


@pytest.mark.parametrize("value", [0.0, 0.1, 1.0, 1 / 3, -7.3e4])
@pytest.mark.parametrize("channels", [1, 2, 6, 7, 512])
def test_equal_scores_all_stay(value, channels):
    assert masks.create_mask({"a": np.full(channels, value)})["a"].all()


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (0.1, 0.7), (0.2, 0.9), (-3.1, -0.3), (1 / 3, 0.4)])
@pytest.mark.parametrize("half", [3, 5, 32])
def test_two_values_in_equal_number_all_stay(low, high, half):
    """The higher value is mean + 1 deviation exactly, not above it."""
    assert masks.create_mask({"a": np.repeat([low, high], half)})["a"].all()


@settings(deadline=None, max_examples=150)
@given(
    seed=SEEDS,
    channels=st.integers(1, 40),
    ratio=st.none() | st.floats(0, 0.99),
    round_to=st.integers(1, 50),
    floor=st.integers(1, 12),
    levels=st.integers(2, 1000),
)
def test_kept_channels_are_the_least_idle_of_a_permitted_number(seed, channels, ratio, round_to, floor, levels):
    values = np.random.default_rng(seed).integers(0, levels, channels) / levels  # few levels: many ties
    mask = masks.create_mask({"a": values}, ratio, round_to, floor)["a"]
    kept = int(mask.sum())
    assert kept == channels or kept % round_to == 0
    assert kept >= min(channels, floor)
    if kept < channels:
        assert values[mask].max() <= values[~mask].min()
    if ratio is not None:
        least = max(floor, channels - round(channels * ratio))
        assert min(channels, least) <= kept < least + round_to


def test_ratio_counts_each_layer_by_itself():
    rng = np.random.default_rng(0)
    scores = {"a": rng.random(10), "b": 100 + rng.random(20), "c": rng.random(3)}
    mask = masks.create_mask(scores, prune_ratio=0.7, floor=4)
    assert {name: int(keep.sum()) for name, keep in mask.items()} == {"a": 4, "b": 6, "c": 3}
    assert all(not keep[np.argmax(scores[name])] for name, keep in mask.items() if name != "c")


def test_a_layer_narrower_than_the_floor_or_the_rounding_stays():
    scores = {"a": np.array([0.0, 1, 5]), "b": np.array([0.0]), "c": np.arange(6.0)}
    for ratio in (None, 0.99):
        mask = masks.create_mask(scores, ratio, round_to=8)
        assert all(keep.all() for keep in mask.values())
    assert masks.create_global_mask(scores, lambda kept: kept["c"] == 4, floor=4)["a"].all()


# ---- masks over all layers ----


def random_scores(seed):
    rng = np.random.default_rng(seed)
    return {
        name: rng.normal(rng.normal(0, 5), rng.uniform(0.1, 9), rng.integers(1, 25))
        for name in "abcde"[: rng.integers(1, 6)]
    }


def walked(scores, fits, floor):
    """The same mask by taking one channel after another away, from the most idle on."""
    queue = []
    for name, values in scores.items():
        deviation = np.std(values)
        by_idleness = np.argsort(-values)[: max(0, len(values) - floor)]
        queue += [((values[c] - np.mean(values)) / deviation, name, c) for c in by_idleness]
    mask = {name: np.ones(len(values), bool) for name, values in scores.items()}
    for _, name, channel in sorted(queue, key=lambda item: -item[0]):
        if fits({layer: int(keep.sum()) for layer, keep in mask.items()}):
            break
        mask[name][channel] = False
    return mask


@settings(deadline=None, max_examples=100)
@given(seed=SEEDS, share=st.floats(0, 1), floor=st.integers(1, 8))
def test_global_mask_is_the_smallest_removal_that_meets_the_budget(seed, share, floor):
    scores = random_scores(seed)
    price = {name: 1 + i for i, name in enumerate(scores)}
    least = sum(price[name] * min(len(values), floor) for name, values in scores.items())
    most = sum(price[name] * len(values) for name, values in scores.items())
    budget = least + share * (most - least)

    def fits(kept):
        return sum(price[name] * n for name, n in kept.items()) <= budget

    mask = masks.create_global_mask(scores, fits, floor=floor)
    counts = {name: int(keep.sum()) for name, keep in mask.items()}
    assert fits(counts)
    assert all(n >= min(floor, len(scores[name])) for name, n in counts.items())
    for name, keep in walked(scores, fits, floor).items():
        np.testing.assert_array_equal(mask[name], keep)


@settings(deadline=None, max_examples=60)
@given(seed=SEEDS, round_to=st.integers(1, 9), share=st.floats(0, 1))
def test_global_mask_rounds_and_still_meets_the_budget(seed, round_to, share):
    scores = random_scores(seed)
    floors = {name: min(len(v), -(-4 // round_to) * round_to) for name, v in scores.items()}
    most = sum(map(len, scores.values()))
    budget = sum(floors.values()) + share * (most - sum(floors.values()))
    mask = masks.create_global_mask(scores, lambda kept: sum(kept.values()) <= budget, round_to)
    assert sum(int(keep.sum()) for keep in mask.values()) <= budget
    for name, keep in mask.items():
        assert keep.all() or keep.sum() % round_to == 0
        assert keep.sum() >= floors[name]
        assert keep.all() or scores[name][keep].max() <= scores[name][~keep].min()


@settings(deadline=None, max_examples=60)
@given(seed=SEEDS, scale=st.floats(0.01, 100), shift=st.floats(-50, 50))
def test_global_mask_ignores_the_scale_of_a_layer(seed, scale, shift):
    scores = random_scores(seed)
    assume(len(scores["a"]) > 1)
    total = sum(map(len, scores.values()))
    floors = sum(min(4, len(values)) for values in scores.values())

    def fits(kept):
        return sum(kept.values()) <= (total + floors) / 2

    one = masks.create_global_mask(scores, fits)
    other = masks.create_global_mask(scores | {"a": scores["a"] * scale + shift}, fits)
    for name, keep in one.items():
        np.testing.assert_array_equal(keep, other[name])


@pytest.mark.parametrize("value", [1.0, 0.1, 1 / 3, 0.7])
@pytest.mark.parametrize("channels", [6, 7, 11])
def test_global_mask_takes_a_layer_of_equal_scores_for_average(value, channels):
    scores = {"a": np.zeros(channels), "b": np.array([-3.0, -2, -1, 0, 1, 5])}

    def fits(kept):
        return kept["b"] <= 5  # b's last channel stands 1.9 deviations out, so it goes before any of a's

    mask = masks.create_global_mask(scores | {"a": np.full(channels, value)}, fits, floor=4)
    assert mask["a"].all()
    half = masks.create_global_mask(scores | {"a": np.full(channels, value)}, lambda kept: sum(kept.values()) <= 4 + 5)
    wanted = masks.create_global_mask(scores, lambda kept: sum(kept.values()) <= 4 + 5)
    assert {name: int(keep.sum()) for name, keep in half.items()} == {
        name: int(keep.sum()) for name, keep in wanted.items()
    }


def test_global_mask_out_of_reach():
    scores = {"a": np.arange(9.0), "b": np.arange(3.0)}
    with pytest.raises(ValueError, match="out of reach"):
        masks.create_global_mask(scores, lambda kept: sum(kept.values()) < 4 + 3)
    met = masks.create_global_mask(scores, lambda kept: sum(kept.values()) <= 4 + 3)
    assert (met["a"].sum(), met["b"].sum()) == (4, 3)
    whole = masks.create_global_mask(scores, lambda kept: True)
    assert all(keep.all() for keep in whole.values())


# ---- masked and trimmed ----


def test_pruning_nothing_is_the_identity(pair):
    parent, _ = pair
    everything = {group: np.ones(width, bool) for group, width in resnets.widths_of(parent).items()}
    images = images_for(parent)
    wanted = np.asarray(parent(images))
    for mask in ({}, everything):
        masked, trimmed = masked_and_trimmed(pair, mask)
        np.testing.assert_array_equal(masked(images), wanted)
        np.testing.assert_allclose(trimmed(images), wanted, atol=1e-6)
        assert resnets.architecture_of(trimmed) == resnets.architecture_of(parent)
        assert prune.compute_sparsity(trimmed, parent) == 0


@pytest.mark.parametrize(("seed", "share"), [(0, 0.3), pytest.param(2, 0.8, marks=pytest.mark.slow)])
def test_trimmed_equals_masked(pair, seed, share):
    parent, _ = pair
    rng = np.random.default_rng(seed)
    mask = random_mask(resnets.widths_of(parent), rng, share)
    groups = {"stream" if name.endswith("stream") else "stem" if name == "conv1_conv" else "inner" for name in mask}
    assert {"stream", "inner"} <= groups
    before, images = parent.get_weights(), images_for(parent)
    masked, trimmed = masked_and_trimmed(pair, mask)
    np.testing.assert_allclose(trimmed(images), masked(images), atol=1e-4, rtol=0)
    assert np.abs(np.asarray(masked(images)) - np.asarray(parent(images))).max() > 1e-2  # the mask does matter
    for old, new in zip(before, parent.get_weights(), strict=True):
        np.testing.assert_array_equal(new, old)

    widths = {
        name: int(mask[name].sum()) if name in mask else width for name, width in resnets.widths_of(parent).items()
    }
    assert resnets.widths_of(trimmed) == widths
    architecture = resnets.architecture_of(parent)
    assert (trimmed.count_params(), metrics.count_macs(trimmed)) == resnets.cost_of(
        widths, 10, architecture["input_shape"], architecture["stem"]
    )
    sparsity = 1 - convolution_parameters(trimmed) / convolution_parameters(parent)
    assert prune.compute_sparsity(trimmed, parent) == pytest.approx(sparsity)
    assert prune.compute_sparsity(masked, parent) == pytest.approx(sparsity)


@pytest.mark.parametrize(
    "kind",
    [r".*_stream", *(pytest.param(kind, marks=pytest.mark.slow) for kind in (r"conv1_conv", r".*_block\d+_[12]_conv"))],
)
def test_trimmed_equals_masked_with_one_kind_of_group_at_one_channel(base, copy, kind):
    mask = {
        group: np.arange(width) == width - 1
        for group, width in resnets.widths_of(base).items()
        if re.fullmatch(kind, group)
    }
    masked, trimmed = masked_and_trimmed((base, copy), mask)
    np.testing.assert_allclose(trimmed(IMAGES), masked(IMAGES), atol=1e-4, rtol=0)
    assert all(resnets.widths_of(trimmed)[group] == 1 for group in mask)


@pytest.mark.slow
def test_trimming_in_two_steps_is_trimming_once(base):
    steps = [
        {"conv2_block2_1_conv": np.array([1, 0, 1, 1, 1, 0], bool), "conv4_stream": np.arange(8) != 3},
        {"conv2_block2_1_conv": np.array([1, 0, 1, 0], bool), "conv4_stream": np.arange(7) != 3},
    ]
    both = {"conv2_block2_1_conv": np.array([1, 0, 0, 1, 0, 0], bool), "conv4_stream": ~np.isin(np.arange(8), (3, 4))}
    twice = prune.trim_model(prune.trim_model(base, named(steps[0])), named(steps[1]))
    for ours, once in zip(twice.get_weights(), prune.trim_model(base, named(both)).get_weights(), strict=True):
        np.testing.assert_array_equal(ours, once)


def test_masked_channels_are_zero_behind_their_relu(narrow_model):
    mask = {"conv2_block1_1_conv": np.array([1, 0, 1, 1, 0, 1], bool), "conv2_stream": np.arange(8) > 2}
    prune.apply_mask(narrow_model, named(mask))
    for group, layers in (
        ("conv2_block1_1_conv", ["conv2_block1_1_relu"]),
        ("conv2_stream", ["conv2_block1_out", "conv2_block2_out"]),
    ):
        for name in layers:
            values = np.asarray(keras.Model(narrow_model.input, narrow_model.get_layer(name).output)(IMAGES))
            assert not values[..., ~mask[group]].any() and values[..., mask[group]].any()
    for name in ("kernel", "bias"):
        values = np.asarray(getattr(narrow_model.get_layer("conv2_block1_1_conv"), name))
        np.testing.assert_array_equal((values != 0).reshape(-1, 6).any(0), mask["conv2_block1_1_conv"])


def test_a_trimmed_file_opens_in_bare_keras_with_equal_logits(base, tmp_path):
    mask = random_mask(resnets.widths_of(base), np.random.default_rng(8), 0.5)
    trimmed = prune.trim_model(base, named(mask))
    checkpoints.save_model(trimmed, tmp_path / "model.h5")
    loaded = keras.models.load_model(tmp_path / "model.h5")  # no custom objects
    np.testing.assert_array_equal(loaded(IMAGES), trimmed(IMAGES))
    assert resnets.widths_of(loaded) == resnets.widths_of(trimmed)


def test_sparsity_of_one_removed_filter_by_hand(base):
    keep = np.arange(6) != 2
    trimmed = prune.trim_model(base, {"conv2_block1_1_conv": keep})
    gone = (8 * 0 + 5 + 1) + 9 * 6  # its kernel over the stem's 5 channels and bias; the 3x3 slices that read it
    assert prune.compute_sparsity(trimmed, base) == pytest.approx(gone / convolution_parameters(base))
    assert prune.compute_sparsity(base, base) == 0


@pytest.mark.parametrize(
    ("mask", "words"),
    [
        ({"conv9_stream": np.ones(8, bool)}, "conv9_stream"),
        ({"conv2_block1_0_conv": np.ones(8, bool)}, "block1_0"),
        ({"rgb": np.ones(3, bool)}, "rgb"),
        ({"conv2_block1_1_conv": np.ones(5, bool)}, "6 booleans"),
        ({"conv2_block1_1_conv": np.ones((6, 1), bool)}, "6 booleans"),
        ({"conv3_block1_3_conv": np.zeros(8, bool)}, "at least one"),
    ],
)
def test_bad_masks(base, mask, words):
    before = base.get_weights()
    for function in (prune.apply_mask, prune.trim_model):
        with pytest.raises(ValueError, match=words):
            function(base, mask)
    for old, new in zip(before, base.get_weights(), strict=True):
        np.testing.assert_array_equal(new, old)


def test_a_stream_goes_by_its_earlier_name_too(base, copy):
    keep, graph = np.arange(8) % 3 != 0, Graph(base)
    real = "conv3_block1_3_conv"
    earlier, today = (
        {"conv3_stream": keep, "conv1_conv": np.arange(5) != 2},
        {real: keep, "conv1_conv": np.arange(5) != 2},
    )
    ours, wanted = prune.trim_model(base, earlier), prune.trim_model(base, today)
    assert ours.get_layer(real).filters == keep.sum() < 8
    for one, other in zip(ours.get_weights(), wanted.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    written = []
    for mask in (earlier, today):
        copy.set_weights(base.get_weights())
        prune.apply_mask(copy, mask)
        written.append(copy.get_weights())
    for one, other, before in zip(*written, base.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
        assert one.shape == before.shape
    assert graph.cost({"conv3_stream": 3}) == graph.cost({real: 3}) != graph.cost()
    narrow = [student.inherit_student(graph, {name: 3}).get_weights() for name in ("conv3_stream", real)]
    for one, other in zip(*narrow, strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_earlier_name_is_a_resnets_alone_and_is_given_once(base):
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(4, 3, name="stem")(inputs)
    x = keras.layers.Conv2D(6, 3, name="conv3_block1_3_conv")(x)  # which nothing is added to: no stream
    other = keras.Model(inputs, keras.layers.Dense(2)(keras.layers.GlobalAveragePooling2D()(x)))
    assert "conv3_block1_3_conv" in Graph(other).groups
    for function in (prune.apply_mask, prune.trim_model):
        with pytest.raises(
            InputError, match="`masks`: received the group 'conv3_stream', expected groups of this model"
        ):
            function(other, {"conv3_stream": np.arange(6) > 1})
        with pytest.raises(InputError, match="conv3_block1_3_conv twice"):
            function(base, dict.fromkeys(("conv3_stream", "conv3_block1_3_conv"), np.arange(8) > 1))
    for function in (Graph(base).cost, lambda widths: student.inherit_student(Graph(base), widths)):
        with pytest.raises(InputError, match="`widths`: received the group 'conv9_stream', expected groups"):
            function({"conv9_stream": 3})


# ---- recalibration ----


def test_recalibrated_statistics_are_averages_over_whole_batches(narrow_model):
    convolution = keras.Model(narrow_model.input, narrow_model.get_layer("conv1_conv").output)
    values = np.asarray(convolution(IMAGES), np.float64)  # (10, 16, 16, 5)
    batches = [values[0:3], values[3:6], values[6:9]]  # the tenth image fills no batch
    norms = [layer for layer in narrow_model.layers if isinstance(layer, keras.layers.BatchNormalization)]
    norms[1].momentum = 0.7
    trained = [np.array(v) for v in narrow_model.trainable_variables]
    recalibration.recalibrate_bn(narrow_model, IMAGES, batch_size=3)
    first = narrow_model.get_layer("conv1_bn")
    means, variances = ([f(b, axis=(0, 1, 2)) for b in batches] for f in (np.mean, np.var))
    np.testing.assert_allclose(first.moving_mean, np.mean(means, 0), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(first.moving_variance, np.mean(variances, 0), rtol=1e-4)
    for old, new in zip(trained, narrow_model.trainable_variables, strict=True):
        np.testing.assert_array_equal(new, old)
    assert [norm.momentum for norm in norms] == [0.9, 0.7] + [0.9] * (len(norms) - 2)


def test_recalibrated_on_one_batch_infers_as_it_trains(narrow_model):
    images = IMAGES.astype("float32")
    training = np.asarray(narrow_model(images, training=True))
    recalibration.recalibrate_bn(narrow_model, IMAGES, batch_size=64)
    np.testing.assert_allclose(narrow_model(images, training=False), training, atol=1e-2)
    assert np.abs(training).max() > 0.1


@pytest.mark.slow
def test_the_five_helpers_of_prune_make_a_smaller_model_of_the_same_logits(narrow_model):
    mask = prune.create_mask(prune.compute_apoz(narrow_model, IMAGES, 4))
    assert any(not keep.all() for keep in mask.values())
    small, whole = prune.trim_model(narrow_model, mask), narrow_model.count_params()
    assert small.count_params() < whole == narrow_model.count_params()
    share = prune.compute_sparsity(small, narrow_model)
    prune.apply_mask(narrow_model, mask)
    np.testing.assert_allclose(small(IMAGES), narrow_model(IMAGES), rtol=1e-4, atol=1e-4)
    assert 0 < share == prune.compute_sparsity(narrow_model, narrow_model) < 1
