"""Parameters, MACs and sparsity as functions of how many channels of each group stay, without building a model.

The length of an axis is the sum, over the groups on it, of what stays of them, and of what is fixed. The size of a
variable is the product of its axes' lengths, its MACs that size times the positions that it is applied at. So the cost
of a network is a sum of products of linear forms of the widths:

    lengths = widths @ matrix + offset
    cost = sum over terms of coefficient x product of the lengths of its axes

Sparsity is 1 minus such a sum over the convolutions' variables alone, divided by its value for the whole network.
"""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Cost:
    """What a network costs.

    Attributes:
        parameters: those of `model.count_params()`, biases and moving statistics among them.
        macs: multiply-accumulates of convolutions, Dense and recurrent layers, attention and other products of tensors
            for one image; NaN where they aren't known, as where the size of the images is open, or of a kind with a
            kernel that has no entry in `rules` or `work`. A transposed convolution has them at the positions of its
            input.
        sparsity: the share of the convolutions' parameters that is gone, 0 to 1: what `removal.compute_sparsity` says
            of the trimmed network against the whole one, where no filter of either is 0 throughout. 0 of a network with
            neither convolutions nor Dense layers.
    """

    parameters: float
    macs: float
    sparsity: float


class CostModel:
    """The closed form of a network's cost.

    Args:
        reading: a channels.Reading.
        group_at: function(ids) -> int (channels,), the index of each channel's group, -1 for what stays.
        widths: int (groups,), the whole widths.
        total: number of parameters of the whole network.
        convolutions: list of the layers whose parameters sparsity is a share of.
    """

    def __init__(self, reading, group_at, widths, total, convolutions):
        self._group_at, self._widths = group_at, np.maximum(widths, 1)
        self._axes, self._matrix, self._offset, terms = {}, [], [], {}
        chosen, self._whole = set(map(id, convolutions)), sum(layer.count_params() for layer in convolutions)
        rest = np.array([total, 0, self._whole])  # what follows no channels, as the weights of a kind without a rule
        for wiring in reading.wirings.values():
            weights = getattr(wiring.layer, "weights", ())
            for at, axes in wiring.variables.items():
                size, lengths = 1, []
                for length, ids in zip(weights[at].shape, axes.ids, strict=True):
                    if ids is None:
                        size *= length
                    else:
                        lengths.append(self._axis(ids))
                ours = id(wiring.layer) in chosen
                rest -= int(np.prod(weights[at].shape)) * np.array([1, 0, ours])
                self._add(terms, lengths, [size, size * axes.positions, size * ours])
            for macs, ids in wiring.work:
                self._add(terms, [] if ids is None else [self._axis(ids)], [0, macs, 0])
        self._add(terms, [], rest)
        self._matrix = np.stack(self._matrix, 1) if self._matrix else np.zeros((len(widths), 0))
        self._offset = np.array(self._offset)
        most, none = max(len(key) for key in terms), len(self._offset)  # `none`: an axis of length 1
        self._terms = np.array([[*key, *[none] * (most - len(key))] for key in terms], int).reshape(len(terms), most)
        numbers = np.array(list(terms.values()), float)
        self._coefficients, self._of_convolutions = np.ascontiguousarray(numbers[:, :2]), numbers[:, 2]

    def _axis(self, ids):
        """Index of the linear form of an axis's length."""
        groups = self._group_at(ids)
        counts = np.bincount(groups[groups >= 0], minlength=len(self._widths))[: len(self._widths)]
        row, fixed = counts / self._widths, float((groups < 0).sum())
        key = (row.tobytes(), fixed)
        if key not in self._axes:
            self._axes[key] = len(self._offset)
            self._matrix.append(row)
            self._offset.append(fixed)
        return self._axes[key]

    @staticmethod
    def _add(terms, lengths, numbers):
        """Adds parameters, MACs and convolutions' parameters to the term of some axes."""
        key = tuple(sorted(lengths))
        terms[key] = terms.get(key, 0) + np.asarray(numbers, float)

    def __call__(self, table):
        """Costs of many networks.

        Args:
            table: (n, groups), how many positions of each group's mask stay.

        Returns:
            (n, 2) float64, parameters and MACs.
        """
        return self._products(table) @ self._coefficients

    def sparsity(self, table):
        """Sparsities of many networks, (n,) float64, 0 to 1; see `Cost`. The table is that of a call."""
        left = self._products(table) @ self._of_convolutions
        return 1 - left / self._whole if self._whole else np.zeros(len(left))

    def _products(self, table):
        """(n, terms): for each term the product of the lengths of its axes."""
        lengths = np.asarray(table, np.float64) @ self._matrix + self._offset
        lengths = np.concatenate([lengths, np.ones((len(lengths), 1))], 1)
        return lengths[:, self._terms].prod(-1)

    def macs_by_term(self, table):
        """MACs of many networks, a column a term: those of all layers between the same groups of channels.

        Args:
            table: as of a call.

        Returns:
            (n, terms) float64, whose sum over a row is the network's MACs; terms without MACs are left out.
        """
        macs = self._coefficients[:, 1]
        return (self._products(table) * macs)[:, macs != 0]
