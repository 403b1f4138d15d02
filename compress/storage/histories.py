"""Histories as trainers keep them: of Keras, pandas, Lightning, Hugging Face, Ultralytics. Runs nothing of a file."""

import collections
import csv
import itertools
import json
import math
import re
from pathlib import Path

from compress.cli.values import plain
from compress.errors import InputError
from compress.storage.files import suggestion
from compress.storage.records import CURVES, KERAS_CURVES, MAX_JSON_BYTES, PARTS, checkpoint_epoch, is_number

OTHERS = {
    "train_loss_epoch": "train_loss",
    "train_acc_epoch": "train_acc",
    "train_accuracy": "train_acc",  # Lightning
    "val_loss_epoch": "val_loss",
    "val_acc_epoch": "val_acc",
    "train/loss": "train_loss",
    "train/acc": "train_acc",
    "val/loss": "val_loss",
    "val/acc": "val_acc",
    "eval_loss": "val_loss",
    "eval_accuracy": "val_acc",  # Hugging Face
    "metrics/accuracy_top1": "val_acc",
    "lr/pg0": "learning_rate",
}  # Ultralytics
NAMES = (
    KERAS_CURVES
    | OTHERS
    | {"binary_accuracy": "train_acc", "val_binary_accuracy": "val_acc"}
    | {name: name for name in (*CURVES, *PARTS, "learning_rate", "seconds")}
)
COUNTERS = {"epoch", "step", "index", "", "run", "checkpoint", "unnamed: 0"}  # what isn't measured
HOW = 'a history is kept by: json.dump(history.history, open("history.json", "w"), default=float)'
NONE = {"", "na", "n/a", "none", "null", "nan", "-nan", "inf", "-inf", "infinity", "-infinity"}


def read(path):
    """The curves of a history of any of these kinds, and what a reader of the figure has to know.

    Args:
        path: JSON of this suite, of the original suite, of Keras' History or of pandas' to_json, or a CSVLogger's file.

    Returns:
        (dict of equally long lists, a number an epoch or None where there is none, under the names train_loss,
        train_acc, val_loss, val_acc (accuracies 0 to 1), learning_rate, seconds and the PARTS of a distillation;
        list of notes).

    Raises:
        InputError: not a history, or one that can be read in two ways.
    """
    columns = load(path)
    try:
        columns, notes = _by_epoch(columns)
        curves, more = _curves(columns)
        if (kept := checkpoint_epoch(curves | {"checkpoint": columns.get("checkpoint")})) is not None:
            curves["checkpoint"] = {"epoch": kept + 1}
        return curves, notes + more
    except ValueError as error:
        raise InputError(f"received {path}, {error}", path) from None


def load(path):
    """What a file holds before it is judged: the object of a JSON file, or {heading: column} of a table.

    Raises:
        InputError: neither.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"received {path}, which is not a file; expected a history{suggestion(path)}", path)
    size = path.stat().st_size
    if size > MAX_JSON_BYTES:
        raise InputError(f"received {path} of {size} bytes, expected at most {MAX_JSON_BYTES}", path)
    raw = path.read_bytes()
    if "tfevents" in path.name or raw.startswith(b"Wall time,Step,Value"):
        raise InputError(f"received {path}, which is a log of TensorBoard and is not read; {HOW}", path)
    if raw[:1] == b"\x80" or path.suffix in (".pkl", ".pickle", ".npy", ".npz"):
        raise InputError(f"received {path}, which is no text (a pickle?) and is not read; {HOW}", path)
    try:
        text = raw.decode("utf-16" if raw[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"received {path}, expected JSON or CSV as text ({error.reason}); {HOW}", path) from None
    try:
        content = _json(text)
        if content is None:
            content = _table(text)
        elif isinstance(content, dict) and isinstance(content.get("history"), dict):
            content = content["history"]
        elif isinstance(content, dict) and isinstance(content.get("log_history"), list):  # the last one sums up a run
            content = [row for row in content["log_history"] if not (isinstance(row, dict) and "train_runtime" in row)]
        content = _columns(content)
    except (ValueError, RecursionError, csv.Error) as error:
        raise InputError(
            f"received {path}, expected JSON or CSV of a training history ({error!s:.100}); {HOW}", path
        ) from None
    if not isinstance(content, dict):
        raise InputError(
            f"received {path}, which holds a {type(content).__name__}, expected a training history; {HOW}", path
        )
    return content


def _twice(names):
    """A name that comes again, or None."""
    return next((name for name, count in collections.Counter(names).items() if count > 1), None)


def _json(text):
    """The content of JSON, or of one JSON object a line; None where the text is a table."""

    def once(pairs):
        if again := _twice([key for key, _ in pairs]):
            raise ValueError(f"{again} stands twice in one object")
        return dict(pairs)

    start = text.lstrip()[:1]
    if start not in ("{", "[", '"'):
        try:
            return json.loads(text)
        except ValueError:
            return None
    try:
        return json.loads(text, object_pairs_hook=once)
    except json.JSONDecodeError:
        lines = [line for line in text.splitlines() if line.strip()]
        if start == '"':  # a quoted heading
            return None
        if len(lines) < 2 or not all(line.lstrip().startswith("{") for line in lines):
            raise
        return [json.loads(line, object_pairs_hook=once) for line in lines]


def _delimited(text):
    """(headings, delimiter) of a table's first line."""
    first = next(iter(text.strip().splitlines()), "")
    delimiter = max(",;\t", key=first.count)
    return next(csv.reader([first], delimiter=delimiter), []), delimiter


def _table(text):
    """{heading: column of text} of a CSV file; headings that come again, as behind an append, are passed over."""
    head, delimiter = _delimited(text)
    if again := _twice([name.strip() for name in head if name.strip()]):
        raise ValueError(f"its heading {again} stands twice")
    rows = [row for row in csv.reader(text.strip().splitlines()[1:], delimiter=delimiter) if row and row != head]
    if odd := [i for i, row in enumerate(rows, 2) if len(row) != len(head)]:
        raise ValueError(f"row {odd[0]} has {len(rows[odd[0] - 2])} fields, the head {len(head)}")
    fields = [field for row in rows for field in row]
    commas = [field for field in fields if re.fullmatch(r"\s*[-+]?\d*,\d+([eE][-+]?\d+)?\s*", field)]
    points = [field for field in fields if re.fullmatch(r"\s*[-+]?[\d,]*\.\d*([eE][-+]?\d+)?\s*", field)]
    if commas and points:  # 1,234 may be a thousand
        raise ValueError(f"it has commas and points in its numbers: {commas[0].strip()}, {points[0].strip()}")
    if commas:
        rows = [[field.replace(",", ".") for field in row] for row in rows]
    return {name.strip(): list(column) for name, column in zip(head, zip(*rows, strict=True), strict=False)}


def _columns(content):
    """{name: list} of what pandas' to_json writes, by columns, index, records, split or table; others as they are."""
    if isinstance(content, dict) and isinstance(content.get("data"), list):
        data, names = content["data"], content.get("columns")
        if isinstance(names, list) and all(isinstance(row, list) and len(row) == len(names) for row in data):
            return {str(name): [row[i] for row in data] for i, name in enumerate(names)}
        content = data
    if isinstance(content, dict) and content and all(isinstance(value, dict) for value in content.values()):
        if all(key.isdecimal() for key in content):
            content = [content[key] for key in sorted(content, key=int)]
        elif all(key.isdecimal() for value in content.values() for key in value):
            return {name: [value[key] for key in sorted(value, key=int)] for name, value in content.items()}
    if isinstance(content, list) and content and all(isinstance(row, dict) for row in content):
        if all(isinstance(value, list) for value in content[0].values()):
            raise ValueError(f"{len(content)} histories in one file; expected a file for each")
        names = dict.fromkeys(name for row in content for name in row)
        return {name: [row.get(name) for row in content] for name in names}
    return content


def _number(value):
    """A number, None for one that is missing or not finite. Raises ValueError for anything else."""
    if value is None or (isinstance(value, str) and value.strip().lower() in NONE):
        return None
    if isinstance(value, str) and len(value) < 40:
        value = float(plain(value))
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if not is_number(value):
        raise ValueError("no number")
    return float(value)


def _plain(key):
    """A heading as trainers write it, of one that people or a spreadsheet wrote: 'Validation Loss' is val_loss."""
    key = "_".join(str(key).lower().replace("-", " ").split())
    return re.sub("^validation_", "val_", re.sub("^training_", "train_", key))


def _epochs(columns):
    """The column of epochs, or an empty list."""
    return next((values for key, values in columns.items() if _plain(key) == "epoch"), [])


def _known(columns):
    """{heading: name of its curve}, for the headings that have one.

    Keras calls the metrics of a second model in one session accuracy_1 and val_accuracy_1: that is accuracy, unless
    the file has accuracy or accuracy_2 as well.
    """
    bare = {key: re.sub(r"_\d+$", "", _plain(key)) for key in columns}
    count = collections.Counter(bare.values())
    found = {
        key: NAMES.get(_plain(key)) or (NAMES.get(name) if count[name] == 1 else None) for key, name in bare.items()
    }
    return {key: name for key, name in found.items() if name}


def _curves(columns):
    """(curves, notes) as of `read`. Raises ValueError that says what is wrong."""
    curves, keys, left_out, known = {}, {}, [], _known(columns)
    for key, values in columns.items():
        name = known.get(key)
        try:
            numbers = [_number(value) for value in values] if isinstance(values, list) else None
        except ValueError:
            numbers = None
        if name and not numbers:
            raise ValueError(f"whose {key} is no list of numbers; {HOW}")
        if name and name not in curves and any(number is not None for number in numbers):
            curves[name], keys[name] = numbers, key
        elif str(key).lower() not in COUNTERS:
            left_out.append(str(key))
    if not any(name in curves for name in CURVES):
        raise ValueError(
            f"which is not a training history; expected lists of numbers named {', '.join(CURVES)} (or "
            f"loss, accuracy, val_loss, val_accuracy); {HOW}"
        )
    notes = [f"not drawn: {', '.join(left_out)[:200]}"] if left_out else []
    notes += _epochs_again(columns)
    notes += _spread(curves, keys)
    notes += _shares(curves, keys)
    for name, values in curves.items():
        gaps = [epoch for epoch, value in enumerate(values, 1) if value is None]
        if gaps and not any("validated every" in note for note in notes if name.startswith("val_")):
            notes.append(f"{keys[name]} has no number at epoch {', '.join(map(str, gaps[:10]))}")
    return curves, notes


def _by_epoch(columns):
    """(columns, notes) with the rows of one epoch in one: some trainers write training and validation apart.

    Raises ValueError where a file was written by steps.
    """
    epochs = _epochs(columns)
    rows = len(epochs) if isinstance(epochs, list) else 0
    if not rows or not all(isinstance(values, list) and len(values) == rows for values in columns.values()):
        return columns, []
    try:
        epochs = [_number(epoch) for epoch in epochs]
    except ValueError:
        return columns, []
    known = [epoch for epoch in epochs if epoch is not None]
    if any(b < a for a, b in itertools.pairwise(known)):
        return columns, []  # reported by `_epochs_again`
    distinct = list(dict.fromkeys(known))
    steps = [b - a for a, b in itertools.pairwise(distinct)]
    how = 'expected one record an epoch (Lightning: on_epoch=True; Hugging Face: logging_strategy="epoch")'
    if steps and min(steps) < 0.9:
        raise ValueError(
            f"which was written by steps: its epochs are {', '.join(f'{e:g}' for e in distinct[:3])}, ...; {how}"
        )
    if len(known) == len(distinct) == rows:
        return columns, _skips(distinct, steps)
    if len(known) < rows:
        raise ValueError(f"whose row {epochs.index(None) + 1} has no epoch; {how}")
    merged = {}
    for key, values in columns.items():
        cells = {epoch: [] for epoch in distinct}
        for epoch, value in zip(epochs, values, strict=True):
            if value is not None and str(value).strip().lower() not in NONE:
                cells[epoch].append(value)
        several = [epoch for epoch, found in cells.items() if len(found) > 1]
        if several and NAMES.get(key) in CURVES:
            raise ValueError(
                f"whose {key} has {len(cells[several[0]])} numbers in epoch {several[0]:g}, as written by steps; {how}"
            )
        merged[key] = [found[-1] if found else None for found in cells.values()]
    return merged, _skips(distinct, steps)


def _skips(epochs, steps):
    """A note where epochs are missing between those of a file."""
    return (
        [f"its epochs are {', '.join(f'{e:g}' for e in epochs[:3])}, ...: drawn one behind the other"]
        if steps and max(steps) > 1.1
        else []
    )


def _epochs_again(columns):
    """A note where a column of epochs starts again, as CSVLogger's does when a later run appends to it."""
    try:
        epochs = [_number(value) for value in _epochs(columns)]
        again = [i for i, (a, b) in enumerate(itertools.pairwise(epochs), 2) if b <= a]
    except (ValueError, TypeError):
        return []
    return (
        [f"its epochs start again in row {again[0]}; all {len(epochs)} rows are drawn one behind the other"]
        if again
        else []
    )


def _spread(curves, keys):
    """Puts validation curves of every k-th epoch (validation_freq) at their epochs; returns notes.

    Raises ValueError where lists of other lengths aren't that, or could be for two k.
    """
    lengths = {name: len(values) for name, values in curves.items()}
    most = {name: n for name, n in lengths.items() if not name.startswith("val_")} or lengths
    epochs = max(most.values(), key=list(most.values()).count)
    if odd := [name for name, n in lengths.items() if n != epochs and (name in most or n > epochs)]:
        raise ValueError(
            f"whose {keys[odd[0]]} has {lengths[odd[0]]} numbers where others have {epochs}; expected one "
            "an epoch in each list"
        )
    short = {name: n for name, n in lengths.items() if n != epochs}
    if not short:
        return []
    count = next(iter(short.values()))
    every = [k for k in range(2, epochs + 1) if epochs // k == count]
    if len(every) != 1 or len({lengths[name] for name in lengths if name.startswith("val_")}) != 1:
        counts = ", ".join(f"{keys[name]} has {n}" for name, n in short.items())
        raise ValueError(
            f"whose lists don't fit each other: {counts} numbers, the others {epochs}, which tells no "
            "validation_freq; expected one number an epoch, or null where there is none"
        )
    for name in short:
        values = iter(curves[name])
        curves[name] = [next(values) if epoch % every[0] == 0 else None for epoch in range(1, epochs + 1)]
    names = " and ".join(keys[name] for name in short)
    return [
        f"assumed to be validated every {every[0]} epochs: the file doesn't say at which epochs the {count} "
        f"numbers of {names} were measured"
    ]


def _shares(curves, keys):
    """Turns accuracies in per cent into shares; returns notes. Raises ValueError where they are in doubt."""
    for name in ("train_acc", "val_acc"):
        if (lowest := min((v for v in curves.get(name, []) if v is not None), default=0)) < 0:
            raise ValueError(
                f"in which {keys[name]} goes down to {lowest:g}; expected accuracies from 0 to 1, or all in per cent"
            )
    highest = {
        name: max(v for v in curves[name] if v is not None) for name in ("train_acc", "val_acc") if name in curves
    }
    if not highest or max(highest.values()) <= 1:
        return []
    if max(highest.values()) > 100 or min(highest.values()) <= 1:
        highs = ", ".join(f"{keys[name]} goes up to {value:g}" for name, value in highest.items())
        raise ValueError(f"in which {highs}; expected accuracies from 0 to 1, or all in per cent")
    for name in highest:
        curves[name] = [None if value is None else value / 100 for value in curves[name]]
    return [f"{' and '.join(keys[name] for name in highest)} read as per cent"]
