"""The graph of any network: trimmed against masked by a walk of the test's own, costs against counts from shapes."""

import inspect
import random
import re

import keras
import numpy as np
import pytest
import resnets
import zoo
from conftest import ROOT, narrow_widths, randomised

from compress import metrics
from compress.errors import InputError
from compress.graph import nodes, rules
from compress.graph.network import Graph
from compress.pruning import removal
from compress.storage import saving

EXACT = 1e-5  # of the largest output: float32 adds up in another order


def attended(layer, heads, query, value, key=None):
    """What a MultiHeadAttention computes, with a number a head that its values are multiplied by."""
    name, one, ops = ("query", "key", "value"), "btd,dhk->bthk", keras.ops
    q, k, v = (
        ops.einsum(one, x, getattr(layer, f"{part}_dense").kernel) + getattr(layer, f"{part}_dense").bias
        for part, x in zip(name, (query, value if key is None else key, value), strict=True)
    )
    weights = ops.softmax(ops.einsum("bthk,bshk->bhts", q, k) / layer.key_dim**0.5)
    mixed = ops.einsum("bhts,bshk->bthk", weights, v) * heads.reshape(-1, 1)
    return ops.einsum("bthk,hkd->btd", mixed, layer.output_dense.kernel) + layer.output_dense.bias


def masked_run(model, inputs, keep, heads=None):
    """Runs Keras' nodes one by one, with removed channels set to 0 on every tensor.

    Args:
        model: a keras.Model.
        inputs: list of arrays.
        keep: function(KerasTensor) -> (axis, bool (channels,)) or (None, None).
        heads: {name of an attention layer: bool (heads,)}.
    """
    graph = nodes.graph_of(model)
    known = dict(zip(map(id, graph.inputs), inputs, strict=True))
    for node in nodes.nodes_of(graph):
        if nodes.is_model(node.operation):
            values = masked_run(node.operation, [known[id(t)] for t in node.input_tensors], keep, heads)
        elif node.operation.name in (heads or {}) and isinstance(node.operation, keras.layers.MultiHeadAttention):
            args, kwargs = node.arguments.fill_in(known)
            values = [attended(node.operation, heads[node.operation.name].astype("float32"), *args, **kwargs)]
        else:
            args, kwargs = node.arguments.fill_in(known)
            if "training" in inspect.signature(node.operation.call).parameters:
                kwargs["training"] = False
            values = keras.tree.flatten(node.operation(*args, **kwargs))
        for tensor, value in zip(node.outputs, values, strict=True):
            axis, mask = keep(tensor)
            shape = [-1 if at == axis else 1 for at in range(len(value.shape))]
            known[id(tensor)] = value if mask is None else value * keras.ops.cast(mask.reshape(shape), value.dtype)
    return [known[id(tensor)] for tensor in graph.outputs]


def run(model, inputs):
    """Outputs of a model as a list of arrays, in the order of its graph."""
    return masked_run(model, inputs, lambda tensor: (None, None))


def difference(some, others):
    """Largest max |a - b| / max |b| of pairs of arrays."""
    pairs = [(np.asarray(a, np.float64), np.asarray(b, np.float64)) for a, b in zip(some, others, strict=True)]
    return max(np.abs(a - b).max() / np.abs(b).max() for a, b in pairs)


def in_float32(model, *others):
    """Others, made of a model and of the same precision; from here on all of them compute in float32.

    bfloat16 keeps 8 bits: two networks that are equal would differ by its rounding, 100 times `EXACT` and more.
    """
    policies = [layer.dtype_policy.name for layer in model._flatten_layers()]
    for other in others:
        assert [layer.dtype_policy.name for layer in other._flatten_layers()] == policies
    for layer in (layer for network in (model, *others) for layer in network._flatten_layers()):
        layer.dtype_policy = "float32"
    return others


def random_masks(graph, rng, exact=True):
    """Masks that remove 30 to 60 % of every group, or of every exact one."""
    masks = {}
    for name, group in graph.groups.items():
        if group.exact or not exact:
            keep = max(1, round(group.width * rng.uniform(0.4, 0.7)))
            masks[name] = rng.permutation(group.width) < keep
    return masks


def work(model):
    """MACs of a model, from the shapes of its tensors and its layers' kernel sizes alone."""
    total = 0
    for node in nodes.nodes_of(nodes.graph_of(model)):
        layer, kind = node.operation, type(node.operation).__name__
        if kind == "TimeDistributed":  # its shapes count its steps
            layer, kind = layer.layer, type(layer.layer).__name__
        if nodes.is_model(layer):
            if None in layer.inputs[0].shape[1:]:  # which has the size of this call
                image = keras.Input(batch_shape=node.input_tensors[0].shape)
                layer = keras.models.clone_model(layer, input_tensors=image)
            total += work(layer)
            continue
        if kind == "EinsumDense":
            _, kernel, out = re.split(",|->", layer.equation)
            summed = [size for letter, size in zip(kernel, layer.kernel.shape, strict=True) if letter not in out]
            total += int(np.prod(node.outputs[0].shape[1:]) * np.prod(summed))
            continue
        if "Conv" not in kind and kind not in ("Dense", "MultiHeadAttention", "LSTM"):
            continue
        read, made = node.input_tensors[0].shape, node.outputs[0].shape
        window = int(np.prod(getattr(layer, "kernel_size", 1)))
        if kind == "LSTM":
            total += read[1] * 4 * layer.units * (read[2] + layer.units)
        elif "Transpose" in kind:
            total += int(np.prod(read[1:])) * window * made[-1]
        elif "Depthwise" in kind:
            total += int(np.prod(made[1:])) * window
        elif "Separable" in kind:
            between = int(np.prod(made[1:-1])) * read[-1] * layer.depth_multiplier
            total += between * window + between * made[-1]
        elif kind == "MultiHeadAttention":
            query, key = read, node.input_tensors[-1].shape
            heads, wide, deep = layer.num_heads, layer.key_dim, layer.value_dim
            total += query[1] * query[2] * heads * (wide + deep) + key[1] * key[2] * heads * (wide + deep)
            total += query[1] * key[1] * heads * (wide + deep)
        else:
            total += int(np.prod(made[1:])) * window * read[-1] // getattr(layer, "groups", 1)
    return total


def check(model, inputs, rng):
    """All that holds of a model: see the assertions. Returns its Graph, some masks, and the model trimmed by them."""
    graph = Graph(model)
    masks = random_masks(graph, rng)
    small, masked = in_float32(model, graph.trimmed(masks), graph.masked(masks))
    reference = masked_run(model, inputs, lambda tensor: graph.kept(tensor, masks), masks)
    assert difference(run(small, inputs), reference) <= EXACT
    assert difference(run(masked, inputs), reference) <= EXACT
    assert [v.shape for v in masked.weights] == [v.shape for v in model.weights]
    assert [layer.name for layer in small.layers] == [layer.name for layer in model.layers]
    widths, left = {name: int(mask.sum()) for name, mask in masks.items()}, Graph(small)
    for network, cost in ((graph, graph.cost()), (left, graph.cost(widths))):
        assert cost.parameters == network.model.count_params()
        assert cost.macs == work(network.model) if None not in model.inputs[0].shape[1:] else np.isnan(cost.macs)
        assert cost.sparsity == pytest.approx(removal.compute_sparsity(network, model), abs=1e-12)
    # the next round of pruning finds the same groups, as wide as their masks left them
    again = {name: group.width for name, group in left.groups.items()}
    assert again == {name: widths.get(name, group.width) for name, group in graph.groups.items()}
    return graph, masks, small


def check_reopens(model, inputs, folder):
    """Plain Keras opens its own .keras and the suite's .h5 of a model, and computes the same to the last bit."""
    wanted = run(model, inputs)
    model.save(folder / "small.keras")
    saving.save_network(model, folder / "small.h5")
    for name in ("small.keras", "small.h5"):
        assert difference(run(keras.models.load_model(folder / name, compile=False), inputs), wanted) == 0


def find_mutation(graph, masks, small, inputs, rng):
    """Flipping one entry of a mask moves the outputs of the masked model far from the trimmed one's."""
    trimmed = run(small, inputs)
    for name in rng.permutation(list(masks)):
        for place in rng.permutation(len(masks[name]))[:4]:
            flipped = masks[name].copy()
            flipped[place] ^= True
            if not flipped.any():
                continue  # a group keeps at least one
            mutated = masks | {name: flipped}
            outputs = masked_run(graph.model, inputs, lambda t, m=mutated: graph.kept(t, m), mutated)
            if difference(outputs, trimmed) > 100 * EXACT:
                return True
    return False


@pytest.mark.parametrize("name", zoo.NETWORKS)
def test_trimmed_is_masked_costs_are_counted_and_a_mutated_mask_is_found(name):
    model, rng = zoo.lively(zoo.NETWORKS[name]()), np.random.default_rng(5)
    assert find_mutation(*check(model, zoo.images(model), rng), zoo.images(model), rng)


QUICK = ("transfer_learning", "several_outputs", "slices", "attention")  # nested, dicts, operations, sublayers


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in zoo.NETWORKS]
)
def test_trimmed_models_reopen_in_plain_keras(name, tmp_path):
    model = zoo.lively(zoo.NETWORKS[name]())
    graph = Graph(model)
    small = graph.trimmed(random_masks(graph, np.random.default_rng(5)))
    check_reopens(small, zoo.images(small), tmp_path)
    assert difference(run(graph.trimmed({}), zoo.images(model)), run(model, zoo.images(model))) == 0


# Square images, as small as each takes; channels, parameters and depth are those of ImageNet's networks.
SIZES = {"InceptionV3": 75, "InceptionResNetV2": 75, "Xception": 71, "VGG16": 64, "VGG19": 64}
APPLICATIONS = sorted(name for name in dir(keras.applications) if name[0].isupper())
SMALL = ("MobileNet", "MobileNetV2", "MobileNetV3Small")


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "name", [name if name in SMALL else pytest.param(name, marks=pytest.mark.slow) for name in APPLICATIONS]
)
def test_every_network_of_keras_applications(name, tmp_path):
    size = SIZES.get(name, 32)
    build = getattr(keras.applications, name)
    model = zoo.calibrated(build(weights=None, input_shape=(size, size, 3), classes=10, classifier_activation=None))
    graph, rng = Graph(model), np.random.default_rng(7)
    scores = np.asarray(run(model, zoo.images(model, 2))[0])
    assert np.ptp(scores, 0).max() > 1e-3 * np.abs(scores).max()  # what reaches the output depends on the image
    assert len(graph.groups) > 10 and sum(group.exact for group in graph.groups.values()) > 5
    found = check(model, zoo.images(model, 2), rng)
    check_reopens(found[-1], zoo.images(model, 2), tmp_path)
    assert find_mutation(*found, zoo.images(model, 2), rng)


def test_there_are_forty_networks_in_keras_applications():
    assert len(APPLICATIONS) == 40


def test_groups_under_one_norm_are_trimmed_where_asked_for():
    graph = graph_of("layer_normalisation")
    masks = random_masks(graph, np.random.default_rng(4), exact=False)
    small = graph.trimmed(masks)
    widths = {name: int(mask.sum()) for name, mask in masks.items()}
    assert set(widths) == {"stem", "wide"} and small.count_params() == graph.cost(widths).parameters
    assert np.isfinite(small(zoo.images(small)[0])).all()


# ---- equal to the code that reads ResNets by the names of their layers


def named_as_before(graph):
    """{name of a group: the name that `resnet` gives the same channels}."""
    return {name: f"{name[:5]}_stream" if len(group.makers) > 1 else name for name, group in graph.groups.items()}


def wiring_of(model):
    """[(name, kernel, group read, group written)] of a ResNet's convolutions, by the names of its layers."""
    form = resnets.architecture_of(model)
    return list(resnets.convolutions(resnets.blocks_of(form["widths"]), form["stem"]))


def check_against_names(model, rng):
    """Groups, costs, makers and readers."""
    graph, widths = Graph(model), resnets.widths_of(model)
    names = named_as_before(graph)
    assert {names[name]: group.width for name, group in graph.groups.items()} == widths
    blocks = resnets.blocks_of(widths)
    assert [name for name, group in graph.groups.items() if group.inner] == resnets.inner_names(blocks)
    for name, group in graph.groups.items():  # who reads and makes it, by the old list of convolutions
        wiring = wiring_of(model)
        assert set(group.makers) == {f"{conv}_conv" for conv, _, _, written in wiring if written == names[name]}
        readers = {f"{conv}_conv" for conv, _, read, _ in wiring if read == names[name]}
        assert set(group.readers) == readers | ({"predictions"} if names[name] == "conv5_stream" else set())
    assert [(p.layer, p.width, p.makers) for p in graph.pinned] == [
        ("predictions", model.output_shape[-1], ("predictions",))
    ]
    masks = random_masks(graph, rng)
    small = graph.trimmed(masks)
    left = {name: int(mask.sum()) for name, mask in masks.items()}
    shape = (model.output_shape[-1], model.input_shape[1:], resnets.architecture_of(model)["stem"])
    for kept in ({}, left):
        cost = graph.cost(kept)
        now = widths | {names[name]: width for name, width in kept.items()}
        assert (cost.parameters, cost.macs) == resnets.cost_of(now, *shape)
    assert graph.cost(left).macs == metrics.count_macs(small)
    norms = [(f"{name}_conv", f"{name}_bn") for name, *_ in wiring_of(model)]
    assert sorted((one.name, norm.name) for one, norm in graph.folds) == sorted(norms)
    watched = {name: [op.name for _, op in found] for name, found in graph.activations.items()}
    assert all(watched[name] == [name.replace("_conv", "_relu")] for name in resnets.inner_names(blocks))


@pytest.mark.parametrize("stem", ["cifar", pytest.param("imagenet", marks=pytest.mark.slow)])
def test_a_resnet_is_read_as_by_its_names(stem):
    model = randomised(resnets.build_resnet(widths=narrow_widths(), stem=stem))
    check_against_names(model, np.random.default_rng(1))


@pytest.mark.slow
@pytest.mark.parametrize("depth", [50, 101, 152])
def test_whole_resnets_are_read_as_by_their_names(depth):
    model = randomised(resnets.build_resnet(depth, input_shape=(64, 64, 3)))
    check_against_names(model, np.random.default_rng(depth))


# ---- what the graph says


def graph_of(name):
    return Graph(zoo.lively(zoo.NETWORKS[name]()))


def test_inner_groups_leave_streams_and_stems_alone():
    assert [n for n, group in graph_of("residual").groups.items() if group.inner] == ["1_first", "2_first"]
    assert [n for n, group in graph_of("transfer_learning").groups.items() if group.inner] == ["base/inner"]
    gated = graph_of("squeeze_excite_maps").groups["conv"]
    assert gated.inner and gated.makers == ("conv", "excite") and gated.readers == ("squeeze", "last")


def test_a_group_has_the_makers_and_steps_of_what_goes_together():
    grouped = graph_of("grouped_convolution").groups["reduce"]
    assert (grouped.width, grouped.step, grouped.makers) == (4, 2, ("reduce", "grouped"))
    heads = graph_of("attention").groups["attention"]
    assert (heads.width, heads.makers, heads.exact) == (3, ("attention",), True)
    parts = graph_of("inception_added").groups
    joined = [parts["stem"], parts["stem:1"]]
    assert {(group.width, group.makers) for group in joined} == {(4, ("stem", "left")), (5, ("stem", "right"))}


def test_channels_under_one_norm_are_not_exact():
    groups = graph_of("layer_normalisation").groups
    assert {name: group.exact for name, group in groups.items()} == {"stem": False, "wide": True}


@pytest.mark.parametrize(
    ("name", "layer", "width", "why"),
    [
        ("recurrent", "lstm", 5, "LSTM has no rule"),
        ("frames", "each", 6, "TimeDistributed has no rule"),
        ("softmax_inside", "held", 6, "the activation softmax mixes channels or has no rule"),
        ("spatial_attention", "multiply", 1, "a single channel meets all of another tensor"),
        ("mean_over_channels", "mean", 6, "Mean is taken over the channels"),
        ("divided", "true_divide", 6, "they are divided by, which a removed channel can't be"),
        ("plain_cnn", "logits", 3, "they are an output of the model"),
    ],
)
def test_pinned_channels_have_the_layer_that_holds_them(name, layer, width, why):
    held = [(p.layer.rstrip("_0123456789"), p.width, p.why) for p in graph_of(name).pinned]
    assert (layer, width, why) in held


def test_costs_of_a_table_are_those_of_each_row():
    graph, rng = graph_of("inception_added"), np.random.default_rng(2)
    table = np.stack([rng.integers(1, group.width + 1, 7) for group in graph.groups.values()], 1)
    each = [graph.cost(dict(zip(graph.groups, row, strict=True))) for row in table]
    assert graph.costs(table).tolist() == [[cost.parameters, cost.macs] for cost in each]
    assert len(set(graph.costs(table)[:, 0])) > 1


def test_a_network_without_groups_has_its_cost():
    graph = Graph(keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)]))
    assert graph.groups == {} and (graph.cost().parameters, graph.cost().macs) == (15, 12)


def test_places_say_which_channel_belongs_to_which_entry_of_a_mask():
    graph = graph_of("unet")
    joined = next(node for _, node in nodes.walk(graph.model) if node.operation.name.startswith("concatenate"))
    axis, places = graph.places(joined.outputs[0])
    assert axis == 3 and list(places) == ["down1", "down2", "up"]
    assert places["up"][0].tolist() == [4, 5, 6, 7, 8] and places["up"][1].tolist() == [0, 1, 2, 3, 4]
    assert places["down2"][0].tolist() == [9, 10, 11, 12, 13, 14]
    assert graph.places("up")[1]["up"][1].tolist() == [0, 1, 2, 3, 4]
    masks = random_masks(graph, np.random.default_rng(6))
    joined_mask = [*masks["down1"], *masks["up"], *masks["down2"]]
    assert graph.kept(joined.outputs[0], masks)[1].tolist() == joined_mask != joined_mask[::-1]


def test_slices_are_where_a_group_stands_in_the_weights():
    graph = graph_of("depth_multiplier")
    found = [(s.path, s.variable.name, s.axis, s.role, s.channels.tolist()) for s in graph.slices("one")]
    four, eight = [0, 1, 2, 3], list(range(8))
    assert found == [
        ("one", "kernel", 3, "makes", four),
        ("one", "bias", 0, "makes", four),
        *(("one_bn", name, 0, "follows", four) for name in ("gamma", "beta", "moving_mean", "moving_variance")),
        ("two", "kernel", 2, "makes", four),
        ("two", "bias", 0, "makes", eight),
        *((s.path, s.variable.name, 0, "follows", eight) for s in graph.slices("one")[8:12]),
        ("three", "kernel", 2, "reads", eight),
    ]
    assert graph.slices("one")[7].positions.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]


def test_zeros_are_counted_behind_relus_of_the_channels():
    found = graph_of("before_activation").activations
    assert {name: len(places) for name, places in found.items()} == {"stem": 3, "grow1": 2, "grow2": 1}
    assert [op.name for _, op in graph_of("flatten_head").activations["hidden"]] == ["hidden"]
    assert [op.name[:5] for _, op in graph_of("hard_swish").activations["one"]] == ["relu6"]
    assert graph_of("mlp").activations["one"] == []


def test_zeros_are_counted_behind_whatever_computes_a_relu():
    ops = keras.ops
    gates = {
        "first": ops.relu,
        "largest": lambda x: ops.maximum(x, 0.0),
        "turned": lambda x: ops.maximum(np.float32(0), x),
        "cut": lambda x: ops.clip(x, 0, 6),
        "above": lambda x: ops.maximum(x, 1e-6),
        "between": lambda x: ops.clip(x, -1, 1),
        "two": lambda x: ops.maximum(x, x * 0.5),
    }
    x = image = keras.Input((8, 8, 3))
    for name, gate in gates.items():
        x = gate(keras.layers.Conv2D(4, 1, name=name)(x))
    found = Graph(keras.Model(image, keras.layers.Dense(2)(x))).activations
    assert [name for name in gates if found[name]] == ["first", "largest", "turned", "cut"]


def test_folds_are_linear_layers_that_only_a_norm_reads():
    assert [one.name for one, _ in graph_of("inverted_residual").folds] == ["stem", "expand", "depthwise", "project"]
    assert [one.name for one, _ in graph_of("separable_convolutions").folds] == ["two"]
    assert [one.name for one, _ in graph_of("before_activation").folds] == []
    assert [one.name for one, _ in graph_of("block_called_twice").folds] == ["stem", "one", "two"]


# ---- what is refused


class Doubled(keras.Model):
    def call(self, x):
        return 2 * x


class Own(keras.layers.Layer):
    def call(self, x):
        return x


def wrapped(layer):
    x = keras.Input((4, 4, 3))
    return keras.Model(x, keras.layers.Conv2D(2, 1)(layer(x)))


def quantised():
    model = zoo.mlp()
    model.get_layer("one").quantize("int8")
    return model


def with_lora():
    model = zoo.mlp()
    model.get_layer("one").enable_lora(2)
    return model


@pytest.mark.parametrize(
    ("model", "text"),
    [
        (Doubled, "a subclassed model"),
        (lambda: keras.Sequential([keras.layers.Dense(3)]), "isn't built"),
        (lambda: wrapped(Doubled(name="inside")), "inside: received a subclassed model (Doubled)"),
        (lambda: wrapped(Own(name="own")), "own: received a layer of a class of its own, Own"),
        (lambda: wrapped(keras.layers.Lambda(lambda x: 2 * x, name="twice")), "twice: received a layer Lambda"),
        (quantised, "one: received a layer quantised to int8"),
        (with_lora, "one: received a layer with LoRA weights"),
    ],
)
def test_what_has_no_graph_is_refused_in_one_line(model, text):
    with pytest.raises(InputError) as error:
        Graph(model())
    assert text in str(error.value) and "expected" in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "masks",
    [
        {"two": np.zeros(7, bool)},
        {"two": np.ones(6, bool)},
        {"two": np.ones(7)},
        {"three": np.ones(7, bool)},
        {"logits": np.ones(3, bool)},
    ],
)
def test_masks_that_fit_no_group_are_refused(masks):
    graph = graph_of("plain_cnn")
    for function in (graph.trimmed, graph.masked):
        with pytest.raises(InputError, match="`masks`: received"):
            function(masks)


@pytest.mark.parametrize("widths", [{"two": 0}, {"two": 8}, {"three": 1}])
def test_widths_out_of_range_are_refused(widths):
    with pytest.raises(InputError, match="`widths`: received"):
        graph_of("plain_cnn").cost(widths)


# ---- a rule for a layer of one's own


def test_the_page_on_own_layers_runs(capsys):
    page = (ROOT / "docs/how-to/own-layer.md").read_text(encoding="utf-8")
    code = "\n".join(re.findall(r"```python\n(.*?)```", page, re.DOTALL))
    names = {"__name__": "own_layer"}
    exec(compile(code, "own-layer.md", "exec"), names)
    graph = names["graph"]
    assert f"```\n{capsys.readouterr().out}```" in page
    masks = random_masks(graph, np.random.default_rng(0))
    model, inputs = zoo.lively(graph.model), zoo.images(graph.model)
    reference = masked_run(model, inputs, lambda tensor: graph.kept(tensor, masks), masks)
    assert difference(run(graph.trimmed(masks), inputs), reference) <= EXACT
    assert difference(run(graph.masked(masks), inputs), reference) <= EXACT
    widths = {name: int(mask.sum()) for name, mask in masks.items()}
    assert graph.cost(widths).parameters == graph.trimmed(masks).count_params()
    namesake = type("Dense", (keras.layers.Layer,), {})
    for kind in (keras.layers.Dense, dict, namesake):
        with pytest.raises(InputError, match="`kind`: received"):
            rules.register(kind, names["project"])


def test_reading_leaves_the_state_that_keras_draws_seeds_from():
    model, start = zoo.residual(), random.getstate()
    Graph(model)
    assert random.getstate() == start
