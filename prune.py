"""APoZ pruning in five functions: scores, masks, smaller models. No files, no prints.

    scores = compute_apoz(model, images)     # how often each channel is zero behind its ReLU
    mask = create_mask(scores)               # keep all but the idle ones
    small = trim_model(model, mask)          # a smaller network, which answers as the masked one does
    print(compute_sparsity(small, model))

Hu et al. 2016, Network Trimming, arXiv 1607.03250.
"""

from compress.graph import surgery
from compress.pruning import criteria, masks


def compute_apoz(model, images, batch_size=128):
    """Average percentage of zeros of each inner channel behind its ReLU, in inference mode.

    APoZ_c = (zero activations of channel c over all N images and M positions) / (N M); equation 1 of the paper.

    Args:
        model: a ResNet of `model.py`, or what `compress.storage.checkpoints.load_model` gives.
        images: (N, h, w, 3), RGB 0 to 255, not augmented, none of them from the test set.
        batch_size: images a pass.

    Returns:
        {layer: (channels,) float64 from 0 to 1}; 1 means that the channel was never active.

    Raises:
        ValueError: no images.
    """
    return criteria.compute_apoz(model, images, batch_size)


def create_mask(scores, prune_ratio=None, round_to=1, floor=masks.FLOOR):
    """A mask by a rule within each layer.

    Without `prune_ratio`, channels go whose score is strictly above mean + 1 standard deviation of their layer;
    section 3.2 of the paper.

    Args:
        scores: {layer: (channels,)}, high = idle, from `compute_apoz`.
        prune_ratio: share of each layer's channels to remove, from 0 to below 1; None for the rule above.
        round_to: channels kept are rounded up to a multiple of this.
        floor: channels that every layer keeps at least.

    Returns:
        {layer: (channels,) bool, True = keep}.

    Raises:
        ValueError: a score isn't finite, or an argument is out of range.
    """
    return masks.create_mask(scores, prune_ratio, round_to, floor)


def apply_mask(model, mask):
    """Sets every channel that a mask removes to zero, in place; the network keeps its shape.

    Args:
        model: a ResNet.
        mask: {layer: (channels,) bool, True = keep}.

    Raises:
        ValueError: a layer or a length that the model doesn't have, or nothing kept.
    """
    surgery.apply_mask(model, mask)


def trim_model(model, mask):
    """A smaller model without the channels that a mask removes; its outputs equal the masked model's.

    Args:
        model: a ResNet; it stays as it is.
        mask: {layer: (channels,) bool, True = keep}.

    Returns:
        An uncompiled keras.Model with the surviving weights.

    Raises:
        ValueError: a layer or a length that the model doesn't have, or nothing kept.
    """
    return surgery.trim_model(model, mask)


def compute_sparsity(model, base):
    """Share of a base model's convolution parameters (kernels and biases) that are gone, 0 to 1.

    Args:
        model: a trimmed or a masked model.
        base: the model that pruning started from.
    """
    return surgery.compute_sparsity(model, base)
