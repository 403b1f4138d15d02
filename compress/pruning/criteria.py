"""Importance criteria behind one contract: a model and images in, one score a channel out.

Every criterion gives {layer: (channels,) float64} for the inner convolutions, such as 'conv2_block1_1_conv';
`compute_group_scores` for streams and stem too. A high score means idle: the channel may go. Criteria that measure
importance are therefore negated.
"""

import re

import keras
import numpy as np
from keras import ops

from compress.engine import folded
from compress.graph import resnet


def _inner_layers(model):
    return [layer.name for layer in model.layers if re.fullmatch(r"conv\d_block\d+_[12]_conv", layer.name)]


def compute_apoz(model, images, batch_size=128, progress=iter):
    """Average percentage of zeros of each inner channel after its ReLU, in inference mode.

    APoZ_c = (zero activations of channel c over all N images and M positions) / (N M); Hu et al. 2016, Network
    Trimming, arXiv 1607.03250, equation 1. Counted on the folded network in float32; a batch's counts are summed on the
    device, so memory does not grow with N.

    Args:
        model: a ResNet of `model.py`, or what `compress.storage.checkpoints.load_model` gives.
        images: (N, h, w, 3), RGB 0 to 255, not augmented, none of them from the test set.
        batch_size: images a pass.
        progress: wraps the list of batch starts, such as `display.track`.

    Returns:
        {layer: (channels,) float64 from 0 to 1}; 1 means that the channel was never active.

    Raises:
        ValueError: no images.
    """
    if len(images) == 0:
        raise ValueError("compute_apoz needs images. Received: none")
    # Batch-norm is folded into the convolutions: what comes out of a ReLU is the same, sooner.
    architecture, weights = resnet.architecture_of(model), folded.fold(model)
    names, positions = set(_inner_layers(model)), {}

    def count_zeros(weights, images):
        counts = {}

        def watch(name, x):
            if f"{name}_conv" in names:
                counts[f"{name}_conv"] = ops.sum(ops.cast(ops.equal(x, 0), "int32"), axis=(0, 1, 2))
                positions[f"{name}_conv"] = x.shape[1] * x.shape[2]

        folded.run_folded(weights, images, architecture, watch=watch)
        return counts

    compiled, zeros = folded.compiled_by_backend(count_zeros), dict.fromkeys(names, 0)
    for start in progress(range(0, len(images), batch_size)):
        counts = compiled(weights, ops.convert_to_tensor(images[start : start + batch_size]))
        zeros = {name: zeros[name] + np.asarray(counts[name], np.int64) for name in names}
    return {name: zeros[name] / (len(images) * positions[name]) for name in _inner_layers(model)}


def _kernels(model):
    """{layer: (weights a filter, channels)} of the inner convolutions."""
    arrays = {name: np.asarray(model.get_layer(name).kernel, np.float64) for name in _inner_layers(model)}
    return {name: kernel.reshape(-1, kernel.shape[-1]) for name, kernel in arrays.items()}


def compute_l1(model):
    """Minus the sum of absolute kernel weights of each filter; Li et al. 2017, arXiv 1608.08710, section 3.1."""
    return {name: -np.abs(kernel).sum(0) for name, kernel in _kernels(model).items()}


def compute_l2(model):
    """Minus the Euclidean norm of each filter's kernel; He et al. 2018, Soft Filter Pruning, arXiv 1808.06866, 3.2."""
    return {name: -np.sqrt((kernel**2).sum(0)) for name, kernel in _kernels(model).items()}


def compute_bn(model):
    """Minus the absolute batch-norm gamma of each channel; Liu et al. 2017, Network Slimming, arXiv 1708.06519, 3."""
    return {
        name: -np.abs(np.asarray(model.get_layer(name.replace("_conv", "_bn")).gamma, np.float64))
        for name in _inner_layers(model)
    }


def compute_random(model, seed=0):
    """A uniform random score a channel: the control that any other criterion has to beat."""
    rng = np.random.default_rng(seed)
    return {name: rng.random(model.get_layer(name).filters) for name in _inner_layers(model)}


def _gradient_function(model, variables):
    """function(images, labels) -> gradients of the mean cross-entropy, in inference mode, for `variables`."""

    def loss(labels, logits):
        return ops.mean(keras.losses.sparse_categorical_crossentropy(labels, logits, from_logits=True))

    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        @tf.function(reduce_retracing=True)
        def gradients(images, labels):
            with tf.GradientTape() as tape:
                value = loss(labels, model(images, training=False))
            return tape.gradient(value, [v.value for v in variables])
    elif keras.backend.backend() == "jax":
        import jax

        places = [i for i, v in enumerate(model.trainable_variables) if any(v is w for w in variables)]
        fixed = [v.value for v in model.non_trainable_variables]

        def of_variables(chosen, images, labels):
            values = [v.value for v in model.trainable_variables]
            for place, value in zip(places, chosen, strict=True):
                values[place] = value
            return loss(labels, model.stateless_call(values, fixed, images, training=False)[0])

        compiled = jax.jit(jax.grad(of_variables))

        def gradients(images, labels):
            return compiled([model.trainable_variables[i].value for i in places], images, labels)
    else:
        raise ValueError(
            f"the taylor criterion needs the tensorflow or jax backend. Received: {keras.backend.backend()}"
        )
    return gradients


def compute_taylor(model, images, labels, batch_size=128, progress=iter):
    """Minus the first-order estimate of the loss change when a channel goes.

    The gate behind the batch-norm has gradient g_gamma gamma + g_beta beta; its square is averaged over batches, and
    the root of that taken, which ranks alike and leaves mean and deviation of a layer in the loss' own unit.
    Molchanov et al. 2019, Importance Estimation for Neural Network Pruning, arXiv 1906.10771, section 3 (gates).

    Args:
        model: a ResNet of `resnet.build_resnet`.
        images: (N, h, w, 3), RGB 0 to 255; whole batches of them are used.
        labels: (N,) integers.
        batch_size: images a gradient; the scores depend on it, since a larger batch averages before squaring.
        progress: wraps the list of batch starts.

    Returns:
        {layer: (channels,) float64, at most 0}.

    Raises:
        ValueError: no images, frozen batch-norms, or a backend without gradients here.
    """
    batch_size = min(batch_size, len(images))
    names = _inner_layers(model)
    norms = [model.get_layer(name.replace("_conv", "_bn")) for name in names]
    chosen = [v for norm in norms for v in (norm.gamma, norm.beta)]
    # jax takes variables in the model's own order, so keep that order for both
    variables = [v for v in model.trainable_variables if any(v is w for w in chosen)]
    if len(variables) < len(chosen) or batch_size == 0:
        raise ValueError(
            f"taylor needs images and trainable batch-norms. Received: {len(images)} images, "
            f"{len(chosen) - len(variables)} frozen scales and shifts"
        )
    gradients = _gradient_function(model, variables)
    scores, batches = dict.fromkeys(names, 0.0), range(0, len(images) - batch_size + 1, batch_size)
    for start in progress(batches):
        part = slice(start, start + batch_size)
        found = gradients(ops.convert_to_tensor(images[part]), ops.convert_to_tensor(labels[part]))
        gates = {
            v.path: np.asarray(g, np.float64) * np.asarray(v, np.float64) for v, g in zip(variables, found, strict=True)
        }
        for name, norm in zip(names, norms, strict=True):
            scores[name] = scores[name] + (gates[norm.gamma.path] + gates[norm.beta.path]) ** 2 / len(batches)
    return {name: -np.sqrt(square) for name, square in scores.items()}


def compute_scores(criterion, model, images, labels, batch_size=128, seed=0, progress=iter):
    """Scores of the inner channels by the name of a criterion: apoz, l1, l2, bn, taylor or random.

    Args:
        criterion: one of flags.CRITERIA.
        model: a ResNet of `resnet.build_resnet`.
        images: (N, h, w, 3), RGB 0 to 255; apoz and taylor look at them.
        labels: (N,) integers; taylor looks at them.
        batch_size: images a pass.
        seed: of the random criterion.
        progress: wraps the list of batch starts.

    Returns:
        {layer: (channels,) float64}; high means idle.

    Raises:
        ValueError: no such criterion.
    """
    of_weights = {"l1": compute_l1, "l2": compute_l2, "bn": compute_bn}
    if criterion == "apoz":
        return compute_apoz(model, images, batch_size, progress)
    if criterion == "taylor":
        return compute_taylor(model, images, labels, batch_size, progress)
    if criterion == "random":
        return compute_random(model, seed)
    if criterion not in of_weights:
        raise ValueError(f"criterion must be apoz, l1, l2, bn, taylor or random. Received: {criterion!r}")
    return of_weights[criterion](model)


def compute_group_scores(model, wiring):
    """Scores of every group of channels, the streams too, over all layers that write or read the group.

    Group L2 importance after Fang et al. 2023, DepGraph, arXiv 2301.12900, section 3.3: for each member of the group,
    the batch-norm scale of every convolution that writes the channel and the kernel slice of every layer that reads
    it, squared, divided by the member's mean over channels so that no layer outweighs another, summed.

    Args:
        model: a ResNet of `resnet.build_resnet`.
        wiring: list of (name, kernel, group read, group written) from `resnet.wiring`.

    Returns:
        {group: (channels,) float64, at most 0} for the names of `resnet.full_widths`; high means idle.
    """
    # The last stream is also read by the classifier; a kernel is (h, w, read, written), a Dense kernel (read, written).
    first = resnet.head_of(resnet.widths_of(model))[0][0]
    head = (np.asarray(model.get_layer(first).kernel, np.float64) ** 2).sum(1)
    members = [("conv5_stream", head)]
    for name, _, read, written in wiring:
        kernel = np.asarray(model.get_layer(f"{name}_conv").kernel, np.float64)
        members += [
            (written, np.asarray(model.get_layer(f"{name}_bn").gamma, np.float64) ** 2),
            (read, (kernel**2).sum((0, 1, 3))),
        ]
    scores = {}
    for group, member in members:
        if group != "rgb":
            scores[group] = scores.get(group, 0.0) - member / (member.mean() or 1.0)
    return scores
