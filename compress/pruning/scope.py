"""Which groups of a network's channels may lose some, and what that leaves of its cost."""

import dataclasses
import functools
import math

import keras
import numpy as np

from compress.graph import nodes
from compress.graph.network import Graph
from compress.pruning import masks

SCOPES = ("inner", "all")


@dataclasses.dataclass(frozen=True)
class Scope:
    """A network and the groups of it that pruning looks at.

    Attributes:
        graph: its Graph.
        names: of the groups, in the graph's order.
        kind: 'inner' or 'all', see `names_of`.
    """

    graph: Graph
    names: tuple
    kind: str = "inner"

    @classmethod
    def of(cls, model, kind="inner"):
        """The scope of a keras.Model or of its Graph; a Scope as it is."""
        if isinstance(model, Scope):
            return model
        graph = model if isinstance(model, Graph) else Graph(model)
        return cls(graph, names_of(graph, kind), kind)

    @property
    def groups(self):
        """{name: Group} of those in it."""
        return {name: self.graph.groups[name] for name in self.names}

    @property
    def model(self):
        """The keras.Model."""
        return self.graph.model

    def only(self, names):
        """The scope of those of its groups that are among some names."""
        return dataclasses.replace(self, names=tuple(name for name in self.names if name in set(names)))

    def permitted(self, round_to=1):
        """How widths are rounded: ({name: multiple}, {name: least}), both in positions of the group's mask.

        A position may stand for several channels, as of a grouped convolution. `round_to` and `masks.FLOOR` count
        channels.
        """
        steps = {name: group.step for name, group in self.groups.items()}
        return (
            {name: round_to // math.gcd(round_to, step) for name, step in steps.items()},
            {name: -(-masks.FLOOR // step) for name, step in steps.items()},
        )

    def least(self, round_to=1):
        """{name: the fewest positions that a group may keep}."""
        multiple, floor = self.permitted(round_to)
        return {name: masks.rounded(0, group.width, multiple[name], floor[name]) for name, group in self.groups.items()}

    @functools.cached_property
    def _places(self):
        return [list(self.graph.groups).index(name) for name in self.names]

    def rows(self, table):
        """(n, all groups) int: positions of every group of networks; table: (n, len(names)) int, those of the scope."""
        rows = np.repeat([[group.width for group in self.graph.groups.values()]], len(table), 0)
        rows[:, self._places] = table
        return rows

    def costs(self, table):
        """(n, 2) parameters and MACs of networks; table: (n, len(names)) int, positions that stay."""
        return self.graph.costs(self.rows(table))


def names_of(graph, kind):
    """Names of the groups that may lose channels.

    Args:
        graph: a Graph.
        kind: 'inner' for channels that no addition joins and that aren't made straight from the image; 'all' also for
            those, as of residual streams and stems. Neither takes groups behind a LayerNormalization, where a trimmed
            network isn't the masked one. 'inner' leaves out hidden Dense layers behind a global pooling: they are a new
            classifier's, and cost next to nothing.

    Returns:
        Tuple in the graph's order.
    """
    head = set() if kind == "all" else _behind_pooling(graph)
    return tuple(
        name
        for name, group in graph.groups.items()
        if group.exact and (kind == "all" or (group.inner and not set(group.makers) <= head))
    )


def _behind_pooling(graph):
    """Paths of Dense layers behind the last map of a network, where a global pooling made it a vector."""
    walk = [(path, node) for path, node in nodes.walk(graph.model) if not nodes.is_model(node.operation)]
    maps = [place for place, (_, node) in enumerate(walk) if len(node.outputs[0].shape) > 2]
    tail = walk[maps[-1] + 1 :] if maps else walk
    # Flatten keeps every position apart: the Dense layers behind it, as VGG's, are most of such a network.
    flat = not maps or any(isinstance(node.operation, (keras.layers.Flatten, keras.layers.Reshape)) for _, node in tail)
    return set() if flat else {path for path, node in tail if isinstance(node.operation, keras.layers.Dense)}
