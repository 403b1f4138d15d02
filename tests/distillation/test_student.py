"""What students look like: widths against an exhaustive search, channels against the definition of their scores."""

import dataclasses
import itertools

import keras
import numpy as np
import pytest
import resnets
import zoo
from conftest import narrow_widths, randomised
from hypothesis import example, given, settings
from hypothesis import strategies as st

from compress.cli import configs
from compress.distillation import student as students
from compress.errors import InputError
from compress.graph import nodes
from compress.graph.network import Graph
from compress.pruning import masks
from model import unpruned

IMAGES = np.random.default_rng(3).integers(0, 256, (6, 32, 32, 3)).astype("uint8")
FULL = resnets.full_widths(50)
WHOLE = resnets.cost_of(FULL)


def arrays(variables):
    return [np.array(v) for v in variables]


def layout_of(widths, full=None):
    """The layout of a ResNet by the names of its widths alone."""
    full = FULL | (full or {})
    return students.Layout(
        widths,
        {name: full[name] for name in widths},
        {name: resnets.stage_of(name) - 3 for name in widths},
        dict.fromkeys(widths, 1),
        tuple(name for name in widths if name.endswith("_stream")),
    )


def chosen(teacher, compression, macs=np.inf, **more):
    """Widths of a student of a ResNet50's part, for a compression of the whole and at most so many MACs."""
    return students.student_widths(layout_of(teacher), resnets.cost_of, (WHOLE[0] / compression, macs), **more)


def narrow_teacher(seed):
    rng = np.random.default_rng(seed)
    return {name: width if rng.random() < 0.5 else int(rng.integers(4, width + 1)) for name, width in FULL.items()}


# ---- widths ----


def test_dividing_streams_keeps_inner_widths():
    teacher = FULL | {"conv3_block2_1_conv": 17, "conv5_block3_2_conv": 90}
    widths = students.divided_streams(layout_of(teacher), 32)
    assert [widths[f"conv{s}_stream"] for s in (2, 3, 4, 5)] == [8, 16, 32, 64]
    assert {name: width for name, width in widths.items() if not name.endswith("_stream")} == {
        name: width for name, width in teacher.items() if not name.endswith("_stream")
    }
    assert students.divided_streams(layout_of(teacher), 1) == teacher
    assert min(students.divided_streams(layout_of(teacher), 2048).values()) == 1


@settings(max_examples=12, deadline=None)
@given(st.floats(1, 120), st.integers(0, 2**32 - 1))
def test_target_compression_is_met_and_not_exceeded_by_a_step(target, seed):
    teacher = narrow_teacher(seed)
    widths, limit = chosen(teacher, target), WHOLE[0] / target

    def narrowed(step):
        return {name: min(teacher[name], max(masks.FLOOR, round(step / 1024 * FULL[name]))) for name in FULL}

    low, high = 1, 1025  # the widest that fits, by bisection: parameters only grow with the factor
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if resnets.cost_of(narrowed(middle))[0] <= limit else (low, middle)
    assert widths == narrowed(low)
    assert resnets.cost_of(widths)[0] <= limit
    assert all(widths[name] <= teacher[name] for name in FULL)


@pytest.mark.parametrize("round_to", [2, 3, 5, 6, 7, 12])
def test_widths_are_multiples_of_any_number_and_keep_their_floor(round_to):
    teacher = FULL | {"conv3_block2_1_conv": 9, "conv4_block2_1_conv": 4, "conv2_block1_2_conv": 1}
    for target in (2, 12.82, 60):
        widths = chosen(teacher, target, round_to=round_to)
        for name, width in widths.items():
            assert width % round_to == 0 or width == teacher[name] < round_to
        assert min(width for name, width in widths.items() if teacher[name] > 9) >= masks.FLOOR


@settings(max_examples=12, deadline=None)
@given(st.floats(1.5, 60), st.sampled_from([8, 16, 32]), st.integers(0, 2**32 - 1))
def test_rounded_widths_are_multiples_and_the_next_wider_ones_break_the_budget(target, round_to, seed):
    teacher = narrow_teacher(seed)
    widths = chosen(teacher, target, round_to=round_to)
    assert all(width % round_to == 0 or width == teacher[name] < round_to for name, width in widths.items())
    assert all(widths[name] <= teacher[name] for name in FULL)
    limit = WHOLE[0] / target
    assert resnets.cost_of(widths)[0] <= limit
    counts = {name: width // round_to for name, width in widths.items()}  # 0: kept as the teacher has it
    wanted = {name: FULL[name] / round_to for name, count in counts.items() if 0 < count < teacher[name] // round_to}
    if wanted:  # the factor at which the first layer becomes a multiple wider, and all others that do with it
        first = min((count + 0.5) / wanted[name] for name, count in counts.items() if name in wanted)
        wider = {
            name: width + round_to * (name in wanted and (counts[name] + 0.5) / wanted[name] < first + 1 / 512)
            for name, width in widths.items()
        }
        assert resnets.cost_of(wider)[0] > limit


@settings(max_examples=12, deadline=None)
@given(st.floats(3, 40), st.floats(0.5, 1.1), st.floats(0.5, 1.5))
@example(39.25, 0.9609375, 0.6)  # 94.5 % of the MACs: a step of the factor widens several layers at once
def test_two_budgets_are_met_and_the_next_wider_student_breaks_one(target, ratio, tilt):
    limits = WHOLE[0] / target, WHOLE[1] / (target * ratio)
    widths = chosen(FULL, target, limits[1], tilt=tilt)
    shares = [used / limit for used, limit in zip(resnets.cost_of(widths), limits, strict=True)]
    assert max(shares) <= 1

    def narrowed(step):
        return {
            name: min(width, max(masks.FLOOR, round(step / 1024 * tilt ** (resnets.stage_of(name) - 3) * width), 1))
            for name, width in FULL.items()
        }

    last = max(step for step in range(4 * 1024 + 1) if narrowed(step) == widths)
    assert any(used > limit for used, limit in zip(resnets.cost_of(narrowed(last + 1)), limits, strict=True))
    factors = [widths[f"conv{s}_stream"] / FULL[f"conv{s}_stream"] for s in (2, 3, 4, 5)]
    if min(factors) > 0.02 and max(factors) < 1:
        steps = [late / early for early, late in itertools.pairwise(factors)]
        assert steps == pytest.approx([tilt] * 3, rel=0.15)  # whole channels


def test_a_tilt_below_1_widens_early_stages_and_leaves_fewer_parameters_at_the_same_macs():
    alike, tilted = (chosen(FULL, 12.82, WHOLE[1] / 14, tilt=tilt) for tilt in (1.0, 0.7))
    assert resnets.cost_of(tilted)[1] == pytest.approx(resnets.cost_of(alike)[1], rel=0.03)
    assert resnets.cost_of(tilted)[0] < 0.7 * resnets.cost_of(alike)[0]
    assert tilted["conv2_stream"] > alike["conv2_stream"] and tilted["conv5_stream"] < alike["conv5_stream"]


def test_layers_that_pruning_left_narrower_stay():
    teacher = FULL | {"conv4_block2_1_conv": 5, "conv2_block1_2_conv": 4}
    widths = chosen(teacher, 4)
    assert widths["conv4_block2_1_conv"] == 5 and widths["conv2_block1_2_conv"] == 4
    assert widths["conv4_block3_1_conv"] == pytest.approx(widths["conv5_stream"] / 2048 * 256, abs=1)
    # a teacher that is small enough already becomes the student as it is
    assert chosen(narrow_widths(), 2) == narrow_widths()


def test_positions_of_several_channels_are_counted_in_channels():
    layout = students.Layout({"one": 40, "two": 40}, {"one": 40, "two": 40}, {"one": 0, "two": 0}, {"one": 1, "two": 8})
    found = layout.narrowed(0.5, round_to=16)
    assert found == {"one": 16, "two": 20}  # of 20 channels the nearest multiple of 16; 160 channels are one
    assert layout.narrowed(0, round_to=16) == {"one": 16, "two": 2}  # 1 position of 8 channels isn't a multiple
    assert dataclasses.replace(layout, unchanged=frozenset({"one"})).narrowed(0)["one"] == 40
    by_24 = dataclasses.replace(layout, steps={"one": 3, "two": 24}).narrowed(0.5, round_to=16)
    assert by_24 == {"one": 16, "two": 20}  # 48 and 480 channels


SHAPE = configs.StudentConfig(
    target_compression=12.82, target_macs=(8.0, True), stage_tilt=0.85, round_to=8, student_stem="half"
)


def named(pattern, widths):
    """Widths of a ResNet's graph under the names of `resnets.full_widths`."""
    return {resnets.known_as(group): widths[name] for name, group in pattern.graph.groups.items()}


def widths_for(shape, teacher):
    pattern = students.Pattern(teacher, None, shape.student_stem, shape.student_blocks)
    return named(pattern, students.choose_widths(shape, pattern))


@pytest.fixture(scope="module")
def whole():
    """A ResNet50."""
    return resnets.build_resnet()


@pytest.mark.slow
@pytest.mark.parametrize("stem", list(resnets.STEMS))
def test_groups_of_a_resnet_have_its_stages_streams_and_whole_widths(stem):
    widths = narrow_widths(inner=6, stream=8, blocks=(2, 1, 3, 2))
    teacher = resnets.build_resnet(widths=widths, stem=stem, classes=4)
    pattern = students.Pattern(teacher, students.whole_of(teacher, unpruned(teacher)))
    wanted, layout = layout_of(widths), pattern.layout
    for found, value in ((layout.widths, wanted.widths), (layout.full, wanted.full), (layout.stages, wanted.stages)):
        assert named(pattern, found) == value
    assert {resnets.known_as(pattern.graph.groups[name]) for name in layout.streams} == set(wanted.streams)
    assert pattern.whole.name == "the unpruned network"
    assert (pattern.whole.parameters, pattern.whole.macs) == resnets.cost_of(FULL, 4, (32, 32, 3), stem)
    assert pattern.cost(layout.widths) == resnets.cost_of(widths, 4, (32, 32, 3), stem)


def test_an_unreachable_target_says_what_can_be_reached(whole):
    pattern = students.Pattern(whole)
    least = resnets.cost_of(dict.fromkeys(FULL, masks.FLOOR))
    shape = configs.StudentConfig(target_compression=1e6, stage_tilt=1.0, round_to=1)
    with pytest.raises(InputError, match=f"`target_compression`: .*{least[0]:,} parameters and .*; expected at most"):
        students.choose_widths(shape, pattern)
    reachable = dataclasses.replace(shape, target_compression=WHOLE[0] / least[0])
    assert set(students.choose_widths(reachable, pattern).values()) == {masks.FLOOR}
    with pytest.raises(InputError, match=f"`target_macs`: .* and {least[1]:,} MACs; expected at most .*x$"):
        students.choose_widths(
            dataclasses.replace(shape, target_compression=4.0, target_macs=(least[1] - 1.0, False)), pattern
        )


@pytest.mark.slow
def test_reductions_are_told_against_the_teachers_stem_and_a_larger_one_is_refused(whole):
    parameters, macs = resnets.cost_of(widths_for(SHAPE, whole), stem="half")
    assert parameters <= WHOLE[0] / 12.82 and 0.95 * WHOLE[1] / 8 < macs <= WHOLE[1] / 8
    with pytest.raises(InputError, match="`target_macs`: received 8x by default, .*stem cifar makes it large: `stu"):
        widths_for(dataclasses.replace(SHAPE, student_stem="cifar", round_to=16), whole)


@pytest.mark.slow
@pytest.mark.parametrize("stem", list(resnets.STEMS))
def test_a_stem_can_only_become_one_with_a_smaller_kernel(stem):
    teacher, order = resnets.build_resnet(widths=narrow_widths(), stem=stem), ["imagenet", "half", "cifar"]
    smaller = order[order.index(stem) :]
    for asked in order:
        if asked in smaller:
            found = students.Pattern(teacher, stem=asked)
            assert resnets.architecture_of(found.graph.model)["stem"] == asked
            assert found.stem == (None if asked == stem else stem)
        else:
            expected = f"`student_stem`: received {asked}, expected {' or '.join(smaller)}, as the teacher's is {stem}"
            with pytest.raises(InputError, match=expected):
                students.Pattern(teacher, stem=asked)


@pytest.mark.slow
def test_more_blocks_than_the_teachers_are_refused_and_fewer_are_wider_within_the_same_targets(whole):
    shape = dataclasses.replace(SHAPE, student_blocks=[2, 2, 2, 2])
    narrow = resnets.build_resnet(widths=narrow_widths(blocks=(2, 2, 1, 2)))
    with pytest.raises(InputError, match="`student_blocks`: received 2 2 2 2, expected at most the teacher's 2 2 1 2"):
        students.Pattern(narrow, blocks=[2, 2, 2, 2])
    with pytest.raises(InputError, match="received 2 2, but the teacher has 4 stages of .*; expected at most 2 2 1 2"):
        students.Pattern(narrow, blocks=[2, 2])
    few, all_of_them = widths_for(shape, whole), widths_for(SHAPE, whole)
    assert resnets.blocks_of(few) == (2, 2, 2, 2) and resnets.blocks_of(all_of_them) == (3, 4, 6, 3)
    assert all(few[name] >= all_of_them[name] for name in few) and few["conv4_stream"] > all_of_them["conv4_stream"]
    for widths in few, all_of_them:
        parameters, macs = resnets.cost_of(widths, stem="half")
        assert parameters <= 23_608_202 / 12.82 and 0.9 * 78.71e6 / 8 < macs <= 78.71e6 / 8


def test_a_stem_or_blocks_that_a_network_does_not_have_are_refused():
    model = zoo.plain_cnn()
    layers = [keras.Input((32, 32, 3)), keras.layers.Conv2D(8, 5, strides=2, name="valid"), keras.layers.Flatten()]
    with pytest.raises(
        InputError, match="`student_stem`: received cifar, but the teacher's stem is none that can be changed"
    ):
        students.Pattern(keras.Sequential([*layers, keras.layers.Dense(4)]), stem="cifar")
    with pytest.raises(InputError, match="`student_blocks`: received 1 1, but the teacher has no residual blocks"):
        students.Pattern(model, blocks=[1, 1])


# ---- any network ----


def test_a_student_of_any_network_keeps_its_budgets_and_the_next_wider_one_breaks_one():
    model = zoo.inverted_residual()
    pattern = students.Pattern(model)
    groups = {name: group.width for name, group in pattern.graph.groups.items()}
    assert pattern.whole == students.Whole("the teacher", model.count_params(), int(Graph(model).cost().macs), groups)
    shape = configs.StudentConfig(target_compression=1.3, target_macs=(1.2, True), stage_tilt=1.0, round_to=1)
    widths = students.choose_widths(shape, pattern)
    student = students.inherit_student(pattern.graph, widths)
    parameters, macs = students.sizes_of(student)
    assert parameters == student.count_params() <= model.count_params() / 1.3 and macs <= pattern.whole.macs / 1.2
    full = {name: group.width for name, group in pattern.graph.groups.items()}

    def narrowed(step):
        return {name: min(width, max(4, round(step / 1024 * width))) for name, width in full.items()}

    last = max(step for step in range(1025) if narrowed(step) == widths)
    cost = pattern.graph.cost(narrowed(last + 1))
    assert cost.parameters > model.count_params() / 1.3 or cost.macs > pattern.whole.macs / 1.2


def test_hidden_dense_layers_rest_unless_they_alone_are_too_large():
    def build(units):
        inputs = keras.Input((8, 8, 3))
        x = keras.layers.Conv2D(16, 3, activation="relu", name="one")(inputs)
        x = keras.layers.Conv2D(32, 3, strides=2, activation="relu", name="two")(x)
        x = keras.layers.GlobalAveragePooling2D()(x)
        x = keras.layers.Dense(units, activation="relu", name="hidden")(x)
        x = keras.layers.Dense(units, activation="relu", name="more")(x)
        return keras.Model(inputs, keras.layers.Dense(5, name="classes")(x))

    shape = configs.StudentConfig(target_compression=2.5, stage_tilt=1.0, round_to=1)
    small, large = (students.choose_widths(shape, students.Pattern(build(units))) for units in (12, 400))
    assert small["hidden"] == small["more"] == 12 and small["two"] < 32
    assert large["hidden"] < 400 and large["more"] < 400 and large["two"] < 32


def test_streams_are_what_additions_join():
    assert students.Pattern(zoo.residual()).layout.streams == ("stem",)
    with pytest.raises(InputError, match="`stream_divisor`: received 4, but the teacher has no residual streams"):
        students.divided_streams(students.Pattern(zoo.plain_cnn()).layout, 4)


# ---- channels and weights ----


def test_scores_are_sums_over_all_that_makes_and_reads_a_channel():
    model = zoo.residual()
    scores = students.channel_scores(Graph(model))
    kernels = {layer.name: np.array(layer.kernel) for layer in model.layers if hasattr(layer, "kernel")}
    norms = [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]
    stream = [np.array(layer.gamma) ** 2 for layer in norms if layer.gamma.shape == (6,)]
    stream += [(kernels[name] ** 2).sum((0, 1, 3)) for name in ("1_first", "2_first")]
    stream += [(kernels["logits"] ** 2).sum(1)]
    assert len(stream) == 6
    np.testing.assert_allclose(scores["stem"], -sum(part / part.mean() for part in stream), rtol=1e-6)
    for number in "12":
        norm, reader = model.get_layer(f"{number}_first_bn"), kernels[f"{number}_second"]
        parts = [np.array(norm.gamma) ** 2, (reader**2).sum((0, 1, 3))]
        np.testing.assert_allclose(scores[f"{number}_first"], -sum(part / part.mean() for part in parts), rtol=1e-6)
    # without a batch-norm the kernels that make a channel say how large it is
    plain = keras.Sequential([keras.Input((4,)), keras.layers.Dense(5, name="one"), keras.layers.Dense(3, name="two")])
    made, read = np.array(plain.layers[0].kernel) ** 2, np.array(plain.layers[1].kernel) ** 2
    wanted = -(made.sum(0) / made.sum(0).mean() + read.sum(1) / read.sum(1).mean())
    np.testing.assert_allclose(students.channel_scores(Graph(plain))["one"], wanted, rtol=1e-6)


def test_an_inheriting_student_holds_slices_of_the_teacher():
    teacher = randomised(resnets.build_resnet(widths=narrow_widths(blocks=None)), 5)
    widths = narrow_widths(inner=5, stream=4, stem=3, blocks=None) | {"conv3_stream": 6, "conv4_block2_1_conv": 2}
    graph = Graph(teacher)
    student = students.inherit_student(
        graph, {name: widths[resnets.known_as(group)] for name, group in graph.groups.items()}
    )
    assert resnets.widths_of(student) == widths
    assert students.recorded_widths(student) == {name: widths[resnets.known_as(g)] for name, g in graph.groups.items()}
    wiring = list(resnets.convolutions((3, 4, 6, 3), "imagenet"))
    members = {group: [] for group in [*widths, "rgb"]}
    for name, _, read, written in wiring:
        members[written].append(np.array(teacher.get_layer(f"{name}_bn").gamma) ** 2)
        members[read].append((np.array(teacher.get_layer(f"{name}_conv").kernel) ** 2).sum((0, 1, 3)))
    members["conv5_stream"].append((np.array(teacher.get_layer("predictions").kernel) ** 2).sum(1))
    worth = {group: sum(part / part.mean() for part in parts) for group, parts in members.items()}
    kept = {group: np.sort(np.argsort(-worth[group])[:width]) for group, width in widths.items()} | {"rgb": [0, 1, 2]}
    for name, _, read, written in wiring:
        kernel, bias = arrays(teacher.get_layer(f"{name}_conv").weights)
        ours = arrays(student.get_layer(f"{name}_conv").weights)
        assert np.array_equal(ours[0], kernel[:, :, kept[read]][..., kept[written]]), name
        assert np.array_equal(ours[1], bias[kept[written]]), name
        for mine, theirs in zip(
            student.get_layer(f"{name}_bn").weights, teacher.get_layer(f"{name}_bn").weights, strict=True
        ):
            assert np.array_equal(np.array(mine), np.array(theirs)[kept[written]]), name
    kernel, bias = arrays(teacher.get_layer("predictions").weights)
    ours = arrays(student.get_layer("predictions").weights)
    assert np.array_equal(ours[0], kernel[kept["conv5_stream"]]) and np.array_equal(ours[1], bias)


@pytest.mark.parametrize(
    ("before", "after"),
    [("imagenet", "half"), *(pytest.param(stem, "cifar", marks=pytest.mark.slow) for stem in ("imagenet", "half"))],
)
def test_another_stem_keeps_the_middle_of_the_first_kernel_and_all_other_weights(before, after):
    sides = {"imagenet": 7, "half": 5, "cifar": 3}
    teacher = randomised(resnets.build_resnet(widths=narrow_widths(), stem=before), 7)
    student = students.Pattern(teacher, stem=after).graph.model
    assert resnets.architecture_of(student) == resnets.architecture_of(teacher) | {"stem": after}
    cut = (sides[before] - sides[after]) // 2
    for theirs, ours in zip(teacher.weights, student.weights, strict=True):
        theirs, ours = np.array(theirs), np.array(ours)  # noqa: PLW2901
        if theirs.shape != ours.shape:
            assert ours.shape[:3] == (sides[after], sides[after], 3)
            theirs = theirs[cut:-cut, cut:-cut]  # noqa: PLW2901
        np.testing.assert_array_equal(ours, theirs)
    if after == "half":  # as far apart and as padded as the ImageNet stem's: with a kernel that is 0 outside, the same
        kernel = np.zeros_like(np.array(teacher.get_layer("conv1_conv").kernel))
        kernel[1:6, 1:6] = np.random.default_rng(0).normal(size=(5, 5, 3, kernel.shape[-1]))
        teacher.get_layer("conv1_conv").kernel.assign(kernel)
        student = students.Pattern(teacher, stem=after).graph.model
        first = [keras.Model(net.inputs, net.get_layer("conv1_relu").output)([IMAGES]) for net in (teacher, student)]
        np.testing.assert_allclose(*map(np.asarray, first), rtol=1e-4, atol=1e-4)


def test_a_student_of_fewer_blocks_is_the_teacher_whose_other_blocks_add_nothing():
    teacher, blocks = randomised(resnets.build_resnet(widths=narrow_widths(blocks=None)), 8), (2, 4, 1, 2)
    for stage, (count, kept) in enumerate(zip((3, 4, 6, 3), blocks, strict=True), 2):
        for block in range(kept + 1, count + 1):
            norm = teacher.get_layer(f"conv{stage}_block{block}_3_bn")
            for variable in norm.gamma, norm.beta:
                variable.assign(np.zeros(variable.shape))
    widths = {
        name: width for name, width in resnets.widths_of(teacher).items() if name in resnets.full_widths(50, blocks)
    }
    pattern = students.Pattern(teacher, blocks=blocks)
    student = students.inherit_student(pattern.graph, {})
    assert resnets.architecture_of(student) == resnets.architecture_of(teacher) | {"widths": widths}
    np.testing.assert_array_equal(np.asarray(student(IMAGES)), np.asarray(teacher(IMAGES)))
    # and narrower at the same time: what is left of it has the widths asked for
    narrow = {name: max(1, group.width // 2) for name, group in pattern.graph.groups.items()}
    assert resnets.widths_of(students.inherit_student(pattern.graph, narrow)) == named(pattern, narrow)


def test_a_student_of_full_widths_is_the_teacher():
    teacher = randomised(resnets.build_resnet(widths=narrow_widths()), 6)
    student = students.inherit_student(Graph(teacher), {})
    assert student is not teacher
    np.testing.assert_array_equal(np.asarray(student(IMAGES)), np.asarray(teacher(IMAGES)))


@pytest.mark.parametrize("name", ["inverted_residual", "transfer_learning", "attention", "adapted_normalization"])
def test_random_weights_are_those_of_the_layers_initialisers(name):
    model = zoo.NETWORKS[name]()
    for variable in model.weights:
        variable.assign(np.full(variable.shape, 7, variable.dtype))
    keras.utils.set_random_seed(1)
    drawn = arrays(students.redrawn(model).weights)
    keras.utils.set_random_seed(1)
    assert all(map(np.array_equal, drawn, arrays(students.redrawn(model).weights)))
    for _, node in nodes.walk(model):
        layer = node.operation
        if nodes.is_model(layer) or isinstance(layer, keras.layers.Normalization):
            continue
        for variable in getattr(layer, "weights", ()):
            values = np.array(variable)
            if "kernel" in variable.name:
                fans = keras.src.initializers.random_initializers.compute_fans(values.shape)
                assert 0.4 < values.std() / np.sqrt(2 / sum(fans)) < 2  # Glorot's
            else:
                assert set(values.ravel()) == {float(variable.name in ("gamma", "moving_variance"))}, variable.path
    if name == "adapted_normalization":  # measured, not trained
        assert any(7 in np.array(variable) for variable in model.weights)


# ---- what is said of it ----


@pytest.mark.slow
def test_a_student_no_smaller_than_its_teacher_is_a_warning_and_a_target_says_of_what(capsys):
    teacher, macs = resnets.build_resnet(widths=narrow_widths()), WHOLE[1]
    whole = students.whole_of(teacher, unpruned(teacher))
    for student, warned in (
        (resnets.build_resnet(widths=narrow_widths(inner=5, stream=4)), False),
        (resnets.build_resnet(widths=narrow_widths(inner=7)), True),
        (teacher, True),
    ):
        found = students.goal(configs.StudentConfig(target_macs=(4.0, True)), whole, teacher, student)
        assert found == {
            "of": "the unpruned network",
            "macs": macs,
            "left": macs / 4,
            "reached": resnets.cost_of(resnets.widths_of(student))[1],
        }
        said, error = capsys.readouterr()
        assert f"at most {macs / 4:,.0f} MACs, of {macs:,} that the unpruned network has" in said
        assert ("its teacher" in error and any(part in error for part in (": the same in", "x larger in"))) == warned
        assert (
            student is teacher
            or not warned
            or (f"{student.count_params() / teacher.count_params():.4g}x larger in parameters" in error)
        )
        assert not warned or all(f"{net.count_params():,} " in error for net in (teacher, student))
    assert students.goal(configs.StudentConfig(), whole, teacher, teacher) is None
