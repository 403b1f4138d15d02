"""Importance criteria behind one contract: a network and images in, one score a channel out.

Every criterion gives {group: (width,) float64} for the groups of a `scope.Scope`; a keras.Model stands for the scope of
its inner groups, such as 'conv2_block1_1_conv'. A high score means idle: the channel may go. Criteria that measure
importance are therefore negated.

A group has a score from each of its members. Those are the layers that make its channels, as a depthwise convolution
and the one before it do; with the scope 'all', l1 and l2 also have the kernels that read them. The score of a lone
member is that of the criterion's paper. Several are each divided by their mean over the channels, so that none
outweighs another, and added, as Torch-Pruning does; Fang et al. 2023, DepGraph, arXiv 2301.12900, section 3.3.
"""

import keras
import numpy as np
from keras import ops

from compress.engine import devices, measuring
from compress.errors import InputError
from compress.pruning.scope import Scope


def compute_apoz(model, images, batch_size=128, progress=iter):
    """Average percentage of zeros of each channel after its ReLU, in inference mode.

    APoZ_c = (zero activations of channel c over all N images and M positions) / (N M); Hu et al. 2016, Network
    Trimming, arXiv 1607.03250, equation 1. Of several ReLUs behind a channel the mean. Counted on the folded network in
    float32; a batch's counts are summed on the device, so memory does not grow with N.

    Args:
        model: a keras.Model or a Scope.
        images: (N, h, w, 3), RGB 0 to 255, not augmented, none of them from the test set.
        batch_size: images a pass.
        progress: wraps the range of batch starts, such as `display.track`.

    Returns:
        {group: (width,) float64 from 0 to 1}, of the groups in front of a ReLU-like activation; 1 means that the
        channel was never active.

    Raises:
        InputError: there is no such group.
        ValueError: no images.
    """
    scope = scored_by("apoz", Scope.of(model))
    found = measuring.compute_apoz(scope.graph, images, batch_size, progress, scope.names)
    return {name: found[name] for name in scope.names}


# ---- members of a group ------------------------------------------------------------------------------------------


def _kernels(scope, name):
    """[Slice] of the kernels that are members of a group for criteria of weights, see the head of this file."""
    return [piece for piece in _kernels_around(scope, name) if piece.role == "makes"]


def _kernels_around(scope, name):
    """The same, and the kernels that read the group if the scope is 'all'."""
    slices = [piece for piece in scope.graph.slices(name) if len(piece.variable.shape) > 1]
    roles = ("makes", "reads") if scope.kind == "all" else ("makes",)
    return [piece for piece in slices if piece.role in roles]


def _norms(scope, name):
    """[(Slice of gamma, batch-norm)] of the batch-norms that scale a group's channels."""
    return [
        (piece, piece.layer)
        for piece in scope.graph.slices(name)
        if piece.role == "follows"
        and isinstance(piece.layer, keras.layers.BatchNormalization)
        and piece.variable is piece.layer.gamma
    ]


def _filters(piece):
    """The kernel of a Slice, float64 (weights a filter, all channels of its axis)."""
    kernel = np.moveaxis(np.asarray(piece.variable, np.float64), piece.axis, -1)
    return kernel.reshape(-1, kernel.shape[-1])


def _summed(piece, values, width):
    """Values of all channels of a Slice's axis, summed to the positions (width,) of the group's mask."""
    total = np.zeros(width)
    np.add.at(total, piece.positions, np.asarray(values)[piece.channels])
    return total


def _added(members):
    """The importance of a group (width,) from that of its members: see the head of this file."""
    return members[0] if len(members) == 1 else sum(member / (member.mean() or 1.0) for member in members)


def _by_weights(model, pieces, importance):
    """{group: minus its importance}; pieces: function(scope, name) -> Slices; importance: function(Slice, width)."""
    scope = Scope.of(model)
    return {
        name: -_added([importance(piece, group.width) for piece in found])
        for name, group in scope.groups.items()
        if (found := pieces(scope, name))
    }


# ---- criteria of weights -----------------------------------------------------------------------------------------


def compute_l1(model):
    """Minus the sum of absolute kernel weights of each filter; Li et al. 2017, arXiv 1608.08710, section 3.1."""
    return _by_weights(
        model, _kernels_around, lambda piece, width: _summed(piece, np.abs(_filters(piece)).sum(0), width)
    )


def compute_l2(model):
    """Minus the Euclidean norm of each filter's kernel; He et al. 2018, Soft Filter Pruning, arXiv 1808.06866, 3.2."""
    return _by_weights(
        model, _kernels_around, lambda piece, width: np.sqrt(_summed(piece, (_filters(piece) ** 2).sum(0), width))
    )


def compute_fpgm(model):
    """Minus the sum of each filter's distances to the others of its layer: those in their midst can replace it.

    He et al. 2019, Filter Pruning via Geometric Median, arXiv 1811.00250, section 3.4, equation 7.
    """

    def importance(piece, width):
        filters = _filters(piece)[:, piece.channels]
        squares = (filters**2).sum(0)
        distances = squares[:, None] + squares - 2 * filters.T @ filters
        np.fill_diagonal(distances, 0)
        total = np.zeros(width)
        np.add.at(total, piece.positions, np.sqrt(np.maximum(distances, 0)).sum(0))  # rounding leaves a little below 0
        return total

    return _by_weights(model, _kernels, importance)


def compute_bn(model):
    """Minus the absolute batch-norm gamma of each channel; Liu et al. 2017, Network Slimming, arXiv 1708.06519, 3.

    A group that no batch-norm with a gamma scales has no score.
    """
    scope = Scope.of(model)
    return {
        name: -_added(
            [_summed(piece, np.abs(np.asarray(norm.gamma, np.float64)), group.width) for piece, norm in found]
        )
        for name, group in scope.groups.items()
        if (found := _norms(scope, name))
    }


def compute_random(model, seed=0):
    """A uniform random score a channel: the control that any other criterion has to beat."""
    rng = np.random.default_rng(seed)
    return {name: rng.random(group.width) for name, group in Scope.of(model).groups.items()}


# ---- the criterion of gradients ----------------------------------------------------------------------------------


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

        # all weights are arguments: what lies on the devices of several processes can't be a constant of a function
        def of_variables(chosen, values, fixed, images, labels):
            values = list(values)
            for place, value in zip(places, chosen, strict=True):
                values[place] = value
            return loss(labels, model.stateless_call(values, fixed, images, training=False)[0])

        compiled = devices.compiled(jax.grad(of_variables))

        def gradients(images, labels):
            values, fixed = (
                [v.value for v in found] for found in (model.trainable_variables, model.non_trainable_variables)
            )
            return compiled([values[i] for i in places], values, fixed, images, labels)
    else:
        raise ValueError(
            f"the taylor criterion needs the tensorflow or jax backend. Received: {keras.backend.backend()}"
        )
    return gradients


def _gates(scope):
    """{group: [[(Slice, variable)]]}, of each member the variables whose weight x gradient sums to its gate's gradient.

    Behind a batch-norm with gamma and beta a gate has gradient gamma g_gamma + beta g_beta. Elsewhere it stands behind
    the layer itself: the sum of weight x gradient over the filter and its bias.
    """
    found = {}
    for name in scope.names:
        norms = [(piece, norm) for piece, norm in _norms(scope, name) if norm.beta is not None]
        members = [[(piece, norm.gamma), (piece, norm.beta)] for piece, norm in norms]
        for piece in () if members else _kernels(scope, name):
            biases = [
                other
                for other in scope.graph.slices(name)
                if other.layer is piece.layer and other.role == "makes" and len(other.variable.shape) == 1
            ]
            # one that is not trained has no gradient: a batch-norm subtracts it
            trained = [(other, other.variable) for other in biases if other.variable.trainable]
            members.append([(piece, piece.variable), *trained])
        if members:
            found[name] = members
    return found


def compute_taylor(model, images, labels, batch_size=128, progress=iter):
    """Minus the first-order estimate of the loss change when a channel goes.

    The gradient of a gate that the channel passes; its square is averaged over batches, and the root of that taken,
    which ranks alike and leaves mean and deviation of a layer in the loss' own unit. Molchanov et al. 2019, Importance
    Estimation for Neural Network Pruning, arXiv 1906.10771, section 3: with gates behind batch-norms, elsewhere as the
    sum over the weights of a filter (equation 8).

    Args:
        model: a keras.Model of logits, or a Scope.
        images: (N, h, w, 3), RGB 0 to 255; whole batches of them are used.
        labels: (N,) integers.
        batch_size: images a gradient; the scores depend on it, since a larger batch averages before squaring.
        progress: wraps the range of batch starts.

    Returns:
        {group: (width,) float64, at most 0}.

    Raises:
        InputError: no images, or frozen layers.
        ValueError: a backend without gradients here.
    """
    scope, batch_size = Scope.of(model), min(batch_size, len(images))
    gates = _gates(scope)
    chosen = {id(v): v for members in gates.values() for member in members for _, v in member}
    # jax takes variables in the model's own order, so keep that order for both
    variables = [v for v in scope.model.trainable_variables if id(v) in chosen]
    if len(variables) < len(chosen) or batch_size == 0:
        raise InputError(
            f"`criterion`: received taylor for {len(images)} images and {len(chosen) - len(variables)} frozen weights; "
            "expected images and trainable layers (`layer.trainable = True`), or l1, l2, bn or fpgm, which need neither"
        )
    gradients = _gradient_function(scope.model, variables)
    batches = range(0, len(images) - batch_size + 1, batch_size)
    squares = {name: [0.0] * len(members) for name, members in gates.items()}
    for start in progress(batches):
        part = slice(start, start + batch_size)
        found = gradients(devices.rows(images, part), devices.rows(labels, part))
        products = {
            id(v): np.asarray(g, np.float64) * np.asarray(v, np.float64) for v, g in zip(variables, found, strict=True)
        }
        for name, members in gates.items():
            for place, member in enumerate(members):
                gate = sum(
                    _summed(piece, _per_channel(products[id(v)], piece.axis), scope.groups[name].width)
                    for piece, v in member
                )
                squares[name][place] = squares[name][place] + gate**2 / len(batches)
    return {name: -_added([np.sqrt(square) for square in members]) for name, members in squares.items()}


def _per_channel(product, axis):
    """An array summed over all axes but one."""
    return np.moveaxis(product, axis, -1).reshape(-1, product.shape[axis]).sum(0)


# ---- by name -----------------------------------------------------------------------------------------------------


OF_WEIGHTS = {"l1": compute_l1, "l2": compute_l2, "bn": compute_bn, "fpgm": compute_fpgm}


def compute_scores(criterion, model, images, labels, batch_size=128, seed=0, progress=iter):
    """Scores of channels by the name of a criterion: apoz, l1, l2, bn, taylor, fpgm or random.

    Args:
        criterion: one of flags.CRITERIA.
        model: a keras.Model of logits, or a Scope.
        images: (N, h, w, 3), RGB 0 to 255; apoz and taylor look at them.
        labels: (N,) integers; taylor looks at them.
        batch_size: images a pass.
        seed: of the random criterion.
        progress: wraps the list of batch starts.

    Returns:
        {group: (width,) float64}; high means idle. Groups that the criterion can't score are missing, see `scored_by`.

    Raises:
        ValueError: no such criterion.
    """
    if criterion == "apoz":
        return compute_apoz(model, images, batch_size, progress)
    if criterion == "taylor":
        return compute_taylor(model, images, labels, batch_size, progress)
    if criterion == "random":
        return compute_random(model, seed)
    if criterion not in OF_WEIGHTS:
        raise ValueError(f"criterion must be apoz, l1, l2, bn, taylor, fpgm or random. Received: {criterion!r}")
    return OF_WEIGHTS[criterion](model)


def _has_score(criterion, scope, name):
    """Whether a criterion scores a group."""
    if criterion == "apoz":
        return bool(scope.graph.activations[name])
    if criterion == "bn":
        return bool(_norms(scope, name))
    return criterion == "random" or bool(_kernels(scope, name))


def scored_by(criterion, scope):
    """The Scope of those of its groups that a criterion can score; the others stay whole.

    Args:
        criterion: one of flags.CRITERIA.
        scope: a Scope.

    Raises:
        InputError: no group may lose channels, or the criterion can score none of them.
    """
    if not scope.names:
        held = "; ".join(dict.fromkeys(f"{pinned.layer}: {pinned.why}" for pinned in scope.graph.pinned[:3]))
        raise InputError(
            f"{scope.model.name}: received a network without channels that may go (scope {scope.kind}; they stay "
            f"by {held}); expected a layer between others whose channels no addition joins"
            + (', or `scope="all"`, which takes those too' if scope.kind == "inner" else "")
        )
    names = [name for name in scope.names if _has_score(criterion, scope, name)]
    if not names:
        others = ["l1", "l2", *(["bn"] if any(_norms(scope, name) for name in scope.names) else []), "taylor", "fpgm"]
        why = {
            "apoz": "has no ReLU-like activation behind the channels that may go, so that none of them is ever 0",
            "bn": "has no batch-norm with a gamma behind the channels that may go",
        }.get(criterion, "has no kernels that make the channels that may go")
        raise InputError(
            f"`criterion`: received {criterion} for {scope.model.name}, which {why}; expected "
            f"{', '.join(others)} or random"
        )
    return scope.only(names)
