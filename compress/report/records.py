"""The records below a folder, checked number by number, and the models that they are of. Imports no Keras."""

import os
from pathlib import Path, PurePosixPath

from compress.errors import InputError, one_line
from compress.report import bases, comparing
from compress.report.tree import Point, Run, Tree, checksum, mapping, text, within
from compress.storage import records

SWEEP = "sweep.json"
MOST_FILES, MOST_ROWS = 5000, 1000  # JSON files that are read, and models or layers that one of them may name
# smallest and largest number that a record may hold under a key; shares are not in per cent
LIMITS = {
    "acc": (0, 1),
    "sparsity": (-1000, 1),
    "parameters": (1, 1e15),
    "macs": (1, 1e18),
    "bytes": (1, 1e18),
    "compression_rate": (1e-6, 1e9),
    "latency_ms_median": (1e-6, 1e9),
    "images": (1, 1e12),
    "agreement": (0, 1),
    "channels": (1, 1e6),
}
SIZES = ("parameters", "macs", "bytes", "compression_rate", "sparsity", "latency_ms_median")
ITERATION = ("base_acc", "pruned_acc", "final_acc", "sparsity")  # lists that any pruning result has
MORE_OF_ITERATION = ("recalibrated_acc", "parameters", "macs", "bytes", "compression_rate")


def _checked(value, key, name=None):
    """A number of a file that lies within LIMITS; whole numbers stay whole."""
    low, high = LIMITS["acc" if key.endswith("acc") else key]
    if not (records.is_number(value) and low <= value <= high):
        raise InputError(f"received {name or key}={text(value, 60)}, expected a number from {low:g} to {high:g}")
    return value


def _sizes(content):
    """Those of SIZES that a record has."""
    return {key: _checked(content[key], key) for key in SIZES if content.get(key) is not None}


def _setting(content):
    """Data set, split and number of images that a record's accuracies are of."""
    flags, images = mapping(mapping(content.get("run")).get("flags")), content.get("images")
    dataset = content.get("dataset") or flags.get("dataset") or "unknown data"
    return {
        "dataset": text(os.path.basename(os.path.normpath(text(dataset))), 40),
        "split": text(content.get("split") or "unknown split", 20),
        "images": None if images is None else _checked(images, "images"),
    }


def _rows(content, key):
    """A list of dicts under a key."""
    rows = content[key]
    if not (0 < len(rows) <= MOST_ROWS and all(isinstance(row, dict) for row in rows)):
        raise InputError(f"received {key} of {len(rows)} entries, expected 1 to {MOST_ROWS} objects")
    return rows


def _trained(run):
    """The model of a result.json of train_base_model.py or knowledge_distillation.py."""
    sizes = _sizes(run.content)
    if run.kind == "student":
        _checked(run.content["teacher_acc"], "teacher_acc")
    return [
        Point(
            run.name,
            run.kind,
            _checked(run.content["val_acc"], "val_acc"),
            **_setting(run.content),
            sizes=sizes,
            sha256=checksum(run.content.get("sha256")),
            file=run.path.with_name("model.h5"),
        )
    ]


def _pruned(run):
    """The models of a result.json of prune_model.py, one an iteration."""
    content, count = run.content, len(run.content["final_acc"])
    if not 0 < count <= MOST_ROWS:
        raise InputError(f"{count} pruning iterations are finished, expected 1 to {MOST_ROWS}")
    lists = [*ITERATION, *(key for key in MORE_OF_ITERATION if content.get(key))]
    for key in lists:
        if not isinstance(content.get(key), list) or len(content[key]) != count:
            raise InputError(f"received {key}={text(content.get(key), 60)}, expected {count} numbers, one an iteration")
        for value in content[key]:
            _checked(value, "acc" if key == "sparsity" else key, key)  # pruning adds nothing
    channels, sums = content.get("channels", {}), content.get("sha256", [])
    if not (
        isinstance(channels, dict)
        and len(channels) <= MOST_ROWS
        and all(records.is_curve(left, count + 1) and min(left) >= 1 and max(left) <= 1e6 for left in channels.values())
    ):
        raise InputError(f"received channels={text(channels, 60)}, expected {count + 1} counts for each layer")
    sums = list(map(checksum, sums)) if isinstance(sums, list) and len(sums) == count else [None] * count
    return [
        Point(
            f"{run.name}/iter{i + 1}",
            run.kind,
            content["final_acc"][i],
            sha256=sums[i],
            sizes={key: content[key][i] for key in lists if key in SIZES},
            file=run.path.parent / f"iter{i + 1}" / "model.h5",
            **_setting(content),
        )
        for i in range(count)
    ]


def _ablation(run):
    """The models of an ablation.json; `_settle` takes those out that have a record of their own."""
    rows = _rows(run.content, "rows")
    for row in rows:
        _checked(row.get("val_acc"), "val_acc")
        if row.get("test_acc") is not None:
            _checked(row["test_acc"], "test_acc")
    return [
        Point(
            f"{run.name}: {text(row.get('name', '?'), 60)}",
            run.kind,
            row["val_acc"],
            sizes={},
            sha256=checksum(row.get("sha256")),
            **_setting(run.content),
        )
        for row in rows
    ]


def _evaluation(run):
    """The models of evaluate_model.py --output."""
    return [
        Point(
            text(row.get("name", "?"), 80),
            run.kind,
            _checked(row.get("acc"), "acc"),
            sizes=_sizes(row),
            sha256=checksum(row.get("sha256")),
            **_setting(run.content),
        )
        for row in _rows(run.content, "models")
    ]


def _export(run):
    """The files of export.json."""
    if run.content.get("not_measured"):
        raise InputError("its files were written without images to measure them on")
    rows = _rows(run.content, "files")
    for row in rows:
        if row.get("agreement") is not None:
            _checked(row["agreement"], "agreement")
    return [
        Point(
            text(row.get("format", "?"), 40),
            run.kind,
            _checked(row.get("acc"), "acc"),
            sizes=_sizes(row),
            sha256=checksum(run.content.get("sha256")),
            **_setting(run.content),
        )
        for row in rows
    ]


def _sensitivity(run):
    """The whole network of sensitivity.py --output."""
    shares, rows = run.content.get("shares"), _rows(run.content, "layers")
    if not (records.is_curve(shares) and min(shares) >= 0 and max(shares) <= 1):
        raise InputError(f"received shares={text(shares, 60)}, expected numbers from 0 to 1")
    for row in rows:
        if not records.is_curve(row.get("acc"), len(shares)):
            raise InputError(f"received acc={text(row.get('acc'), 60)} of a layer, expected {len(shares)} numbers")
        for value in row["acc"]:
            _checked(value, "acc")
        _checked(row.get("channels"), "channels")
    return [
        Point(
            run.name,
            run.kind,
            _checked(run.content.get("acc"), "acc"),
            sizes={},
            sha256=checksum(run.content.get("sha256")),
            **_setting(run.content),
        )
    ]


READERS = {
    "base": _trained,
    "pruned": _pruned,
    "student": _trained,
    "ablation": _ablation,
    "evaluation": _evaluation,
    "export": _export,
    "sensitivity": _sensitivity,
}  # in the order in which a report shows them


def kind_of(content):
    """What wrote a JSON object: a name of READERS, 'history', or None for a stranger's."""
    if isinstance(content.get("final_acc"), list):
        return "pruned"
    for key, kind in (("rows", "ablation"), ("models", "evaluation"), ("files", "export"), ("layers", "sensitivity")):
        if isinstance(content.get(key), list) and "split" in content:
            return kind
    if "val_acc" in content and not isinstance(content["val_acc"], list):
        return "student" if "teacher_acc" in content else "base"
    curves = mapping(content.get("history")) or content
    return (
        "history"
        if any(isinstance(curves.get(key), list) for key in (*records.CURVES, *records.KERAS_CURVES))
        else None
    )


def _json_files(root):
    """All JSON files below a folder, sorted; hidden folders, links and a SavedModel's assets are not entered."""
    found = []
    for folder, inside, names in os.walk(root):
        inside[:] = sorted(name for name in inside if not name.startswith(".") and name != "assets.extra")
        found += [Path(folder) / name for name in sorted(names) if name.endswith(".json") and not name.startswith(".")]
        if len(found) > MOST_FILES:
            raise InputError(
                f"received {root} with more than {MOST_FILES} .json files below, expected a folder of models", root
            )
    return found


def read_record(path, root):
    """The run whose record a JSON file is, or None where it is a history beside its result.

    Raises:
        InputError: it can't be read, or is none of the suite's; the text says why, not which file.
    """
    if not within(path, root):
        raise InputError("a link out of the folder")
    try:
        content = records.read_json(path)
    except InputError as error:
        why = str(error).removeprefix(f"received {path}, ")  # a report names the file itself
        raise InputError(why.removeprefix("which ")) from None
    except OSError as error:
        raise InputError(error.strerror or one_line(error)) from None
    kind = kind_of(content)
    if path.name == SWEEP and "sweep" in content:  # says which runs belong together, and is none
        return None
    if kind == "history":
        if path.name == "history.json" and not (path.parent / records.STATE).exists():
            return None
        raise InputError(
            "a history, whose run is not finished"
            if path.name == "history.json"
            else "a history; plot_train_history.py draws it"
        )
    if kind is None:
        raise InputError("none of the suite's records")
    folder = path.parent.relative_to(root).as_posix()
    run = Run(text(root.resolve().name or "." if folder == "." else folder), kind, path, content, [])
    run.points = READERS[kind](run)
    for point in run.points:
        point.when = text(run.record.get("started") or "", 40)
    return run


def read_tree(root, progress=iter):
    """All records below a folder.

    Args:
        root: the folder.
        progress: wraps the range of files.

    Returns:
        A Tree; the runs are in the order of READERS.

    Raises:
        InputError: no folder, or no record in it that can be shown.
    """
    root = Path(root)
    if not root.is_dir():
        raise InputError(f"received {root}, which is not a folder; expected one with runs below, such as ./model", root)
    tree, paths = Tree(root, [], []), _json_files(root)
    for i in progress(range(0, len(paths), 1)):
        try:
            if run := read_record(paths[i], root):
                tree.runs.append(run)
        except InputError as error:
            tree.skipped.append((text(paths[i].relative_to(root).as_posix(), 200), text(str(error), 300)))
    if not tree.runs:
        first = f" ({tree.skipped[0][0]}: {tree.skipped[0][1]})" if tree.skipped else ""
        raise InputError(
            f"received {root}, below which lies no record that can be shown{first}; expected result.json "
            "files, such as train_base_model.py writes",
            root,
        )
    tree.runs.sort(key=lambda run: (list(READERS).index(run.kind), run.shipped))  # the user's own first
    _settle(tree)
    if sweep := comparing.read(tree):
        tree.sweep, missing = sweep, {*sweep.unfinished, *sweep.stopped} - {"."}
        for point in tree.points:
            point.label = sweep.labels.get(point.name, "")
        # their files are what a stopped run leaves, and tell nothing of their own
        tree.skipped = [
            (file, why) for file, why in tree.skipped if missing.isdisjoint(map(str, PurePosixPath(file).parents))
        ]
    return tree


def _settle(tree):
    """Brings together what several records say of one model, known by its checksum.

    Evaluations and exports get the name of the model's own record. Of an ablation those rows go that have a record,
    the teacher and the student itself; the other students have that one's widths, and so its size. Roles are settled
    here too: a student that another one was distilled from is an assistant.
    """
    taught = {run.parent for run in tree.of_kind("student")} - {None}
    for point in (p for run in tree.of_kind("base", "pruned", "student", "ablation") for p in run.points):
        point.role = (
            "assistant"
            if point.kind == "student" and point.sha256 in taught
            else "student"
            if point.kind == "ablation"
            else point.kind
        )
    for point in (p for run in tree.runs if run.shipped for p in run.points):
        point.shipped = True
    for run in tree.of_kind("evaluation", "export", "sensitivity"):
        for point in run.points:
            own = tree.model(point.sha256)
            point.role, point.shipped = (own.role, own.shipped) if own else (None, False)
            if run.kind != "export":
                point.name = own.name if own else point.name
            else:
                point.name = f"{own.name if own else run.name}, {point.name}"
    recorded = {point.sha256: point for run in tree.of_kind("base", "pruned", "student") for point in run.points}
    recorded.pop(None, None)
    for run in tree.of_kind("ablation"):
        student = next(
            (recorded[p.sha256] for p in run.points if p.sha256 in recorded and recorded[p.sha256].kind == "student"),
            None,
        )
        run.points = [point for point in run.points if point.sha256 not in {*recorded, run.parent} - {None}]
        for point in run.points if student else []:
            point.sizes = {key: student.sizes[key] for key in ("parameters", "macs") if key in student.sizes}
    bases.settle(tree)
