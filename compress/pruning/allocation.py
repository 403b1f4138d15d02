"""How many channels each layer may lose: curves of loss against removed channels, and the search that spends a budget.

A removed channel of an inner convolution is a 0 behind its ReLU, so the curves need no smaller network: zeros in the
folded kernel and bias do it, in one compiled function for all layers. Batch-norm keeps the statistics of the whole
network meanwhile, as in `surgery.trim_model`: it is not recalibrated.
"""

import numpy as np
from keras import ops

from compress.cli import configs
from compress.engine import folded
from compress.graph import resnet
from compress.pruning import masks

SHARES = (0.1, 0.25, 0.5, 0.75, 0.9)  # of a layer's channels, removed; the search adds the floor as the last one


def mask_folded(weights, layer, keep):
    """Folded weights with zeros for the removed channels of one inner layer; the rest is shared, not copied.

    Args:
        weights: from `folded.fold`, or the same cast to another dtype.
        layer: such as 'conv2_block1_1_conv'.
        keep: (channels,) bool, True = keep.
    """
    name = layer.removesuffix("_conv")
    kernel, bias = weights[name]
    keep = ops.cast(np.asarray(keep), bias.dtype)
    # a convolution on a small map is a matrix product (`fast.taps_matrix`), whose columns are channels of each position
    columns = ops.tile(keep, kernel.shape[-1] // bias.shape[0])
    return weights | {name: (kernel * columns, bias * keep)}


def measure_curves(model, scores, split, shares=SHARES, config=None, progress=iter):
    """Loss and accuracy with a share of one layer's channels removed, all other layers whole: a curve a layer.

    Li et al. 2017, Pruning Filters for Efficient ConvNets, arXiv 1608.08710, section 3.2, for any criterion.

    Args:
        model: a ResNet of `resnet.build_resnet`.
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
    architecture, evaluator = resnet.architecture_of(model), folded.FoldedResNet(model, config.precision)
    # Tensors, as `mask_folded` gives: a variable among them would be another signature, and a new trace, in each layer.
    weights = {name: tuple(map(ops.convert_to_tensor, parts)) for name, parts in evaluator.folded.items()}
    compiled = folded.compiled_by_backend(_sums(architecture, evaluator.arithmetic))
    batches = [
        tuple(ops.convert_to_tensor(part[start : start + config.batch_size]) for part in split)
        for start in range(0, len(images), config.batch_size)
    ]

    # What there is to measure: the whole network, and each layer at each width below its own, once.
    kept = {
        layer: [
            masks.rounded(len(values) - round(len(values) * share), len(values), config.round_to) for share in shares
        ]
        for layer, values in scores.items()
    }
    points = [None, *sorted({(layer, n) for layer, counts in kept.items() for n in counts if n < len(scores[layer])})]
    found = {}
    for step in progress(range(0, len(points) * len(images), len(images))):
        point, changed = points[step // len(images)], weights
        if point:
            layer, n = point
            changed = mask_folded(weights, layer, masks.least_idle(scores[layer], n))
        total = np.sum([[float(value) for value in compiled(changed, *batch)] for batch in batches], axis=0)
        found[point] = dict(zip(("loss", "acc"), (total / len(images)).tolist(), strict=True))
    whole = found[None]
    return whole, {
        layer: {"kept": counts} | {key: [found.get((layer, n), whole)[key] for n in counts] for key in ("loss", "acc")}
        for layer, counts in kept.items()
    }


def _sums(architecture, dtype):
    """function(weights, images, labels) -> (summed cross-entropy, number of right answers)."""

    def sums(weights, images, labels):
        logits = folded.run_folded(weights, images, architecture, dtype)[0]
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


def allocate(whole, curves, channels, cost, limit, round_to=1, floor=masks.FLOOR):
    """Channels that each layer keeps so that the predicted rise of the loss, summed over layers, is least in a budget.

    One multiplier trades loss for cost: minimise rise + multiplier x cost, and bisect the multiplier until the budget
    is met (Everett 1963, Generalized Lagrange Multiplier Method, Operations Research 11(3); as for the bits of
    quantisers Shoham and Gersho 1988, IEEE Transactions on ASSP 36(9)). The cost couples the two inner layers of a
    block, whose widths are multiplied, and no two blocks, so each block is minimised over all its pairs of widths.
    What the last jump of the multiplier left unspent goes back a step at a time, where the loss falls most a cost; or
    first to one block after the other, as its best pair of widths that this pays, if the loss is less in the end.

    Args:
        whole: the whole network's loss.
        curves: {layer: dict of 'kept' and 'loss'} from `measure_curves`, of both inner layers of each block.
        channels: {layer: channels that it has}.
        cost: function({layer: channels kept}) -> parameters or MACs of the network.
        limit: the cost allowed.
        round_to: channels kept are rounded up to a multiple of this.
        floor: channels that every layer keeps at least.

    Returns:
        {layer: channels kept}; no layer could keep one step more within the limit.

    Raises:
        ValueError: the budget isn't met even with every layer at its floor.
    """
    widths = {
        name: np.unique([masks.rounded(k, n, round_to, floor) for k in range(1, n + 1)]) for name, n in channels.items()
    }
    rise = {name: predicted_rise(channels[name], whole, curves[name], widths[name]) for name in channels}
    blocks = [(name, name.replace("_1_conv", "_2_conv")) for name in channels if name.endswith("_1_conv")]
    tables = {
        pair: (rise[pair[0]][:, None] + rise[pair[1]], _cost_table(pair, channels, cost, widths)) for pair in blocks
    }

    def left(places):
        return {name: int(widths[name][place]) for name, place in places.items()}

    # The narrowest network has to fit; then a multiplier is doubled until its network does, and bisected down from
    # there: the smaller the multiplier, the less loss, the higher the cost.
    if cost(left(dict.fromkeys(channels, 0))) > limit:
        raise ValueError("the budget is out of reach: it isn't met with every layer at its floor")
    low, high = 0.0, 1 / cost(channels)  # a nat for the whole network; doubled until it is enough
    while cost(left(_least(tables, high))) > limit:
        low, high = high, 2 * high
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (low, middle) if cost(left(_least(tables, middle))) <= limit else (middle, high)
    # Widths jump with the multiplier, so a part of the budget is left over: it is spent in two ways, the better counts.
    least = _least(tables, high)
    starts = least, _exchanged(least, tables, limit - cost(left(least)))
    ends = [_spend(places, rise, lambda places: cost(left(places)), limit) for places in starts]
    return left(min(ends, key=lambda places: sum(rise[name][place] for name, place in places.items())))


def _cost_table(pair, channels, cost, widths):
    """Cost of the network for every pair of widths of a block, less that without the block's inner channels.

    The cost is a + b m + c n + d m n in the two widths m and n, so four costs determine all.
    """
    none, first, second, both = (
        cost(channels | dict(zip(pair, ends, strict=True))) for ends in ((0, 0), (1, 0), (0, 1), (1, 1))
    )
    m, n = widths[pair[0]][:, None].astype(float), widths[pair[1]].astype(float)
    return (first - none) * m + (second - none) * n + (both - first - second + none) * m * n


def _least(tables, multiplier):
    """Places of the pair of widths of each block with the least loss + multiplier x cost."""
    places = {}
    for pair, (loss, price) in tables.items():
        best = np.unravel_index(np.argmin(loss + multiplier * price), loss.shape)
        places |= dict(zip(pair, map(int, best), strict=True))
    return places


def _spend(places, rise, cost, limit):
    """Widens layers, a step at a time, while the budget allows: where the loss falls most a cost, first."""
    spent = cost(places)
    while True:
        best = None
        for name, place in places.items():
            if place + 1 < len(rise[name]):
                price = cost(places | {name: place + 1})
                gain = (rise[name][place] - rise[name][place + 1]) / (price - spent)
                if price <= limit and (best is None or gain > best[0]):
                    best = gain, name, price
        if best is None:
            return places
        places, spent = places | {best[1]: places[best[1]] + 1}, best[2]


def _exchanged(places, tables, unspent):
    """Gives one block after the other its best pair of widths within its cost and what is unspent: most fall first.

    Single steps can't narrow one layer of a block to widen the other by more; for a lone block this is the best choice.
    """
    while True:
        best = None
        for pair, (loss, price) in tables.items():
            now = tuple(places[name] for name in pair)
            allowed = np.where(price <= price[now] + unspent, loss, np.inf)
            new = np.unravel_index(np.argmin(allowed), loss.shape)
            fall = loss[now] - loss[new]
            if fall > 0 and (best is None or fall > best[0]):
                best = fall, dict(zip(pair, map(int, new), strict=True)), price[new] - price[now]
        if best is None:
            return places
        places, unspent = places | best[1], unspent - best[2]
