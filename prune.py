"""Scores into masks, masks into smaller models. Pure: no files, no prints.

A mask is {group: (channels,) bool, True = keep}. Groups are the names of `model.full_widths`: an inner convolution
('conv2_block1_1_conv'), the stem ('conv1_conv') or a stage's stream ('conv3_stream'), whose channels run through
every block of the stage. A group that the mask leaves out is kept whole.
"""

import numpy as np
from keras import ops

import fast
import folded
import model as resnet
from criteria import compute_apoz, compute_group_scores, compute_scores  # noqa: F401 (public names of this module)

FLOOR = 4  # channels that a layer keeps whatever its scores say


def least_idle(scores, keep):
    """A mask of one layer, (channels,) bool, True for the `keep` lowest scores; of equal ones the first."""
    mask = np.zeros(len(scores), bool)
    mask[np.argsort(scores, kind="stable")[:keep]] = True
    return mask


def rounded(keep, channels, round_to=1, floor=FLOOR):
    """Channels that a layer of `channels` keeps: `keep`, raised to the floor and up to a multiple of `round_to`."""
    keep = max(keep, floor, 1)
    return min(channels, -(-keep // round_to) * round_to)


def _checked(scores, round_to, floor):
    """The scores as float arrays, after a look at the arguments that both rules share."""
    if round_to < 1 or floor < 0:
        raise ValueError(f"round_to must be at least 1 and floor at least 0. Received: {round_to}, {floor}")
    scores = {layer: np.asarray(values, np.float64) for layer, values in scores.items()}
    for layer, values in scores.items():
        if not np.isfinite(values).all():
            raise ValueError(f"scores must be finite. Received: NaN or infinity for {layer}")
    return scores


def create_mask(scores, prune_ratio=None, round_to=1, floor=FLOOR):
    """A mask by a rule within each layer.

    Without `prune_ratio`, channels whose score is above mean + 1 standard deviation of their layer go (Hu et al.
    2016, arXiv 1607.03250, section 3.2); strictly above, since equal scores would else all go. A trimmed model
    holds only surviving channels, so mean and deviation are theirs.

    Args:
        scores: {layer: (channels,)}, high = idle, from `compute_apoz` or `compute_scores`.
        prune_ratio: share of each layer's channels to remove, from 0 to below 1; None for the default rule.
        round_to: channels kept are rounded up to a multiple of this.
        floor: channels that every layer keeps at least.

    Returns:
        {layer: (channels,) bool, True = keep}.

    Raises:
        ValueError: a score isn't finite, or prune_ratio, round_to or floor is out of range.
    """
    scores = _checked(scores, round_to, floor)
    if prune_ratio is not None and not 0 <= prune_ratio < 1:
        raise ValueError(f"prune_ratio must be from 0 to below 1. Received: {prune_ratio}")
    mask = {}
    for layer, values in scores.items():
        if prune_ratio is None:
            # a score equal to the limit stays, also where rounding lifts it a little
            limit = values.mean() + values.std() + 1e-12 * np.abs(values).max()
            keep = int((values <= limit).sum())
        else:
            keep = len(values) - round(len(values) * prune_ratio)
        mask[layer] = least_idle(values, rounded(keep, len(values), round_to, floor))
    return mask


def create_global_mask(scores, fits, round_to=1, floor=FLOOR):
    """A mask by one threshold over all layers: the smallest removal that meets a budget.

    Scores are standardised within their layer first, (score - mean) / std, since raw scores of two layers don't
    compare (the 'gaussian' normaliser of Torch-Pruning; Fang et al. 2023, arXiv 2301.12900).

    Args:
        scores: {layer: (channels,)}, high = idle.
        fits: function({layer: channels kept}) -> bool, True once the budget is met; it must stay True as channels go.
        round_to: channels kept are rounded up to a multiple of this.
        floor: channels that every layer keeps at least.

    Returns:
        {layer: (channels,) bool, True = keep}.

    Raises:
        ValueError: the budget isn't met even with every layer at its floor, a score isn't finite, or round_to or
            floor is out of range.
    """
    scores, ranked = _checked(scores, round_to, floor), []
    for layer, values in scores.items():
        std = values.std()
        flat = std <= 1e-9 * np.abs(values).max()  # equal but for rounding, which must not be standardised
        standard = np.zeros(len(values)) if flat else (values - values.mean()) / std
        ranked += [(score, layer) for score in np.sort(standard)[floor:]]  # the floor's channels can't be chosen
    ranked.sort(key=lambda item: (-item[0], item[1]))

    def kept(removed):
        counts = {layer: len(values) for layer, values in scores.items()}
        for _, layer in ranked[:removed]:
            counts[layer] -= 1
        return {layer: rounded(n, len(scores[layer]), round_to, floor) for layer, n in counts.items()}

    low, high = 0, len(ranked)
    if not fits(kept(high)):
        raise ValueError("the budget is out of reach: it isn't met with every layer at its floor")
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if fits(kept(middle)) else (middle + 1, high)
    return {layer: least_idle(scores[layer], n) for layer, n in kept(high).items()}


def _check_mask(model, mask):
    widths = resnet.widths_of(model)
    for group, keep in mask.items():
        have = widths.get(group)
        if have is None or np.shape(keep) != (have,) or np.asarray(keep).dtype != bool or not np.any(keep):
            raise ValueError(f"mask must hold {have or 'no'} booleans for {group}, at least one of them True. "
                             f"Received: shape {np.shape(keep)}, {int(np.sum(keep))} True")


def apply_mask(model, mask):
    """Zeros kernel, bias, batch-norm gamma and beta of every channel that a mask removes, in place.

    The channel is then exactly 0 behind its ReLU, so whoever reads it gets nothing from it.

    Args:
        model: a ResNet of `model.build_resnet`.
        mask: {group: (channels,) bool, True = keep}.

    Raises:
        ValueError: a group or a length that the model doesn't have, or nothing kept.
    """
    _check_mask(model, mask)
    for name, _, _, written in resnet.wiring_of(model):
        if written in mask:
            keep = np.asarray(mask[written], bool)
            conv, norm = model.get_layer(f"{name}_conv"), model.get_layer(f"{name}_bn")
            for variable in (conv.kernel, conv.bias, norm.gamma, norm.beta):
                variable.assign(np.where(keep, np.asarray(variable), 0))


def trim_model(model, mask):
    """A smaller model without the channels that a mask removes; its outputs equal the masked model's.

    Args:
        model: a ResNet of `model.build_resnet`; it stays as it is.
        mask: {group: (channels,) bool, True = keep}.

    Returns:
        An uncompiled keras.Model with the surviving weights.

    Raises:
        ValueError: a group or a length that the model doesn't have, or nothing kept.
    """
    _check_mask(model, mask)
    architecture = resnet.architecture_of(model)
    kept = {"rgb": np.arange(3)} | {group: np.flatnonzero(mask.get(group, np.ones(width, bool)))
                                    for group, width in architecture["widths"].items()}
    widths = {group: len(kept[group]) for group in architecture["widths"]}
    small = resnet.build_resnet(**(architecture | {"widths": widths}))
    for name, _, read, written in resnet.wiring_of(model):
        source, target = model.get_layer(f"{name}_conv"), small.get_layer(f"{name}_conv")
        target.kernel.assign(np.asarray(source.kernel)[:, :, kept[read]][:, :, :, kept[written]])
        target.bias.assign(np.asarray(source.bias)[kept[written]])
        for old, new in zip(model.get_layer(f"{name}_bn").variables, small.get_layer(f"{name}_bn").variables,
                            strict=True):
            new.assign(np.asarray(old)[kept[written]])
    places = kept["conv5_stream"]
    for name, _ in resnet.head_of(widths):
        source, target = model.get_layer(name), small.get_layer(name)
        units = kept.get(name, np.arange(architecture["classes"]))
        target.kernel.assign(np.asarray(source.kernel)[places][:, units])
        target.bias.assign(np.array(source.bias)[units])  # a copy: JAX would share the buffer
        places = units
    return small


def _live_parameters(model):
    """Parameters of the convolutions that can still matter: filters with a weight, input slices with a source."""
    wiring, live, alive = resnet.wiring_of(model), 0, {"rgb": np.ones(3, bool)}
    kernels = {name: np.asarray(model.get_layer(f"{name}_conv").kernel) != 0 for name, *_ in wiring}
    for name, _, _, written in wiring:
        alive[written] = alive.get(written, False) | kernels[name].any((0, 1, 2))
    for name, kernel, read, _ in wiring:
        filters = int(kernels[name].any((0, 1, 2)).sum())
        live += filters * (kernel * kernel * int(alive[read].sum()) + 1)  # + 1: the bias
    return live


def compute_sparsity(model, base):
    """Share of a base model's convolution parameters (kernels and biases) that are gone, 0 to 1.

    Dead input slices of the next layer are gone too, so a masked model and its trimmed twin give the same number. A
    filter counts as gone where its whole kernel is 0.

    Args:
        model: a trimmed or a masked model.
        base: the model that pruning started from.
    """
    total = sum(base.get_layer(f"{name}_conv").count_params() for name, *_ in resnet.wiring_of(base))
    return 1.0 - _live_parameters(model) / total


def recalibrate_bn(model, images, batch_size=128, progress=iter):
    """Replaces the batch-norm means and variances by averages over images, in place; no weight is trained.

    What a layer reads has changed when channels went. Li et al. 2020, EagleEye, arXiv 2007.02491, section 3.3.

    Args:
        model: a ResNet of `model.build_resnet`.
        images: (N, h, w, 3), RGB 0 to 255, training images; whole batches of them are used.
        batch_size: images a pass.
        progress: wraps the list of batch starts.

    Raises:
        ValueError: no images.
    """
    if len(images) == 0:
        raise ValueError("recalibrate_bn needs images. Received: none")
    batch_size = min(batch_size, len(images))
    starts, total = range(0, len(images) - batch_size + 1, batch_size), {}
    layers = {name: (model.get_layer(f"{name}_conv"), model.get_layer(f"{name}_bn"))
              for name, *_ in resnet.wiring_of(model)}
    weights = {name: [v.value for v in (conv.kernel, conv.bias, norm.gamma, norm.beta)]
               for name, (conv, norm) in layers.items()}
    compiled = folded.compiled_by_backend(_batch_statistics(model))
    for start in progress(starts):
        for name, pair in compiled(weights, ops.convert_to_tensor(images[start:start + batch_size])).items():
            total[name] = total.get(name, 0.0) + np.asarray(pair, np.float64)
    for name, (mean, variance) in total.items():
        norm = layers[name][1]
        norm.moving_mean.assign(mean / len(starts))
        norm.moving_variance.assign(variance / len(starts))


def _batch_statistics(model):
    """function(weights, images) -> {name: (2, channels)}, mean and variance of what each batch-norm sees of a batch."""
    architecture, epsilon = resnet.architecture_of(model), resnet.BN["epsilon"]

    def statistics(weights, images):
        found = {}

        def conv_bn(x, name, stride=1, relu=True):
            kernel, bias, gamma, beta = weights[name]
            x, mean, variance = fast.normalise_batch(fast.convolve(x, kernel, stride), gamma, beta, epsilon)
            found[name] = ops.stack([mean + bias, variance])
            return ops.relu(x) if relu else x

        fast.forward(images, architecture, "float32", conv_bn)
        return found
    return statistics
