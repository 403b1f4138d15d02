"""How many channels each group may lose: curves of loss against removed channels, and the search that spends a budget.

The curves need no smaller network: a removed channel is zeros in the folded weights of the layers that make and read
it, in one compiled function for all groups. Batch-norm keeps the statistics of the whole network meanwhile, as in
`removal.trim_model`: it is not recalibrated. What is called a layer below is a group of the graph.
"""

import numpy as np
from keras import ops

from compress.cli import configs
from compress.engine import devices, folding
from compress.pruning import masks, search
from compress.pruning.scope import Scope

SHARES = (0.1, 0.25, 0.5, 0.75, 0.9)  # of a layer's channels, removed; the search adds the floor as the last one


class _Batches:
    """The batches of a split as tensors, which are kept: each is asked for once a point of the curves.

    Those of a `lazily.Lazy`, which memory doesn't hold, are made each time.

    Args:
        split: (images, labels).
        size: images a batch.
    """

    def __init__(self, split, size):
        count = len(split[0])
        self.split, self.kept = split, None
        self.parts = [p for start in range(0, count, size) for p in devices.parts(start, min(start + size, count))]

    def __iter__(self):
        if self.kept is None and isinstance(self.split[0], np.ndarray):
            self.kept = [*self._made()]
        return iter(self.kept or self._made())

    def _made(self):
        return (tuple(devices.rows(array, part) for array in self.split) for part in self.parts)


def measure_curves(model, scores, split, shares=SHARES, config=None, progress=iter):
    """Loss and accuracy with a share of one layer's channels removed, all other layers whole: a curve a layer.

    Li et al. 2017, Pruning Filters for Efficient ConvNets, arXiv 1608.08710, section 3.2, for any criterion.

    Args:
        model: a keras.Model of logits, its Graph, or a Scope.
        scores: {layer: (channels,)}, high = idle: the first to go.
        split: (images (N, h, w, 3), RGB 0 to 255; labels (N,) integers) to measure on.
        shares: of a layer's channels to remove, 0 to below 1; 1 stands for all but masks.FLOOR.
        config: a configs.CriterionConfig, whose round_to, batch_size and precision count; None for its defaults.
        progress: wraps the range of all images of all passes.

    Returns:
        (dict of the whole network's 'loss' (nats) and 'acc' (0 to 1), {layer: dict of 'kept', 'loss' and 'acc', lists
        with one item a share}).

    Raises:
        ValueError: no images.
    """
    images, config = split[0], config or configs.CriterionConfig()
    if len(images) == 0:
        raise ValueError("measure_curves needs images. Received: none")
    scope = Scope.of(model)
    plan, (multiple, floor) = folding.Folding(scope.model, config.precision), scope.permitted(config.round_to)
    # Tensors, all of them: an array or a variable among them would be another signature, and a new trace.
    weights = {path: tuple(map(devices.everywhere, parts)) for path, parts in plan.weights().items()}
    compiled = folding.compiled_by_backend(_sums(plan))
    batches = _Batches(split, config.batch_size)

    # What there is to measure: the whole network, and each layer at each width below its own, once.
    kept = {
        layer: [
            masks.rounded(len(values) - round(len(values) * share), len(values), multiple[layer], floor[layer])
            for share in shares
        ]
        for layer, values in scores.items()
    }
    points = [None, *sorted({(layer, n) for layer, counts in kept.items() for n in counts if n < len(scores[layer])})]
    found = {}
    for step in progress(range(0, len(points) * len(images), len(images))):
        point, changed = points[step // len(images)], weights
        if point:
            layer, n = point
            values = folding.masked_values(scope.graph, {layer: masks.least_idle(scores[layer], n)})
            changed = {
                path: parts if parts is weights[path] else tuple(map(devices.everywhere, parts))
                for path, parts in plan.changed(weights, values).items()
            }
        total = np.sum([[float(value) for value in compiled(changed, *batch)] for batch in batches], axis=0)
        found[point] = dict(zip(("loss", "acc"), (total / len(images)).tolist(), strict=True))
    whole = found[None]
    return whole, {
        layer: {"kept": counts} | {key: [found.get((layer, n), whole)[key] for n in counts] for key in ("loss", "acc")}
        for layer, counts in kept.items()
    }


def _sums(plan):
    """function(weights, images, labels) -> (summed cross-entropy, number of right answers); plan: a Folding."""

    def sums(weights, images, labels):
        logits = ops.cast(plan.run(weights, images), "float32")
        chosen = ops.take_along_axis(logits, labels[:, None], axis=1)[:, 0]
        return (
            ops.sum(ops.logsumexp(logits, axis=1) - chosen),
            ops.sum(ops.cast(ops.equal(ops.argmax(logits, axis=1), labels), "int32")),
        )

    return sums


def predicted_rise(channels, whole, curve, widths):
    """What a layer's loss is predicted to rise by at each of several widths, from its measured points.

    The points are made monotone, by the highest rise up to each, since noise alone lets a loss fall as channels go;
    between them it is linear.

    Args:
        channels: that the layer has.
        whole: the whole network's loss.
        curve: dict of 'kept' and 'loss', lists.
        widths: (n,) channels kept.

    Returns:
        (n,) float64, at least 0, falling with the width; 0 at `channels`.
    """
    points = {channels: 0.0} | {
        n: max(0.0, loss - whole) for n, loss in zip(curve["kept"], curve["loss"], strict=True) if n < channels
    }
    kept = np.array(sorted(points, reverse=True))
    rise = np.maximum.accumulate([points[n] for n in kept])
    return np.interp(widths, kept[::-1], rise[::-1])


def allocate(scope, costs, whole, curves, limit, round_to=1):
    """Channels that each layer keeps so that the predicted rise of the loss, summed over layers, is least in a budget.

    Args:
        scope: a Scope.
        costs: function((n, groups of the scope) int table of widths) -> (n,) costs, as `Budget.costs` gives; each a sum
            of products of widths.
        whole: the whole network's loss.
        curves: {layer: dict of 'kept' and 'loss'} from `measure_curves`, of every layer of the scope.
        limit: the cost allowed.
        round_to: channels kept are rounded up to a multiple of this.

    Returns:
        {layer: channels kept}; no layer could keep one step more within the limit. See `search`.

    Raises:
        ValueError: the budget isn't met even with every layer at its floor.
    """
    multiple, floor = scope.permitted(round_to)
    widths = {
        name: np.unique([masks.rounded(k, group.width, multiple[name], floor[name]) for k in range(1, group.width + 1)])
        for name, group in scope.groups.items()
    }
    rise = {
        name: predicted_rise(group.width, whole, curves[name], widths[name]) for name, group in scope.groups.items()
    }
    return search.Search(widths, rise, costs).within(limit)
