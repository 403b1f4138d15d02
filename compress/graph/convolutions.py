"""The layers whose weights sparsity is a share of."""

from keras import layers

from compress.graph import nodes

CONVOLUTIONS = (
    *(layers.Conv1D, layers.Conv2D, layers.Conv3D, layers.DepthwiseConv1D, layers.DepthwiseConv2D),
    *(layers.Conv1DTranspose, layers.Conv2DTranspose, layers.Conv3DTranspose),
    *(layers.SeparableConv1D, layers.SeparableConv2D),
)


def convolutions(model):
    """{path: layer} of the convolutions of a model and the models inside it, each once; a Dense layer on maps is one.

    Args:
        model: a keras.Model that `nodes.graph_of` takes.

    Raises:
        InputError: see `nodes.graph_of`.
    """
    return _chosen(model, lambda node: isinstance(node.operation, CONVOLUTIONS) or (_is_dense(node) and _on_maps(node)))


def dense(model):
    """{path: layer} of all Dense layers, likewise: what is counted in a network without convolutions."""
    return _chosen(model, _is_dense)


def _is_dense(node):
    return isinstance(node.operation, layers.Dense)


def _on_maps(node):
    return len(node.input_tensors[0].shape) > 3


def _chosen(model, choose):
    """{path: layer} of the nodes that a function says yes to, each layer once."""
    found = {}
    for path, node in nodes.walk(model):
        if choose(node) and node.operation not in found.values():
            found[path] = node.operation
    return found
