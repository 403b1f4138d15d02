"""Small files that outlive a run: histories and results as JSON, written whole or not at all. Imports no Keras."""

import contextlib
import datetime
import difflib
import glob
import hashlib
import importlib.metadata
import itertools
import json
import math
import os
import platform
import tempfile
from pathlib import Path

from errors import InputError

CURVES = ("train_loss", "train_acc", "val_loss", "val_acc")
KERAS_CURVES = {"loss": "train_loss", "accuracy": "train_acc", "acc": "train_acc",
                "sparse_categorical_accuracy": "train_acc", "categorical_accuracy": "train_acc",
                "val_loss": "val_loss", "val_accuracy": "val_acc", "val_acc": "val_acc",
                "val_sparse_categorical_accuracy": "val_acc", "val_categorical_accuracy": "val_acc",
                "learning_rate": "learning_rate", "lr": "learning_rate"}
MAX_JSON_BYTES = 64 * 2**20
IGNORED_ON_RESUME = {"argv", "resume", "verbose", "num_worker", "gpu"}  # flags that leave the result alone


@contextlib.contextmanager
def replacing(path):
    """Yields a temporary path beside `path`; when the body ends well, its file takes the place of `path`.

    A reader sees the complete old file or the complete new one, never half. The folder is made if it is missing.

    Args:
        path: the file to write; the temporary one keeps its suffix (Keras and matplotlib look at it).
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name.split('.')[0]}-", suffix="".join(path.suffixes),
                                    dir=path.parent)
    os.close(handle)
    try:
        yield Path(name)
        with open(name, "rb+") as done:
            os.fsync(done.fileno())
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(name, 0o666 & ~umask)  # mkstemp's 0600 would shut out the user's colleagues
        os.replace(name, path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    finally:
        Path(name).unlink(missing_ok=True)


def write_json(path, content):
    """Writes `content` as JSON, atomically.

    Raises:
        ValueError: for NaN or infinite numbers, which JSON cannot hold; the old file stays.
    """
    text = json.dumps(content, indent=1, allow_nan=False) + "\n"
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def read_json(path, flag):
    """The object that a JSON file holds.

    Args:
        path: the file.
        flag: the flag that named it, for the message.

    Raises:
        InputError: missing, a folder, too long, or not a JSON object.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{flag}: received {path}, which is not a file; expected a .json file{suggestion(path)}")
    if path.stat().st_size > MAX_JSON_BYTES:
        raise InputError(f"{flag}: received {path} of {path.stat().st_size} bytes, expected at most {MAX_JSON_BYTES}")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError, OSError) as error:
        raise InputError(f"{flag}: received {path}, expected JSON ({error})") from None
    if not isinstance(content, dict):
        raise InputError(f"{flag}: received {path}, which holds a {type(content).__name__}, expected a JSON object")
    return content


def suggestion(path):
    """'; did you mean X?' for the existing file nearest in spelling to `path`, or an empty string."""
    path = Path(path)
    ancestor = next((p for p in path.parents if p.is_dir()), Path("."))
    found = []
    for depth in range(4):  # a bounded look: an ancestor may be the root of a large disk
        pattern = os.path.join(glob.escape(str(ancestor)), *["*"] * depth, f"*{glob.escape(path.suffix)}")
        found += itertools.islice(glob.iglob(pattern), 500)
    near = difflib.get_close_matches(os.path.normpath(path), [os.path.normpath(f) for f in found], 1, cutoff=0.6)
    return f"; did you mean {near[0]}?" if near else ""


def _is_curve(values):
    number = (int, float)
    return isinstance(values, list) and len(values) > 0 and all(
        isinstance(v, number) and not isinstance(v, bool) and math.isfinite(v) for v in values)


def read_history(path, flag="--history_path"):
    """The curves of a history: the suite's own, the original suite's, or a plain Keras `History.history` dump.

    Args:
        path: a .json file.
        flag: the flag that named it, for the message.

    Returns:
        dict of equally long lists, one number an epoch, under the names train_loss, train_acc, val_loss, val_acc
        (accuracies 0 to 1), and learning_rate and seconds where the file has them.

    Raises:
        InputError: not a history.
    """
    content = read_json(path, flag)
    if isinstance(content.get("history"), dict):
        content = content["history"]
    curves = {}
    for key, values in content.items():
        name = key if key in CURVES or key in ("learning_rate", "seconds") else KERAS_CURVES.get(key)
        if name and _is_curve(values):
            curves.setdefault(name, [float(v) for v in values])
    lengths = {len(values) for values in curves.values()}
    if not any(name in curves for name in CURVES) or len(lengths) != 1:
        raise InputError(f"{flag}: received {path}, which is not a training history; expected equally long lists "
                         f"of numbers named {', '.join(CURVES)} (or loss, accuracy, val_loss, val_accuracy)")
    return curves


def sha256(path):
    """The SHA-256 of a file, as 64 hexadecimal digits."""
    with open(path, "rb") as file:
        digest = hashlib.sha256()
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def processor():
    """The processor's name as the system gives it."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def run_record(args, parent_sha256=None):
    """What made a result: command, resolved flags, seed, versions, machine, time.

    Args:
        args: the script's parsed namespace.
        parent_sha256: of the model that the run starts from, if there is one.

    Returns:
        dict that JSON can hold.
    """
    versions = {"python": platform.python_version()}
    for name in ("keras", "tensorflow", "jax", "numpy", "h5py"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    given = {key: value for key, value in sorted(vars(args).items()) if key != "argv"}
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {"argv": list(getattr(args, "argv", [])), "flags": given, "seed": given.get("seed"), "versions": versions,
            "parent_sha256": parent_sha256,
            "processor": processor(), "cores": cores,
            "backend": os.environ.get("KERAS_BACKEND", "tensorflow"),
            "started": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")}


def check_same_run(before, run, folder):
    """Makes sure that an unfinished run had the flags that this one has.

    Args:
        before: what `run_record` gave then.
        run: what it gives now.
        folder: where the unfinished run lies, for the message.

    Raises:
        InputError: a flag that bears on the result differs, or the model that the run started from.
    """
    then, now = (json.loads(json.dumps(record.get("flags", {}))) for record in (before, run))
    for key in sorted((set(then) | set(now)) - IGNORED_ON_RESUME):
        if then.get(key) != now.get(key):
            raise InputError(f"--resume: {folder} holds an unfinished run with --{key} {then.get(key)}, received "
                             f"{now.get(key)}; expected the same flags, or --resume never to start over")
    if before.get("parent_sha256") != run.get("parent_sha256"):
        raise InputError(f"--resume: {folder} holds an unfinished run from another model (its sha256 began with "
                         f"{before.get('parent_sha256')!s:.8}, now {run.get('parent_sha256')!s:.8}); expected the "
                         "same, or --resume never to start over")


def check_writable(folder, flag):
    """Makes sure, before any work, that files can be written under `folder`; leaves nothing behind.

    Raises:
        InputError: the folder, or the nearest one above it that exists, takes no files.
    """
    folder = Path(folder)
    nearest = folder
    while not os.path.lexists(nearest) and nearest != nearest.parent:
        nearest = nearest.parent
    try:
        with tempfile.TemporaryDirectory(prefix=".write-test-", dir=nearest):
            pass
    except OSError as error:
        raise InputError(f"{flag}: received {folder}, expected a folder that can be written to "
                         f"({error.strerror or error}: {nearest})") from None


def check_file(path, flag, suffix):
    """Makes sure, before any work, that a file can be written at `path`.

    Raises:
        InputError: another suffix, a folder, or a place that takes no files.
    """
    path = Path(path)
    if path.suffix != suffix or path.is_dir():
        raise InputError(f"{flag}: received {path}, expected a file that ends in {suffix}")
    check_writable(path.parent, flag)
