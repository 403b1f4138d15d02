"""latency.py against latencies that are made up by a known rule, and against a file in its runtime."""

import itertools

import keras
import numpy as np
import pytest

from compress.graph.network import Graph
from compress.pruning import latency, masks
from compress.pruning.scope import Scope

WIDTHS = range(4, 17, 4)


def network():
    """A convolution, a depthwise one and two more, 16 channels each: three groups."""
    image = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(16, 3, padding="same", activation="relu", name="first")(image)
    x = keras.layers.DepthwiseConv2D(3, padding="same", name="depthwise")(x)
    x = keras.layers.Conv2D(16, 3, padding="same", activation="relu", name="second")(x)
    x = keras.layers.Conv2D(16, 1, activation="relu", name="third")(x)
    return keras.Model(image, keras.layers.Dense(5, name="logits")(keras.layers.GlobalAveragePooling2D()(x)))


def milliseconds(model):
    """A runtime that takes ten times as long for a MAC of the depthwise convolution, and 0.2 ms for nothing."""
    width = {layer.name: layer.output.shape[-1] for layer in model.layers}
    first, second, third = (width[name] for name in ("first", "second", "third"))
    macs = 64 * np.array([27 * first, 10 * 9 * first, 9 * first * second, second * third, third * 5 / 64])
    return 0.2 + macs.sum() / 1e5


def exact(model, times):
    """So many timings of a runtime whose times never differ."""
    return [milliseconds(model)] * times


def exhaustive(cost, limit):
    """Of all widths within a limit those with the largest product."""
    sets = (
        dict(zip(("first", "second", "third"), widths, strict=True)) for widths in itertools.product(WIDTHS, repeat=3)
    )
    within = [widths for widths in sets if cost(widths) <= limit]
    if not within:
        raise masks.OutOfReach
    return max(within, key=lambda widths: np.prod(list(widths.values()), dtype=float))


@pytest.fixture
def model():
    graph = Graph(network())
    found = latency.LatencyModel(graph, exact)
    found.sample(Scope.of(graph, "all"), round_to=4)
    return found


def test_macs_by_term_add_up_to_the_networks_macs():
    graph = Graph(network())
    table = np.random.default_rng(0).integers(1, 17, (20, len(graph.groups)))
    np.testing.assert_allclose(graph.macs_by_term(table).sum(1), graph.costs(table)[:, 1], rtol=1e-12)


def test_latencies_of_other_networks_are_predicted(model):
    for first, second, third in itertools.product(WIDTHS, repeat=3):
        widths = {"first": first, "second": second, "third": third}
        keep = {name: np.arange(16) < width for name, width in widths.items()}
        assert model.predict(widths) == pytest.approx(milliseconds(model.graph.trimmed(keep)), rel=0.08)


@pytest.mark.parametrize("share", [0.4, *(pytest.param(share, marks=pytest.mark.slow) for share in (0.6, 0.9))])
def test_what_is_chosen_was_timed_within_the_limit_and_is_near_it(model, share):
    limit = share * model.seen[0][1]
    widths, found = model.choose(lambda asked: exhaustive(model.predict, asked), limit)
    masks = {name: np.arange(16) < width for name, width in widths.items()}
    assert found == pytest.approx(milliseconds(model.graph.trimmed(masks))) and found <= limit

    def true(widths):
        return milliseconds(model.graph.trimmed({name: np.arange(16) < n for name, n in widths.items()}))

    best = exhaustive(true, limit)
    assert np.prod(list(widths.values())) >= 0.75 * np.prod(list(best.values()))


@pytest.mark.parametrize("share", [0.4, 0.6])
def test_a_network_that_was_fast_once_by_chance_is_not_chosen(share):
    """Each network's first timing, but for the whole one's, is a third too fast; the others are right."""
    graph, known = Graph(network()), set()

    def lucky(model, times):
        found = np.array(exact(model, times))
        first = model.count_params() not in known and model.count_params() != graph.model.count_params()
        known.add(model.count_params())
        return [*(found * [2 / 3 if first and not i else 1 for i in range(times)])]

    model = latency.LatencyModel(graph, lucky)
    model.sample(Scope.of(graph, "all"), round_to=4)
    limit = share * model.whole
    assert model.whole == pytest.approx(milliseconds(graph.model))
    widths, found = model.choose(lambda asked: exhaustive(model.predict, asked), limit)
    masks = {name: np.arange(16) < width for name, width in widths.items()}
    assert milliseconds(graph.trimmed(masks)) == pytest.approx(found) and found <= limit
    assert model.measured(widths) == found and len(model.timings(widths)) == latency.SURE


def test_a_limit_that_no_network_keeps_is_refused(model):
    with pytest.raises(ValueError, match="no network within 0.1 ms"):
        model.choose(lambda asked: exhaustive(model.predict, asked), 0.1)


@pytest.mark.slow
def test_a_runtime_times_networks_beside_a_reference():
    pytest.importorskip("ai_edge_litert")

    def chain(width):  # 85 million MACs of 96 channels, half a million of 6
        image = keras.Input((32, 32, 3))
        x = keras.layers.Conv2D(width, 3, padding="same")(image)
        x = keras.layers.Conv2D(width, 3, padding="same")(x)
        return keras.Model(image, keras.layers.Dense(5)(keras.layers.GlobalAveragePooling2D()(x)))

    wide = chain(96)
    timer = latency.Timer("litert", wide)
    assert max(timer(chain(6), 2)) < min(timer(wide, 2)) / 3
    # where the reference took longer before, latencies of then are meant
    again = latency.Timer("litert", wide, reference_ms=1000.0)
    assert min(again.reference_ms) == pytest.approx(1000) and again(wide)[0] > 200
