"""Teachers that are ResNets of `model.py`: their students may also have another stem, or fewer blocks.

Of any other network nobody knows what can be left out but channels.
"""

import numpy as np

from compress.errors import InputError
from compress.storage import archives, resnet


def form_in(path):
    """(stem, blocks of the four stages) of a file that holds such a network, else None. Keras isn't needed for it.

    Args:
        path: a model file that `headers.read_header` took.
    """
    try:
        with archives.opened(path) as (_, config, _):
            layers = {layer["config"]["name"]: layer["config"] for layer in config["config"]["layers"]}
        kernel = layers["conv1_conv"]["kernel_size"][0]
    except (LookupError, TypeError, ValueError, OSError, InputError):
        return None
    return _form(list(layers), kernel)


def architecture_of(graph):
    """The arguments of `resnet.build_resnet` for a network of the same shapes; None where it is none of its.

    Args:
        graph: a network.Graph.
    """
    model = graph.model
    try:
        form = _form([layer.name for layer in model.layers], model.get_layer("conv1_conv").kernel_size[0])
        found = form and resnet.architecture_of(model)
    except (ValueError, AttributeError, TypeError):
        return None
    if not found:
        return None
    wanted = resnet.cost_of(found["widths"], found["classes"], found["input_shape"], found["stem"])
    here = graph.cost()  # layers of the same names, but with strides elsewhere, are another network
    return found if (here.parameters, here.macs) == wanted else None


def _form(names, kernel):
    """(stem, blocks) where names are those of all layers of such a network, else None."""
    blocks, stem = resnet.blocks_of(names), resnet.stem_of(kernel)
    if stem is None or min(blocks) < 1:
        return None
    pool = ["pool1_pad", "pool1_pool"] if stem == "imagenet" else []
    wanted = ["image", "normalization", "conv1_pad", *_conv_bn("conv1"), *pool, "avg_pool", "predictions"]
    for stage, count in zip((2, 3, 4, 5), blocks, strict=True):
        for block in (f"conv{stage}_block{number}" for number in range(1, count + 1)):
            wanted += [*_conv_bn(f"{block}_1"), *_conv_bn(f"{block}_2"), *_conv_bn(f"{block}_3")[:2]]
            wanted += [f"{block}_add", f"{block}_out"]
        wanted += _conv_bn(f"conv{stage}_block1_0")[:2]
    return (stem, blocks) if sorted(names) == sorted([*wanted, *resnet.hidden_names(names)]) else None


def _conv_bn(name):
    return [f"{name}_conv", f"{name}_bn", f"{name}_relu"]


def known_as(group):
    """The name in `resnet.full_widths` of a group of such a network's graph: 'conv3_stream' for what an Add joins.

    Args:
        group: a network.Group.
    """
    return f"{group.name[:5]}_stream" if len(group.makers) > 1 else group.name


def rebuilt(model, architecture, stem, blocks):
    """Such a network behind another stem, with the first blocks of each stage: all other weights are as they were.

    Of the first kernel the middle is left.

    Args:
        model: the network; it stays as it is.
        architecture: its own, from `architecture_of`.
        stem: of `resnet.STEMS`, its kernel no larger than the model's.
        blocks: of the four stages, none more than the model's.
    """
    widths = widths_left(architecture, blocks)
    other = resnet.build_resnet(**(architecture | {"stem": stem, "widths": widths}))
    for layer in other.layers:
        for old, new in zip(
            model.get_layer(layer.name).variables if layer.variables else (), layer.variables, strict=True
        ):
            cut = (old.shape[0] - new.shape[0]) // 2 if layer.name == "conv1_conv" and len(new.shape) == 4 else 0
            values = np.array(old)  # a copy: JAX would share the buffer
            new.assign(values[cut : len(values) - cut, cut : values.shape[1] - cut] if cut else values)
    return other


def widths_left(architecture, blocks):
    """The widths of an architecture in the first blocks of each stage."""
    kept = resnet.full_widths(architecture["depth"], blocks)
    return {name: width for name, width in architecture["widths"].items() if name in kept or name.startswith("hidden")}
