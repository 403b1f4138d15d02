"""The tables of a report: headings, and cells of text with the value that they are sorted by. Imports no Keras."""

import dataclasses
import shlex

from compress.cli import display
from compress.cli import tables as display_tables
from compress.report.tree import mapping, text
from compress.storage import records

SHORT = 12  # digits of a checksum that a page shows
NOTHING = "-"


@dataclasses.dataclass
class Table:
    """What a page shows as one table.

    Attributes:
        slug: its id.
        caption: what it holds, for all who can't see what stands around it.
        columns: (heading, whether it holds numbers) each; the first names the row.
        rows: lists of (text, value to sort by: a number, a text, or None for nothing).
    """

    slug: str
    caption: str
    columns: list
    rows: list


def cell(value, form):
    """A number as a cell, as `form` writes it; a dash for None."""
    return (NOTHING, None) if value is None else (form(value), value)


def word(value, width=60):
    """A text of a file as a cell."""
    return (text(value, width), text(value, width)) if value not in (None, "") else (NOTHING, None)


def count(number):
    """A count, such as '23.61 M', '0.1273 M' or, of a small model, '4.712 k'."""
    return display.millions(number) if number >= 1e5 else f"{number / 1e3:.4g} k"


def megabytes(number):
    """Bytes in units of 10^6, such as '95.03 MB', or '61.44 kB' of a small file."""
    return f"{display.millions(number)}B" if number >= 1e5 else f"{number / 1e3:.4g} kB"


def times(number):
    """A ratio, such as '13.15x'."""
    return f"{number:,.2f}x"


def _sizes(sizes):
    """Cells of what a point's sizes hold, a dash for what they lack."""
    forms = {
        "parameters": count,
        "macs": count,
        "bytes": megabytes,
        "compression_rate": times,
        "sparsity": display.percent,
        "latency_ms_median": lambda v: f"{v:,.2f} ms",
    }
    return [cell(sizes.get(key), form) for key, form in forms.items()]


SIZE_COLUMNS = [
    ("parameters", True),
    ("MACs", True),
    ("file", True),
    ("compression rate", True),
    ("sparsity", True),
    ("latency", True),
]


def models(tree, unbeaten):
    """Every model and every accuracy that a record names.

    Args:
        tree: a tree.Tree.
        unbeaten: {id of a tree.Point: names of the sizes by which no smaller model beats it}.
    """
    rows = [
        [
            *[word(p.name, 80), cell(p.acc, display.percent), word(p.group, 100), word(p.what), *_sizes(p.sizes)],
            word(", ".join(unbeaten.get(id(p), []))),
        ]
        for p in tree.points
    ]
    return Table(
        "models",
        "Every model, with each accuracy that a record names and the images that it is of",
        [("model", False), ("accuracy", True), ("images", False), ("kind", False), *SIZE_COLUMNS, ("front", False)],
        rows,
    )


def pruning(run, number):
    """The iterations of a pruning run."""
    columns = [
        ("before", "base_acc"),
        ("after pruning", "pruned_acc"),
        ("after recalibration", "recalibrated_acc"),
        ("after fine-tuning", "final_acc"),
    ]
    columns = [(heading, key) for heading, key in columns if run.content.get(key)]
    rows = [
        [
            (str(i + 1), i + 1),
            *[cell(run.content[key][i], display.percent) for _, key in columns],
            *_sizes({"sparsity": run.content["sparsity"][i]} | point.sizes)[:-1],
        ]
        for i, point in enumerate(run.points)
    ]
    return Table(
        f"pruning-{number}",
        f"Accuracy ({run.points[0].group}) and size over the iterations of {run.name}",
        [("iteration", True), *[(heading, True) for heading, _ in columns], *SIZE_COLUMNS[:-1]],
        rows,
    )


def ablation(run, number):
    """The rows of an ablation, the difference to its teacher in points too."""
    rows, teacher = run.content["rows"], run.content["rows"][0]["val_acc"]
    tested = any(row.get("test_acc") is not None for row in rows)
    cells = [
        [
            word(row.get("name")),
            cell(row["val_acc"], display.percent),
            cell(100 * (row["val_acc"] - teacher), "{:+.2f}".format),
            *([cell(row.get("test_acc"), display.percent)] if tested else []),
        ]
        for row in rows
    ]
    return Table(
        f"ablation-{number}",
        f"Accuracy of the same student by each combination of losses, {run.name}",
        [
            ("losses", False),
            ("validation accuracy", True),
            ("to the first row, points", True),
            *([("test accuracy", True)] if tested else []),
        ],
        cells,
    )


def sensitivity(run, number):
    """Accuracy without a share of the channels of one layer: a row a layer."""
    rows = [
        [
            word(str(row.get("layer")).removesuffix("_conv")),
            cell(row["channels"], "{:,}".format),
            *[cell(acc, display.percent) for acc in row["acc"]],
        ]
        for row in run.content["layers"]
    ]
    return Table(
        f"sensitivity-{number}",
        f"Accuracy ({run.points[0].group}) without a share of one layer's channels, {run.points[0].name}",
        [("layer", False), ("channels", True), *[(f"{100 * share:g} %", True) for share in run.content["shares"]]],
        rows,
    )


def exports(run, number):
    """The files of an export."""
    rows = [
        [
            word(row.get("format")),
            word(row.get("runtime")),
            cell(row["acc"], display.percent),
            cell(row.get("agreement"), display.percent),
            *[_sizes(point.sizes)[i] for i in (2, 5)],
            word(row.get("threads"), 6),
        ]
        for row, point in zip(run.content["files"], run.points, strict=True)
    ]
    return Table(
        f"export-{number}",
        f"Exported files of {run.name}; accuracies of {run.points[0].group}",
        [
            ("format", False),
            ("runtime", False),
            ("accuracy", True),
            ("agreement with the .h5", True),
            ("file", True),
            ("latency", True),
            ("threads", True),
        ],
        rows,
    )


def classes(names, matrices, labels, number):
    """The accuracy of every class in two models, the class that lost most first.

    Args:
        names: of the classes.
        matrices: two (classes, classes) arrays of counts, [true, answered].
        labels: names of the two models.
        number: of the pair.

    Returns:
        (Table, indices of the classes with images in the table's order).
    """
    count = matrices[0].sum(1)
    before, after = (matrix.diagonal() / count.clip(1) for matrix in matrices)
    order = sorted((i for i in range(len(names)) if count[i]), key=lambda i: (after[i] - before[i], i))
    rows = [
        [
            word(names[i]),
            cell(int(count[i]), "{:,}".format),
            cell(before[i], display.percent),
            cell(after[i], display.percent),
            cell(100 * (after[i] - before[i]), "{:+.2f}".format),
        ]
        for i in order
    ]
    return Table(
        f"classes-{number}",
        f"Validation accuracy of every class, {labels[0]} and {labels[1]}",
        [
            ("class", False),
            ("images", True),
            (text(labels[0], 30), True),
            (text(labels[1], 30), True),
            ("change, points", True),
        ],
        rows,
    ), order


def parents(tree, run):
    """The chains of models that led to a run's last one, or to each that it evaluated, as texts."""
    sums = [point.sha256 for point in run.points if point.sha256]
    sums = list(dict.fromkeys(sums if run.kind in ("evaluation", "export") else sums[-1:]))
    if run.kind == "ablation":
        sums = [run.parent] if run.parent else []
    chains = []
    for last in sums:
        links = []
        for digest in tree.chain(last):
            point = tree.model(digest)
            links.append(f"{point.name if point else 'not below this folder'} ({text(digest, 64)[:SHORT]})")
        chains.append(" → ".join(links))
    if run.kind == "base" and run.parent is None and "parent_sha256" in (run.content | run.record):
        return ["random weights"]
    return chains or ["unknown: the record names no checksum"]


def backend(record):
    """What computed a run, such as 'jax 0.8.0, 2 devices', or 'jax 0.8.0, 2, then 1 devices' of one that went on.

    Args:
        record: what `records.run_record` wrote, or anything that a file has in its place.

    Returns:
        A cell.
    """
    name, devices = text(record.get("backend") or "", 30), record.get("devices")
    if not name:
        return NOTHING, None
    version = mapping(record.get("versions")).get(name)
    shown = f"{name} {text(version, 20)}" if version else name
    if records.is_curve(devices) and devices != [1]:
        counts = ", then ".join(f"{number:,.6g}" for number in devices[:6])
        shown += f", {counts} devices"
    return shown, shown


def _duration(seconds):
    return (
        f"{seconds:.1f} s"
        if seconds < 100
        else f"{seconds / 60:.1f} min"
        if seconds < 6000
        else (f"{seconds / 3600:.1f} h")
    )


def runs(tree):
    """One row a record: what made it."""
    rows = []
    for run in tree.runs:
        record, versions, argv = run.record, mapping(run.record.get("versions")), run.record.get("argv")
        seconds, seed = run.content.get("seconds"), record.get("seed")
        if isinstance(seconds, list):
            seconds = sum(v for v in seconds if type(v) is float and 0 <= v < 1e9) or None
        seconds = seconds if type(seconds) in (int, float) and 0 <= seconds < 1e9 else None
        script = argv[0] if isinstance(argv, list) and argv else None
        started = text(record.get("started") or "", 40)[:16].replace("T", " ")
        state = "not finished" if run.content.get("finished") is False else "finished"
        rows.append(
            [
                word(run.path.relative_to(tree.root).as_posix(), 80),
                word(script),
                word(state),
                (text(seed), seed if records.is_number(seed) else None),
                word(started),
                cell(seconds, _duration),
                word(versions.get("keras")),
                backend(record),
                word(record.get("processor")),
            ]
        )
    return Table(
        "runs",
        "Every record that was read, and what made it",
        [
            ("record", False),
            ("script", False),
            ("state", False),
            ("seed", True),
            ("started", False),
            ("trained", True),
            ("Keras", False),
            ("backend", False),
            ("processor", False),
        ],
        rows,
    )


def details(tree, run):
    """All that a record says of how it was made.

    Returns:
        (list of (what, text), list of (flag, text)).
    """
    record, flags, first = run.record, run.flags, run.points[0] if run.points else None
    argv = record.get("argv")
    command = shlex.join(map(str, argv)) if isinstance(argv, list) else None
    trained_on = run.content.get("train_images")
    split = first and (
        f"{first.group}"
        + (f"; trained on {text(trained_on, 20)}" if trained_on else "")
        + "".join(f"; {as_flag(name, flags[name], 20)}" for name in ("val_split", "subset") if flags.get(name))
    )
    versions = ", ".join(f"{text(k, 20)} {text(v, 20)}" for k, v in list(mapping(record.get("versions")).items())[:20])
    facts = [
        ("command", command and text(f"python {command}", 1000)),
        ("data split", split),
        ("seed", None if record.get("seed") is None else text(record["seed"])),
        ("versions", versions or None),
        ("backend", backend(record)[1]),
        ("processor", record.get("processor")),
        ("cores", record.get("cores")),
        ("started", record.get("started")),
    ]
    facts = [(what, [text(value, 1000)]) for what, value in facts if value]
    facts.append(("came from", [text(chain, 5000) for chain in parents(tree, run)]))
    return facts, [(text(f"--{key}", 60), text(value, 200)) for key, value in list(flags.items())[:200]]


def as_flag(name, value, width=40):
    """A flag of a record as it was typed, such as '--val_split 0.1'."""
    return f"--{name} {text(display_tables.amount(value), width)}"
