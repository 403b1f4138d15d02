"""What a mask does to a network: channels set to zero, or a smaller network without them."""

import numpy as np

from compress.graph import resnet


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
        model: a ResNet of `resnet.build_resnet`.
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
        model: a ResNet of `resnet.build_resnet`; it stays as it is.
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
