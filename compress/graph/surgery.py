"""Applies a mask to a network: sets channels to zero, or builds a smaller network without them."""

import numpy as np

from compress.graph import resnet


def _check_mask(model, mask):
    """Raises ValueError where a mask doesn't fit a model or removes a whole group."""
    widths = resnet.widths_of(model)
    for group, keep in mask.items():
        have = widths.get(group)
        if have is None or np.shape(keep) != (have,) or np.asarray(keep).dtype != bool or not np.any(keep):
            raise ValueError(
                f"mask must hold {have or 'no'} booleans for {group}, at least one of them True. "
                f"Received: shape {np.shape(keep)}, {int(np.sum(keep))} True"
            )


def apply_mask(model, mask):
    """Sets kernel, bias, gamma and beta of every removed channel to zero, in place.

    The channel is then exactly 0 behind its ReLU and adds nothing to the layers that read it. The masked model
    therefore has the same outputs as the trimmed one.

    Args:
        model: a ResNet of `resnet.build_resnet`.
        mask: {group: bool (channels,)}, True for the channels that stay; groups without a mask stay whole.

    Raises:
        ValueError: the model has no such group, a length is wrong, or nothing of a group is kept.
    """
    _check_mask(model, mask)
    for name, _, _, written in resnet.wiring_of(model):
        if written in mask:
            keep = np.asarray(mask[written], bool)
            conv, norm = model.get_layer(f"{name}_conv"), model.get_layer(f"{name}_bn")
            # beta too: gamma alone would leave the constant beta in the channel
            for variable in (conv.kernel, conv.bias, norm.gamma, norm.beta):
                variable.assign(np.where(keep, np.asarray(variable), 0))  # output channels are the last axis of each


def trim_model(model, mask):
    """Builds a smaller model without the channels that a mask removes; its outputs equal the masked model's.

    Args:
        model: a ResNet of `resnet.build_resnet`, which isn't changed.
        mask: {group: bool (channels,)}, True for the channels that stay; groups without a mask stay whole.

    Returns:
        An uncompiled keras.Model with the remaining weights.

    Raises:
        ValueError: the model has no such group, a length is wrong, or nothing of a group is kept.
    """
    _check_mask(model, mask)
    architecture = resnet.architecture_of(model)
    kept = {"rgb": np.arange(3)} | {
        group: np.flatnonzero(mask.get(group, np.ones(width, bool))) for group, width in architecture["widths"].items()
    }
    widths = {group: len(kept[group]) for group in architecture["widths"]}
    small = resnet.build_resnet(**(architecture | {"widths": widths}))
    # A removed channel takes two slices of weights with it: its filter, in the layer that writes it, and its input
    # slice in every layer that reads it. kernel: (k, k, channels read, channels written).
    for name, _, read, written in resnet.wiring_of(model):
        source, target = model.get_layer(f"{name}_conv"), small.get_layer(f"{name}_conv")
        target.kernel.assign(np.asarray(source.kernel)[:, :, kept[read]][:, :, :, kept[written]])
        target.bias.assign(np.asarray(source.bias)[kept[written]])
        for old, new in zip(
            model.get_layer(f"{name}_bn").variables, small.get_layer(f"{name}_bn").variables, strict=True
        ):
            new.assign(np.asarray(old)[kept[written]])
    # The pooling keeps the channels of the last stage, so the first Dense layer reads those that are kept.
    places = kept["conv5_stream"]
    for name, _ in resnet.head_of(widths):
        source, target = model.get_layer(name), small.get_layer(name)
        units = kept.get(name, np.arange(architecture["classes"]))
        target.kernel.assign(np.asarray(source.kernel)[places][:, units])
        target.bias.assign(np.array(source.bias)[units])  # a copy: JAX would share the buffer
        places = units
    return small


def _live_parameters(model):
    """Number of convolution parameters that aren't removed or masked.

    A filter counts if a weight of it isn't 0, and its input slices count if some filter that writes their channel does.
    """
    # alive: {group: bool (channels,)}; a channel of a stream is alive if any block of the stage writes it.
    wiring, live, alive = resnet.wiring_of(model), 0, {"rgb": np.ones(3, bool)}
    kernels = {name: np.asarray(model.get_layer(f"{name}_conv").kernel) != 0 for name, *_ in wiring}
    for name, _, _, written in wiring:
        alive[written] = alive.get(written, False) | kernels[name].any((0, 1, 2))
    for name, kernel, read, _ in wiring:
        filters = int(kernels[name].any((0, 1, 2)).sum())
        live += filters * (kernel * kernel * int(alive[read].sum()) + 1)  # + 1: the bias
    return live


def compute_sparsity(model, base):
    """Sparsity: the share of a base model's convolution parameters (kernels and biases) that were removed, 0 to 1.

    A filter counts as removed if its whole kernel is 0. So do the input slices that read its channel. A masked model
    and its trimmed twin therefore have the same sparsity.

    Args:
        model: a trimmed or a masked model.
        base: the model that pruning started from.
    """
    total = sum(base.get_layer(f"{name}_conv").count_params() for name, *_ in resnet.wiring_of(base))
    return 1.0 - _live_parameters(model) / total
