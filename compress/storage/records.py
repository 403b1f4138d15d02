"""Small files that outlive a run: histories and results as JSON, written whole or not at all. Imports no Keras."""

import contextlib
import datetime
import importlib.metadata
import json
import math
import os
import platform
import sys
from pathlib import Path

from compress.errors import InputError
from compress.storage.files import replacing, sha256, suggestion

CURVES = ("train_loss", "train_acc", "val_loss", "val_acc")
# a distillation's losses before their weights
PARTS = ("train_backbone", "train_intermediate", "train_adversarial", "train_hard_label", "train_discriminator")
KERAS_CURVES = {
    "loss": "train_loss",
    "accuracy": "train_acc",
    "acc": "train_acc",
    "sparse_categorical_accuracy": "train_acc",
    "categorical_accuracy": "train_acc",
    "val_loss": "val_loss",
    "val_accuracy": "val_acc",
    "val_acc": "val_acc",
    "val_sparse_categorical_accuracy": "val_acc",
    "val_categorical_accuracy": "val_acc",
    "learning_rate": "learning_rate",
    "lr": "learning_rate",
}
FORMAT = 2  # of a record's 'run'; docs/reference/files.md says what changed
MAX_JSON_BYTES = 64 * 2**20
STATE = "state.npz"  # of an unfinished run, in its folder


def write_json(path, content):
    """Writes `content` as JSON, atomically.

    Raises:
        ValueError: for NaN or infinite numbers, which JSON cannot hold; the old file stays.
    """
    text = json.dumps(content, indent=1, allow_nan=False) + "\n"
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def read_json(path):
    """The object that a JSON file holds.

    Raises:
        InputError: missing, a folder, too long, or not a JSON object.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"received {path}, which is not a file; expected a .json file{suggestion(path)}", path)
    if path.stat().st_size > MAX_JSON_BYTES:
        raise InputError(f"received {path} of {path.stat().st_size} bytes, expected at most {MAX_JSON_BYTES}", path)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError, OSError) as error:
        raise InputError(f"received {path}, expected JSON ({error})", path) from None
    if not isinstance(content, dict):
        raise InputError(f"received {path}, which holds a {type(content).__name__}, expected a JSON object", path)
    return content


def is_number(value):
    """Whether a value of a JSON file is a number that a float holds: no truth value, NaN or integer of 400 digits."""
    return type(value) in (int, float) and abs(value) <= sys.float_info.max


def is_curve(values, length=None):
    """Whether a value is a list of numbers, of this length or of at least one."""
    return (
        isinstance(values, list)
        and all(map(is_number, values))
        and (len(values) > 0 if length is None else len(values) == length)
    )


def read_history(path):
    """The curves of a history: the suite's own, the original suite's, or a plain Keras `History.history` dump.

    Args:
        path: a .json file.

    Returns:
        dict of equally long lists, one number an epoch, under the names train_loss, train_acc, val_loss, val_acc
        (accuracies 0 to 1), and learning_rate, seconds and the PARTS of a distillation where the file has them; and
        'checkpoint', {"epoch": from 1} that model.h5 holds, where it names one.

    Raises:
        InputError: not a history.
    """
    content = read_json(path)
    if isinstance(content.get("history"), dict):
        content = content["history"]
    curves = {}
    for key, values in content.items():
        name = key if key in (*CURVES, *PARTS, "learning_rate", "seconds") else KERAS_CURVES.get(key)
        if name and is_curve(values):
            curves.setdefault(name, [float(v) for v in values])
    lengths = {len(values) for values in curves.values()}
    if not any(name in curves for name in CURVES) or len(lengths) != 1:
        raise InputError(
            f"received {path}, which is not a training history; expected equally long lists of numbers "
            f"named {', '.join(CURVES)} (or loss, accuracy, val_loss, val_accuracy)",
            path,
        )
    if (kept := checkpoint_epoch(curves | {"checkpoint": content.get("checkpoint")})) is not None:
        curves["checkpoint"] = {"epoch": kept + 1}
    return curves


def rank(history, epoch):
    """What orders epochs, the best first: by validation accuracy, of equal ones by validation loss, then by time.

    Accuracy moves in steps of an image: on few of them many epochs have the same, and the loss still tells them apart.

    Args:
        history: dict of lists, one number an epoch, or None where there is none; val_acc among them.
        epoch: index, from 0.
    """
    losses = history.get("val_loss") or []
    loss = losses[epoch] if epoch < len(losses) else None
    return -history["val_acc"][epoch], math.inf if loss is None else loss, epoch


def best_epoch(history):
    """Index of the best epoch, see `rank`: the one rule of training, tables, plots and report.

    Where the history names the epoch that model.h5 holds and no other has a higher accuracy, it is that one: earlier
    versions kept the first of equal ones.

    Args:
        history: as of `rank`, with or without 'checkpoint'.

    Returns:
        From 0; None where there is no validation accuracy.
    """
    accuracies = history.get("val_acc") or []
    known = [epoch for epoch, value in enumerate(accuracies) if value is not None]
    best, kept = min(known, key=lambda epoch: rank(history, epoch), default=None), checkpoint_epoch(history)
    return kept if kept in known and accuracies[kept] == accuracies[best] else best


def checkpoint_epoch(history):
    """Index of the epoch that model.h5 holds by a history's 'checkpoint'; None where it names none of its epochs."""
    kept = history.get("checkpoint")
    epoch = kept.get("epoch") if isinstance(kept, dict) else None
    return epoch - 1 if type(epoch) is int and 0 < epoch <= len(history.get("val_acc") or []) else None


def recorded_sha256(path):
    """The checksums that the records beside a model allow it to have; empty where none speaks of it.

    Args:
        path: an .h5 file.

    Returns:
        Set of 64 hexadecimal digits each: two while a run is about to replace the file.
    """
    path, named = Path(path), []
    if path.name == "model.h5":
        with contextlib.suppress(InputError):
            entry = read_json(path.with_name("history.json")).get("checkpoint")
            named = [entry.get("sha256"), entry.get("previous_sha256")] if isinstance(entry, dict) else []
        if not named:
            with contextlib.suppress(InputError):
                named = [read_json(path.with_name("result.json")).get("sha256")]
    return {value for value in named if isinstance(value, str) and len(value) == 64}


def check_record(path):
    """Raises InputError where a record beside a file names another checksum."""
    allowed = recorded_sha256(path)
    while allowed and (found := sha256(path)) not in allowed:
        before, allowed = allowed, recorded_sha256(path)
        if allowed != before:  # a run is writing both at this moment
            continue
        raise InputError(
            f"received {path}, which is damaged or was replaced: its sha256 is {found:.8}..., expected "
            f"{min(allowed):.8}..., as the record beside it says",
            path,
        )


def reduction(path, digest):
    """What the record of a run says of how much smaller than its base a model is.

    Args:
        path: of a model.h5.
        digest: its sha256, which the record has to name.

    Returns:
        {"compression_rate": base parameters / parameters, "sparsity": 0 to 1, or None where it isn't recorded}; None
        where no record speaks of the file.
    """
    for file in (Path(path).with_name("result.json"), Path(path).parent.parent / "result.json"):
        found = {}
        with contextlib.suppress(InputError):
            found = read_json(file)
        sums, keys = found.get("sha256"), ("compression_rate", "sparsity")
        if isinstance(sums, list) and digest in sums:  # of a pruning run, a number an iteration
            lists = {key: found.get(key) for key in keys}
            found = {key: values[sums.index(digest)] for key, values in lists.items() if is_curve(values, len(sums))}
        elif sums != digest:
            continue
        if is_number(found.get("compression_rate")):
            return {key: found[key] if is_number(found.get(key)) else None for key in keys}
    return None


def _run_beside(path):
    """What the history beside a model names as its run, or an empty dict."""
    run = {}
    if Path(path).is_file():
        with contextlib.suppress(InputError):
            run = read_json(Path(path).with_name("history.json")).get("run")
    return run if isinstance(run, dict) else {}


def place(dataset):
    """A `dataset` in one spelling: my_images/ and ./my_images are the same folder."""
    return os.path.abspath(dataset) if isinstance(dataset, str) else dataset


def same_images(then, now):
    """Whether two records tell of the same images in a folder, wherever it lies.

    Args:
        then: 'source' of one, a list as `folders.listing_checksum` gives it. Records of older versions have no checksum
            of the images' bytes, and are compared by names and sizes.
        now: that of the other.
    """
    most = min(len(then), len(now))
    return most > 1 and then[1:most] == now[1:most]


def check_source(path, split, val_split=None):
    """Raises InputError where a model was trained when the folder that a split is drawn from held other images.

    One image more makes another draw, in which most of the split would be images that the model was trained on; so does
    another share for validation, wherever the folder lies now.

    Args:
        path: of the model; one without a history, or trained on other data, passes.
        split: a dataset.Split.
        val_split: what the share is now; None where no split depends on it.
    """
    run = _run_beside(path)
    then = run.get("source")
    if not isinstance(then, list) or split.source is None:
        return
    same = same_images(then, split.source)
    if val_split is not None and same:
        _check_share(path, run, val_split)
    if then[:1] == split.source[:1] and not same:
        raise InputError(
            f"`dataset`: {split.source[0]} holds other images than when {path} was trained; its "
            f"{split.name} images are drawn from all of them, so that the model has seen most; expected "
            "the images of then, or subfolders train, val and test"
        )


def check_split(path, dataset, val_split):
    """Raises InputError where the history beside a model says that it was trained under another share for validation.

    Another share is another draw: its validation images would be some that the model was trained on.

    Args:
        path: of the model; one without a history, or trained on other data, passes.
        dataset: what this run reads.
        val_split: its share for validation.
    """
    run = _run_beside(path)
    flags = run.get("flags")
    if isinstance(flags, dict) and place(flags.get("dataset")) == place(dataset):
        _check_share(path, run, val_split)


def _check_share(path, run, val_split):
    share = run["flags"].get("val_split") if isinstance(run.get("flags"), dict) else None
    if is_number(share) and share != val_split:
        raise InputError(
            f"`val_split`: received {val_split}, expected {share}, under which {path} was trained; "
            "another share would validate on images that it has seen"
        )


def augmentation_of(path):
    """How a model's training images were varied, such as 'crop', by its history; None where that doesn't say it."""
    flags = _run_beside(path).get("flags")
    found = flags.get("augment") if isinstance(flags, dict) else None
    return found if isinstance(found, str) else None


def processor():
    """The processor's name as the system gives it."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def versions(packages):
    """{package: version}, in the order asked for, without those that aren't installed."""
    found = {}
    for name in packages:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def run_record(flags, parent_sha256=None):
    """What made a result: command, resolved flags, seed, versions, machine, time.

    Args:
        flags: dict of a script's flags as they were resolved, and 'argv', the words of its command line.
        parent_sha256: of the model that the run starts from, if there is one.

    Returns:
        dict that JSON can hold.
    """
    packages = {"python": platform.python_version()} | versions(("keras", "tensorflow", "jax", "numpy", "h5py"))
    given = {key: value for key, value in sorted(flags.items()) if key != "argv"}
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "format": FORMAT,
        "argv": list(flags.get("argv", [])),
        "flags": given,
        "seed": given.get("seed"),
        "versions": packages,
        "parent_sha256": parent_sha256,
        "processor": processor(),
        "cores": cores,
        "backend": os.environ.get("KERAS_BACKEND", "tensorflow"),
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }
