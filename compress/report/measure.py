"""What a report measures on the models themselves: APoZ of the layers that were cut, confusion of base and student.

Only files below the report's folder and the data set that the user names are read, whatever a record says of places.
"""

import os
import zipfile
from pathlib import Path

import numpy as np

from compress import metrics
from compress.cli import configs, display, flags, values
from compress.data import dataset, pixels, stock
from compress.engine import folding, measuring
from compress.errors import InputError
from compress.graph.network import Graph
from compress.report.tree import text, within
from compress.storage import classes, headers, opening, records

MOST_LAYERS = 6  # whose histograms are drawn


def data_config(config, recorded):
    """Which images a run had, each number checked as the command line checks it; places are the report's own.

    Args:
        config: a configs.ReportConfig.
        recorded: a run's flags, as its record has them.

    Returns:
        A configs.DataConfig.

    Raises:
        InputError: the record lacks one or has one out of range; or its images can't be had without a download.
    """
    dataset = str(recorded.get("dataset"))
    if dataset not in flags.CLASS_NUM:
        if config.dataset is None or os.path.abspath(config.dataset) != os.path.abspath(dataset):
            raise InputError(f"its images are those of {text(dataset)}, and `dataset` doesn't name that folder")
    elif dataset in stock.CIFAR and not stock.find_cifar(dataset, config.data_dir):
        raise InputError(f"{dataset} is not in {config.data_dir} (`data_dir`), and a report downloads nothing")
    # A record is a stranger's file: its numbers pass the checks of the flags, and any place it names is not used.
    limits = {
        "val_split": flags.real(0, 0.5, strict=True),
        "subset": flags.whole(1),
        "image_size": flags.whole(16, 1024),
    }
    found = {}
    for name, check in limits.items():
        value = recorded.get(name)
        missing = value is None and name != "val_split"
        found[name] = None if missing else values.checked(value, check, f"its record's `{name}`")
    own = {name: getattr(config, name) for name in ("data_dir", "cache_dir", "cache", "verbose")}
    return configs.DataConfig(dataset=dataset, class_num=None, num_worker=0, **own, **found)


class Images:
    """The images of runs; runs on the same ones share them.

    Args:
        config: a configs.ReportConfig.
    """

    def __init__(self, config):
        self.config, self.known = config, {}

    def of(self, run, path):
        """The dataset.Data of a run, in the size that the model at `path` wants. Raises InputError as `data_config`."""
        wanted = data_config(self.config, run.flags)
        shape = headers.read_header(path, _preprocessing(run)).input_shape
        shown = pixels.of_models(path)
        key = (str(vars(wanted)), shape, str(shown))
        if key not in self.known:
            self.known[key] = dataset.load_data(
                wanted,
                shape and shape[:2],
                display.track("reading images", self.config.verbose),
                needs=("validation",),
                pixels=shown,
            )
        records.check_source(path, self.known[key].val)
        return self.known[key]


def cut_most(channels):
    """The groups of channels that lost some, the one that lost the largest share first.

    Args:
        channels: group -> number of channels, first the base's, then after each iteration.

    Returns:
        List of names.
    """
    lost = {name: 1 - left[-1] / left[0] for name, left in channels.items()}
    return sorted((name for name in lost if lost[name] > 0), key=lambda name: -lost[name])


def _read_mask(path, name, channels):
    """One layer's mask, (channels,) bool; nothing larger is unpacked. Raises InputError where it is another."""
    # Read by hand, and not by numpy.load, which would unpack whatever size the file claims: a mask is a byte a channel.
    try:
        with zipfile.ZipFile(path) as archive:
            info = archive.getinfo(f"{name}.npy")
            if info.file_size > channels + 1024:
                raise ValueError(f"{info.file_size} bytes")
            with archive.open(info) as member:
                version = np.lib.format.read_magic(member)
                shape, _, dtype = (
                    np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
                )(member)
                if shape != (channels,) or dtype.kind != "b":
                    raise ValueError(f"{dtype}{shape}")
                return np.frombuffer(member.read(channels), np.uint8, channels) != 0
    except Exception as error:  # zipfile and zlib raise nearly any kind for a damaged archive
        raise InputError(f"{path.name} has no mask of {channels} channels for {name} ({error!r:.100})") from None


def survivors(folder, name, left):
    """Which channels of the base a layer has after the last iteration, from all iterations' masks.

    Args:
        folder: of the pruning run; iterK/mask.npz lie in it.
        name: of the layer.
        left: its number of channels, first the base's, then after each iteration.

    Returns:
        (channels of the base,) bool; None where a mask can't be read or is of other widths.
    """
    # A mask counts the channels that its iteration began with. Numbers of the base's channels are carried through all.
    alive = np.arange(int(left[0]))
    try:
        for iteration, count in enumerate(left[1:], 1):
            path = Path(folder) / f"iter{iteration}" / "mask.npz"
            if not within(path, folder):
                return None
            alive = alive[_read_mask(path, name, len(alive))]
            if len(alive) != count:
                return None
    except InputError:
        return None
    return np.isin(np.arange(int(left[0])), alive)


def _preprocessing(run):
    """What a run's base was trained with: it may be a file of others."""
    value = run.flags.get("preprocessing")
    return value if value in flags.PREPROCESSING else "auto"


def apoz_of_cut_layers(images, run, path):
    """APoZ of the base's layers that a pruning run cut most, on the validation images that the run looked at.

    Args:
        images: an Images.
        run: the pruning run.
        path: the base's .h5.

    Returns:
        (layer -> ((channels,) APoZ, (channels,) bool or None) for `figures.plot_apoz`, number of images).

    Raises:
        InputError: the base or the images can't be read, or are not those of the record.
    """
    channels = run.content.get("channels", {})
    names = cut_most(channels)
    if not names:
        raise InputError("no layer lost a channel")
    found = images.of(run, path)
    classes.compare(path, found)
    graph = Graph(opening.load_network(path, found.class_num, found.image_shape, _preprocessing(run)))
    cut = [name for name in names if graph.activations.get(name)]
    if not cut:
        raise InputError("no layer that lost channels has an activation like ReLU, whose zeros could be counted")
    count = run.flags.get("apoz_images")
    chosen = dataset.sample(found.val, count if type(count) is int and count > 0 else None)[0]
    bar = display.track("APoZ", images.config.verbose, "compiling")
    apoz = measuring.compute_apoz(graph, chosen, images.config.batch_size, bar)
    for name in cut[:MOST_LAYERS]:
        width = graph.groups[name].width if name in graph.groups else 0
        if width != channels[name][0]:
            raise InputError(f"{name} of the base has {width} channels, the record says {channels[name][0]:g}")
    return {
        name.removesuffix("_conv"): (apoz[name], survivors(run.path.parent, name, channels[name]))
        for name in cut[:MOST_LAYERS]
    }, len(chosen)


def confusion(images, run, paths):
    """Confusion matrices of models on the validation images of a run.

    Args:
        images: an Images.
        run: whose record names the images.
        paths: .h5 files.

    Returns:
        (list of (classes, classes) whole numbers, [true, answered], one a path; names of the classes).

    Raises:
        InputError: a model or the images can't be read, or don't go together.
    """
    from sklearn.metrics import confusion_matrix

    found, matrices, config = images.of(run, paths[0]), [], images.config
    for path in paths:
        records.check_source(path, found.val)
        classes.compare(path, found)
        model = opening.load_network(path, found.class_num, found.image_shape, _preprocessing(run))
        logits = metrics.predict_logits(
            folding.FoldedModel(model, config.precision),
            found.val.images,
            config.batch_size,
            display.track(f"{path.parent.name}: validation", config.verbose, "compiling"),
        )
        if not np.isfinite(logits).all():
            raise InputError(f"{path.parent.name} outputs NaN or infinity")
        matrices.append(confusion_matrix(found.val.labels, logits.argmax(1), labels=range(found.class_num)))
    return matrices, found.class_names
