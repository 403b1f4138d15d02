"""Folded inference of any graph against plain Keras' predictions, and against the earlier engine on a ResNet."""

import contextlib

import keras
import numpy as np
import pytest
import shapes
import zoo
from keras import layers, ops, tree

from compress.engine import folding, twin
from compress.errors import InputError
from compress.graph import folds, network, nodes, rules

# how many batch-norms fold: those behind a linear convolution or Dense that nothing else reads, both called once
FOLDS = {
    "sequential": 4,
    "residual": 5,
    "mobile": 5,
    "narrowing": 4,
    "dense": 1,
    "shared": 1,
    "kinds": 5,
    "several": 1,
    "transfer": 5,
}


@pytest.mark.parametrize("name", shapes.SHAPES)
def test_folded_outputs_are_keras(name):
    model = shapes.lively(shapes.SHAPES[name]())
    images = shapes.pixels(model)
    expected = model(images, training=False)
    assert len(folds.pairs(model)) == FOLDS[name]
    twin = folding.FoldedModel(model)
    for ours, theirs in zip(tree.flatten(twin(images)), tree.flatten(expected), strict=True):
        assert shapes.close(ours, theirs, 1e-5)
    assert not twin.trainable_variables and not any(isinstance(v, keras.KerasTensor) for v in twin.variables)
    for norm in folds.pairs(model):  # nothing of a folded batch-norm is read any more
        norm.set_weights([np.full_like(w, np.nan) for w in norm.get_weights()])
    for ours, theirs in zip(tree.flatten(twin(images)), tree.flatten(expected), strict=True):
        assert shapes.close(ours, theirs, 1e-5)


def test_a_batch_norm_that_something_else_sees_does_not_fold():
    def pairs(make):
        x = inputs = keras.Input((5, 5, 2))
        return len(folds.pairs(keras.Model(inputs, make(x))))

    conv, norm = layers.Conv2D, layers.BatchNormalization

    def read_twice(x):
        y = conv(2, 3)(x)
        return norm()(y) + y

    def also_an_output(x):
        y = conv(2, 3)(x)
        return [norm()(y), y]

    def called_twice(x):
        shared = norm()
        return shared(conv(2, 3)(x)) + shared(x[:, :3, :3])

    assert pairs(lambda x: norm()(conv(2, 3)(x))) == 1
    assert pairs(lambda x: norm()(conv(2, 3, activation="relu")(x))) == 0
    assert pairs(lambda x: norm(axis=1)(conv(2, 3)(x))) == 0
    assert pairs(read_twice) == pairs(also_an_output) == pairs(called_twice) == 0

    class Odd(layers.Conv2D):
        def call(self, x):
            return ops.square(super().call(x))

    class Standardised(layers.Conv2D):
        def convolution_op(self, x, kernel):
            return super().convolution_op(x, kernel - ops.mean(kernel))

    assert pairs(lambda x: norm()(Odd(2, 3)(x))) == pairs(lambda x: norm()(Standardised(2, 3)(x))) == 0


def test_weights_are_an_argument_of_one_compiled_function():
    """Other weights, and channels of zeros, go through the trace of the first call, and change what they should."""
    model = shapes.lively(shapes.residual())
    plan, traces = folding.Folding(model), []
    images = shapes.pixels(model)

    def forward(weights, images):
        traces.append(1)
        return plan.run(weights, images)

    compiled = folding.compiled_by_backend(forward)
    weights = {path: tuple(map(ops.convert_to_tensor, arrays)) for path, arrays in plan.weights().items()}
    assert shapes.close(compiled(weights, images), model(images), 1e-5)
    conv = next(layer for layer in model.layers if isinstance(layer, layers.Conv2D) and layer.strides == (2, 2))
    norm = plan.norms[conv]
    keep = np.array([1, 0, 1, 0], "float32")
    values = [(v, v.numpy() * keep) for v in (conv.kernel, conv.bias, norm.beta, norm.moving_mean)]
    before = model.get_weights()
    changed = {
        path: tuple(map(ops.convert_to_tensor, arrays)) for path, arrays in plan.changed(weights, values).items()
    }
    assert [path for path in weights if changed[path] is not weights[path]]
    zeros = compiled(changed, images)
    assert all(np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True))
    for variable, value in values:
        variable.assign(value)
    expected = model(images)
    assert shapes.close(zeros, expected, 1e-5) and not shapes.close(expected, compiled(weights, images), 1e-3)
    assert len(traces) == 1


@pytest.mark.parametrize(
    "name",
    shapes.quick("residual", "mobile", "narrowing", "dense", of=("residual", "mobile", "narrowing", "dense", "kinds")),
)
def test_removed_channels_are_those_of_the_masked_model(name):
    model = shapes.lively(shapes.SHAPES[name]())
    graph, rng, plan = network.Graph(model), np.random.default_rng(2), folding.Folding(model)
    masks = {key: rng.permutation(group.width) > group.width // 3 for key, group in graph.groups.items()}
    images, expected = shapes.pixels(model), graph.masked(masks)
    values = folding.masked_values(graph, masks)
    found = plan.run(plan.changed(plan.weights(), values), images)
    assert shapes.close(found, expected(images), 1e-5) and not shapes.close(found, model(images), 1e-2)
    assert folding.masked_values(graph, {}) == []


def folds_by_rules(model):
    """What `folds.pairs` gives, found graph by graph with the rules of `rules`."""
    makers_of_channels = (rules.convolution, rules.depthwise, rules.separable, rules.transposed, rules.dense)
    walked = [node for _, node in nodes.walk(model)]
    inner_models = {node.operation: None for node in walked if nodes.is_model(node.operation)}
    calls, found = {}, {}
    for node in walked:
        calls[id(node.operation)] = calls.get(id(node.operation), 0) + 1
    for graph in [nodes.graph_of(inner) for inner in (model, *inner_models)]:
        readers = [id(tensor) for node in nodes.nodes_of(graph) for tensor in node.input_tensors]
        readers += [id(tensor) for tensor in graph.outputs]
        makers = {id(tensor): node.operation for node in nodes.nodes_of(graph) for tensor in node.outputs}
        for node in nodes.nodes_of(graph):
            norm = node.operation
            if not isinstance(norm, layers.BatchNormalization) or node.arguments.kwargs.get("training"):
                continue
            tensor = node.input_tensors[0]
            maker = makers.get(id(tensor))
            if (
                rules.rule_of(maker) in makers_of_channels
                and rules.rule_of(norm) is rules.batch_norm
                and maker.activation in (None, keras.activations.linear)
                and norm.axis % len(tensor.shape) == rules.channel_axis(maker, len(tensor.shape))
                and calls[id(maker)] == calls[id(norm)] == 1 == readers.count(id(tensor))
            ):
                found[norm] = maker
    return found


@pytest.mark.slow  # 50 networks
@pytest.mark.parametrize("name", zoo.NETWORKS)
def test_networks_of_the_zoo_are_computed_as_by_keras(name):
    """Folded, and by the training twin in a step: outputs and moving statistics; what folds is what the graph says."""
    keras.utils.set_random_seed(3)
    model = zoo.lively(zoo.NETWORKS[name]())
    keras.utils.set_random_seed(3)
    other = zoo.lively(zoo.NETWORKS[name]())
    images, limit = zoo.images(model, 8), 0.05 if name == "mixed_precision" else 1e-4
    images = tree.pack_sequence_as(nodes.graph_of(model)._inputs_struct, images)
    pairs = [(folding.FoldedModel(model)(images), other(images, training=False))]
    if name != "augmented":  # its inner model is called with training=False, which Keras forgets in training
        pairs.append((twin.Twin(model)(images, training=True), other(images, training=True)))
    for ours, theirs in pairs:
        for mine, their in zip(tree.flatten(ours), tree.flatten(theirs), strict=True):
            assert shapes.close(mine, their, limit)
    for mine, their in zip(model.weights, other.weights, strict=True):
        assert shapes.close(mine, their, limit), mine.path
    with contextlib.suppress(InputError):  # such as classes of layers without a rule
        assert {norm: layer for layer, norm in network.Graph(model).folds} == folds_by_rules(model)


def test_only_layers_with_changed_variables_are_folded_again():
    model = shapes.lively(shapes.residual())
    plan = folding.Folding(model)
    weights, norm = plan.weights(), next(iter(plan.norms.values()))
    changed = plan.changed(weights, [(norm.gamma, norm.gamma.numpy() * 2)])
    assert [path for path in weights if changed[path] is not weights[path]] == [
        next(path for path, layer in plan.layers.items() if plan.norms.get(layer) is norm)
    ]


def test_a_folded_copy_stays_as_it_is_until_it_is_refolded():
    model, other = shapes.lively(shapes.kinds()), shapes.lively(shapes.kinds(), 5)
    images, twin = shapes.pixels(model), folding.FoldedModel(model)
    before = twin.predict_on_batch(images)
    model.set_weights(other.get_weights())
    np.testing.assert_array_equal(twin.predict_on_batch(images), before)
    twin.refold()
    assert shapes.close(twin.predict_on_batch(images), other.predict_on_batch(images), 1e-5)
    twin.refold(shapes.lively(shapes.kinds(), 0))
    np.testing.assert_array_equal(twin.predict_on_batch(images), before)


def test_a_folded_copy_computes_with_the_weights_that_a_scope_gives_it():
    """As under JAX, where compiled functions have the variables as arguments."""
    model, other = shapes.lively(shapes.kinds()), shapes.lively(shapes.kinds(), 5)
    images, twins = shapes.pixels(model), [folding.FoldedModel(net) for net in (model, other)]
    found, _ = twins[0].stateless_call([], [v.value for v in twins[1].variables], images)
    assert shapes.close(found, other(images), 1e-5)


def test_a_frozen_function_gives_keras_outputs_at_any_batch_size():
    model = shapes.lively(shapes.mobile())
    function, images = folding.freeze(model), shapes.pixels(model)
    for batch in (images, images[:1], images[:3]):
        assert shapes.close(function(batch), model(batch), 1e-5)


@pytest.mark.parametrize("precision", ["mixed_bfloat16", "mixed_float16"])
def test_a_lower_precision_is_near_and_its_outputs_are_float32(precision):
    model = shapes.lively(shapes.sequential())
    images, expected = shapes.pixels(model), model(shapes.pixels(model))
    paths = [path for path, node in nodes.walk(model) if isinstance(node.operation, layers.ReLU)][:2]
    found, *maps = folding.FoldedModel(model, precision, paths)(images)
    assert {keras.backend.standardize_dtype(x.dtype) for x in maps} == {precision.removeprefix("mixed_")}
    assert keras.backend.standardize_dtype(found.dtype) == "float32"
    assert shapes.close(found, expected, 0.1) and not shapes.close(found, expected, 1e-6)


def test_features_are_keras_maps():
    model = shapes.lively(shapes.transfer())
    paths = [path for path, node in nodes.walk(model) if node.operation.name.startswith("add") and "/" in path]
    inner = model.get_layer("base")
    feature = keras.Model(inner.input, inner.get_layer(paths[0].split("/")[1]).output)
    images = shapes.pixels(model)
    found, *maps = folding.FoldedModel(model, features=paths)(images)
    assert shapes.close(found, model(images, training=False), 1e-5)
    assert len(maps) == 1 and shapes.close(maps[0], feature(images), 1e-5)


def test_a_model_without_a_graph_evaluates_itself():
    class Own(keras.Model):
        def call(self, x):
            return x

    model = Own()
    assert folding.evaluator_of(model)() is model
    known = shapes.lively(shapes.dense())
    fresh, images = folding.evaluator_of(known), shapes.pixels(known)
    assert shapes.close(fresh()(images), known(images), 1e-5)
    shapes.lively(known, 9)
    assert shapes.close(fresh()(images), known(images), 1e-5)
