"""search.py against trying every network, and against what an earlier search found on ResNets."""

import itertools

import keras
import numpy as np
import pytest
import resnets
from conftest import narrow_widths

from compress.graph.network import Graph
from compress.pruning import allocation, masks, scope, search

L = keras.layers


def chain():
    """Four convolutions, each reading the one before."""
    image = x = keras.Input((6, 6, 3))
    for name, filters in zip("abcd", (8, 12, 10, 6), strict=True):
        x = L.Conv2D(filters, 3, padding="same", activation="relu", name=name)(x)
    return keras.Model(image, L.Dense(4)(L.GlobalAveragePooling2D()(x)))


def dense_block():
    """Every layer reads all layers before it."""
    image = x = keras.Input((6, 6, 3))
    for name in "abcd":
        made = L.Conv2D(8, 3, padding="same", activation="relu", name=name)(x)
        x = L.Concatenate()([x, made])
    return keras.Model(image, L.Dense(4)(L.GlobalAveragePooling2D()(x)))


def depthwise():
    """Two inverted bottlenecks, whose expansions depend on no other group."""
    image = keras.Input((6, 6, 3))
    x = L.Conv2D(6, 3, padding="same")(image)
    for name, filters in (("a", 12), ("b", 16)):
        y = L.DepthwiseConv2D(3, padding="same")(L.Conv2D(filters, 1, activation="relu", name=name)(x))
        x = L.Add()([x, L.Conv2D(6, 1)(y)])
    return keras.Model(image, L.Dense(4)(L.GlobalAveragePooling2D()(x)))


def problem(net, names, seed, which, choices=5):
    """(widths, rise, costs, names of all groups) of some groups of a network, with curves that fall at random."""
    graph, rng = Graph(net), np.random.default_rng(seed)
    names = [name for name in graph.groups if name in names]
    widths, rise = {}, {}
    for name in names:
        widths[name] = np.unique(np.linspace(1, graph.groups[name].width, choices).astype(int))
        steps = rng.exponential(1, len(widths[name]) - 1) * rng.integers(0, 4, len(widths[name]) - 1)
        rise[name] = np.append(np.cumsum(steps)[::-1], 0.0)
    whole, at = np.array([group.width for group in graph.groups.values()]), [*map(list(graph.groups).index, names)]

    def costs(table):
        rows = np.repeat([whole], len(table), 0)
        rows[:, at] = table
        return graph.costs(rows)[:, which]

    return widths, rise, costs


def against_all(network, seed):
    """Of what the search finds within several budgets, the loss over that of the best of all networks."""
    widths, rise, costs = problem(network, "abcd", seed, seed % 2)
    every = np.array(list(itertools.product(*(range(len(choice)) for choice in widths.values()))))
    table = np.stack([choice[every[:, i]] for i, choice in enumerate(widths.values())], 1)
    price, ratios = costs(table), []
    losses = sum(values[every[:, i]] for i, values in enumerate(rise.values()))
    found = search.Search(widths, rise, costs)
    for share in (0.1, 0.2, 0.4, 0.6, 0.85):
        limit = price.min() + share * (price.max() - price.min())
        left = found.within(limit)
        (spent,) = costs(np.array([list(left.values())]))
        loss = sum(rise[name][list(widths[name]).index(width)] for name, width in left.items())
        assert spent <= limit
        ratios.append((loss + 1e-9) / (losses[price <= limit].min() + 1e-9))
        for name, width in left.items():  # nothing is left over
            wider = widths[name][widths[name] > width]
            if len(wider):
                assert costs(np.array([list((left | {name: wider[0]}).values())]))[0] > limit
    return ratios


@pytest.mark.parametrize("network", [chain, dense_block, depthwise])
def test_of_few_networks_it_finds_the_best(network):
    net = network()
    for seed in range(60):
        assert max(against_all(net, seed)) <= 1 + 1e-9


@pytest.mark.parametrize("network", [chain, dense_block, depthwise])
def test_of_many_networks_it_finds_one_near_the_best(network, monkeypatch):
    monkeypatch.setattr(search, "ALL", 1)
    net = network()
    ratios = np.concatenate([against_all(net, seed) for seed in range(6)])
    assert ratios.min() >= 1 - 1e-9 and ratios.max() <= 1.01


def test_a_budget_below_the_narrowest_network_is_refused():
    widths, rise, costs = problem(chain(), "abcd", 0, 1)
    with pytest.raises(ValueError, match="out of reach"):
        search.Search(widths, rise, costs).within(1)


EARLIER = [
    [
        [6, 12, 12, 6, 12, 7, 12, 6, 12, 12],
        [6, 12, 12, 11, 12, 11, 12, 6, 12, 12],
        [12, 12, 12, 12, 12, 12, 12, 7, 12, 12],
    ],
    [
        [12, 6, 4, 12, 12, 12, 12, 12, 12, 12],
        [12, 6, 9, 12, 12, 12, 12, 12, 12, 12],
        [12, 9, 12, 12, 12, 12, 12, 12, 12, 12],
    ],
]


@pytest.mark.parametrize("which", [0, 1])
def test_on_a_resnet_it_finds_what_the_search_of_earlier_versions_found(which):
    whole, rng = narrow_widths(stream=16, inner=12), np.random.default_rng(which)
    target, curves = scope.Scope.of(resnets.build_resnet(widths=whole)), {}
    for name in target.names:
        kept = [masks.rounded(12 - round(12 * share), 12) for share in (*allocation.SHARES, 1)]
        curves[name] = {"kept": kept, "loss": list(2 + np.cumsum(rng.exponential(0.05, len(kept))))}
    for share, wanted in zip((0.75, 0.85, 0.95), EARLIER[which], strict=True):
        limit = share * resnets.cost_of(whole, 10, (32, 32, 3))[which]
        found = allocation.allocate(target, lambda table: target.costs(table)[:, which], 2.0, curves, limit)
        assert list(found.values()) == wanted
        assert resnets.cost_of(whole | found, 10, (32, 32, 3))[which] <= limit
