#!/usr/bin/env python3
"""Rebuilds the result tables and figures of the documentation from the records under experiments/records.

`make results` runs it. A table stands in README.md or docs/results.md between two comments, `<!-- results:NAME -->` and
`<!-- /results:NAME -->`. Nothing between them is typed by hand.

- Columns and rows of a table stand in tables.json. Row ROW of table NAME is records/NAME/ROW/result.json, or one
  records/NAME/ROW/seedN/result.json for each seed, whose means are shown.
- The test accuracy of a row's model comes from any evaluation.json that has the model's sha256. The earlier runs that
  it comes from are found by the sha256 of its parent.
- A pruning run of many iterations is records/NAME/result.json itself: a table with a row for each iteration, and two
  figures.
- 'figure' in tables.json asks for a figure of accuracy against size. records/NAME/sensitivity.json is drawn too.
  Figures go to docs/img.
- Table 'shipped': the student under model/kd_model, the models that it comes from, and the pruned network of its base.
- Table 'exports': the files of records/exports/MODEL/export.json.
- Table 'demo': records/demo/evaluation.json, which is the results.json of `make demo`.
"""

import argparse
import json
import re
import shutil
import statistics
import sys
from pathlib import Path

from readings import gaps, last, machine, measured, read

ROOT = Path(__file__).resolve().parents[1]
PAGES = ("README.md", "docs/index.md", "docs/results.md", "docs/how-to/transfer-learning.md")
TABLES = json.loads((Path(__file__).with_name("tables.json")).read_text(encoding="utf-8"))
COLUMNS = {  # heading: (key of `measured`, format, factor)
    "validation": ("validation", "{:.2f}", 100),
    "test": ("test", "{:.2f}", 100),
    "int8 validation": ("int8", "{:.2f}", 100),
    "int8 file (kB)": ("int8_bytes", "{:.1f}", 1e-3),
    "after fine-tuning": ("validation", "{:.2f}", 100),
    "after pruning": ("pruned_acc", "{:.2f}", 100),
    "after recalibration": ("recalibrated_acc", "{:.2f}", 100),
    "sparsity": ("sparsity", "{:.2f}", 100),
    "parameters (M)": ("parameters", "{:.2f}", 1e-6),
    "parameters (k)": ("parameters", "{:.1f}", 1e-3),
    "MACs (M)": ("macs", "{:.2f}", 1e-6),
    "file (MB)": ("bytes", "{:.2f}", 1e-6),
    "file (kB)": ("bytes", "{:.1f}", 1e-3),
    "compression rate": ("compression rate", "{:.2f}x", 1),
    "minutes": ("seconds", "{:.1f}", 1 / 60),
}
PACKAGES = {"keras": "Keras", "tensorflow": "TensorFlow", "onnxruntime": "ONNX Runtime", "ai-edge-litert": "LiteRT"}


def spread(values, form):
    """The mean of values, with ± their sample standard deviation if the format shows a difference between them.

    Args:
        values: list of numbers; one that is None gives '-'.
        form: format of a number, such as '{:.2f}x'.
    """
    if None in values:
        return "-"
    mean = form.format(statistics.fmean(values))
    several = len({form.format(value) for value in values}) > 1
    return f"{mean} ± {form.removesuffix('x').format(statistics.stdev(values))}" if several else mean


def markdown(rows, columns):
    """A table in Markdown.

    Args:
        rows: {label: list of dicts of `measured`, one for each seed}.
        columns: headings, each a key of COLUMNS or 'epochs' or 'seeds'.
    """
    lines = ["| | " + " | ".join(columns) + " |", "| --- |" + " ---: |" * len(columns)]
    for label, runs in rows.items():
        cells = {
            "epochs": " / ".join(dict.fromkeys(run["epochs"] for run in runs)),
            "seeds": ", ".join(str(run["seed"]) for run in runs),
        }
        for heading, (key, form, factor) in COLUMNS.items():
            values = [None if run[key] is None else run[key] * factor for run in runs]
            several = heading == "minutes" and len({run["machine"] for run in runs}) > 1  # a mean would say nothing
            cells[heading] = " / ".join(map(form.format, values)) if several else spread(values, form)
        lines.append("| " + " | ".join([label, *(cells[column] for column in columns)]) + " |")
    return "\n".join(lines)


def split_of(contents, tested):
    """The numbers of images behind a table as text.

    Args:
        contents: the records of the table.
        tested: as from `read`.

    Raises:
        ValueError: its models were tested on different numbers of images, so their accuracies aren't comparable.
    """
    images = {row["images"] for c in contents if (row := tested.get(last(c, "sha256")))}
    if len(images) > 1:
        raise ValueError(f"one table has tests of {sorted(images)} images; they can't be compared")
    test = f", the first {images.pop():,} test images" if images else ""
    counts = dict.fromkeys(f"{c['train_images']:,} training and {c['images']:,} validation images" for c in contents)
    return " or ".join(counts) + test


def caption(contents, split, call):
    """The caption of a table: split, machines (with their seeds if there are several), versions, and the command.

    Args:
        contents: the records of the table.
        split: from `split_of`.
        call: arguments of reproduce.sh.
    """

    def shared(values):
        return ", ".join(dict.fromkeys(values))

    runs = [content["run"] for content in contents]
    # Seeds may have run on several machines, whose minutes differ: the caption says which seed ran where.
    seeds = {}  # {machine: {seed: None}}, a dict as an ordered set
    for run in runs:
        seeds.setdefault(machine(run), {})[str(run["seed"])] = None
    machines = "; ".join(
        f"{name} (seed{'s' * (len(of) > 1)} {', '.join(of)})" if len(seeds) > 1 else name for name, of in seeds.items()
    )
    versions = shared(
        f"{PACKAGES[name]} {version}" for run in runs for name, version in run["versions"].items() if name in PACKAGES
    )
    return f"Accuracies in per cent; {split}. {machines}; {versions}. Made by `./experiments/reproduce.sh {call}`."


def call_of(name, contents):
    """The arguments of reproduce.sh for a table: its name and the seeds of its records."""
    return " ".join([name, *map(str, sorted({content["run"]["seed"] for content in contents}))])


def iterations(content, results):
    """The rows of a pruning run, {number of the iteration: [dict of `measured`]}."""
    # A pruning record has lists with an item for each iteration. A record of iteration i alone has only item i.
    lists = {key: values for key, values in content.items() if isinstance(values, list)}
    return {
        str(i + 1): [measured(content | {key: values[i] for key, values in lists.items()}, results, {})]
        for i in range(len(lists["final_acc"]))
    }


def grouped(name, results):
    """The records of a table's rows, {label: [result of each seed]}, without rows that have no record."""
    rows = {
        label: [
            results[path]
            for path in sorted(results)
            if re.fullmatch(re.escape(f"{name}/{folder}") + r"(/seed\d+)?", path)
        ]
        for folder, label in TABLES[name]["rows"].items()
    }
    return {label: found for label, found in rows.items() if found}


def figures(results):
    """Draws all figures: pruning runs, models by accuracy and size, and curves of sensitivity.py."""
    from compress.plots import comparison, pruning, style

    images = ROOT / "docs" / "img"
    images.mkdir(parents=True, exist_ok=True)
    for name, table in TABLES.items():
        if name in results:  # a pruning run of many iterations
            layers = {
                layer.removesuffix("_conv"): left
                for layer, left in results[name]["channels"].items()
                if layer.endswith(("_1_conv", "_2_conv"))
            }
            style.save_figure(pruning.plot_pruning(results[name]), images / f"{name}-pruning.png")
            style.save_figure(pruning.plot_channels(layers), images / f"{name}-channels.png")
        if table.get("figure") and len(rows := grouped(name, results)) > 1:
            roles = [role_of(contents[0], results) for contents in rows.values()]
            models = [averaged(*row) | {"role": role} for row, role in zip(rows.items(), roles, strict=True)]
            style.save_figure(comparison.plot_models(models, "validation"), images / f"{name}-models.png")
        if (path := ROOT / "experiments" / "records" / name / "sensitivity.json").is_file():
            curves = json.loads(path.read_text(encoding="utf-8"))
            style.save_figure(comparison.plot_sensitivity(curves), images / f"{name}-sensitivity.png")


def role_of(content, results):
    """The role of a result's model, a key of `roles.LOOKS`: a student that later was a teacher is an assistant."""
    from compress.plots import roles

    role = roles.of_run(content["run"])
    taught = {run.get("parent_sha256") for run in results.values() if roles.of_run(run["run"]) == "student"}
    return "assistant" if role == "student" and content["sha256"] in taught else role


def averaged(label, contents):
    """A row of a table as `comparison.plot_models` takes it: means over its seeds, and their standard deviation."""
    runs = [measured(content, {}, {}) for content in contents]
    accuracies = [run["validation"] for run in runs]
    return {
        "name": label,
        "test_acc": statistics.fmean(accuracies),
        "spread": statistics.stdev(accuracies) if len(runs) > 1 else 0.0,
        **{key: statistics.fmean(run[key] for run in runs) for key in ("parameters", "macs")},
    }


def shipped(results, tested):
    """The table of the student under model/kd_model, or '' where another student lies there.

    Its rows are the models that it comes from, from the base on, and the network that was pruned from the same base.
    """
    path = ROOT / "model" / "kd_model" / "result.json"
    content = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    if content.get("shipped") is not True:
        return ""
    results = results | {"shipped": content}
    # Records name their parents by checksum: from the student back to the base, which has no parent.
    family, parent, table = [content], content["parent_sha256"], ""
    while found := [(path, run) for path, run in results.items() if parent is not None and parent in run["sha256"]]:
        family, parent, table = [found[0][1], *family], found[0][1].get("parent_sha256"), found[0][0].split("/")[0]
    # One model between base and student is its teacher, which is an assistant if it was itself a student. Several are
    # numbered.
    between = (
        [f"teacher {i}" for i in range(1, len(family) - 1)]
        if len(family) > 3
        else [
            "teacher's assistant" if role_of(run, results) == "assistant" else "the student's teacher"
            for run in family[1:2]
        ]
    )
    names = ["base", *between[: len(family) - 2], "student"]
    rows = dict(zip(names, family, strict=True))
    pruned = [run for run in results.values() if "final_acc" in run and run.get("parent_sha256") == family[0]["sha256"]]
    if pruned:
        rows = {"base": rows["base"], "pruned": pruned[0], **rows}
    text = markdown(
        {name: [measured(run, results, tested)] for name, run in rows.items()}, TABLES["shipped"]["columns"]
    )
    runs = list(rows.values())
    return f"{text}\n\n{caption(runs, split_of(runs, tested), call_of(table, runs))}"


def exports(results):
    """The table of exported files, or '' without a base.

    Sizes are compared with the base's .h5, latencies with the fastest file of the base.
    """
    found = {
        name: json.loads(path.read_text(encoding="utf-8"))
        for name in ("base", "alike", "student")
        if (path := ROOT / "experiments" / "records" / "exports" / name / "export.json").is_file()
    }
    if not found.keys() > {"base"}:  # a base, and something to compare with it
        return ""
    whole, fastest = found["base"]["files"][0], min(row["latency_ms_median"] for row in found["base"]["files"])
    lines = [
        "| | runtime | validation | agreement with the .h5 | file (MB) | smaller than the base's .h5 | "
        "latency (ms) | threads | faster than the base's fastest | seed |",
        "| --- | --- |" + " ---: |" * 8,
    ]
    seeds = {str(run["sha256"]): run["run"]["seed"] for run in results.values()}  # of the training, not of the export
    for name, content in found.items():
        for row in content["files"]:
            agreement = f"{100 * row['agreement']:.2f}" if "agreement" in row else "-"
            seed = seeds.get(content["sha256"], "-")
            label = "without assistant" if name == "alike" else name
            lines.append(
                f"| {label}, {row['format']} | {row['runtime']} | {100 * row['acc']:.2f} | {agreement} | "
                f"{row['bytes'] / 1e6:.2f} | {whole['bytes'] / row['bytes']:.1f}x | "
                f"{row['latency_ms_median']:.2f} | {row.get('threads', '-')} | "
                f"{fastest / row['latency_ms_median']:.1f}x | {seed} |"
            )
    first = found["base"]
    if len({machine(content["run"]) for content in found.values()}) > 1:
        raise ValueError("latencies of several machines can't be compared; export all models on one")
    split = (
        f"{first['images']:,} validation images; int8 is calibrated on {first['calibration_images']:,} training "
        "images; latency is the median of one image at a time, by one thread or all cores, whichever is faster"
    )
    call = " ".join(
        [
            "exports",
            *dict.fromkeys(str(seeds[content["sha256"]]) for content in found.values() if content["sha256"] in seeds),
        ]
    )
    return "\n".join([*lines, "", caption(list(found.values()), split, call)])


def demo():
    """The table of the models of `make demo`, or '' without a record of it."""
    path = ROOT / "experiments" / "records" / "demo" / "evaluation.json"
    if not path.is_file():
        return ""
    content = json.loads(path.read_text(encoding="utf-8"))
    lines = [
        "| | test accuracy (%) | parameters (M) | MACs (M) | file (MB) | sparsity (%) | compression rate | "
        "latency (ms) |",
        "| --- |" + " ---: |" * 7,
    ]
    for row in content["models"]:
        lines.append(
            f"| {row['name']} | {100 * row['acc']:.2f} | {row['parameters'] / 1e6:.2f} | "
            f"{row['macs'] / 1e6:.2f} | {row['bytes'] / 1e6:.2f} | {100 * row['sparsity']:.2f} | "
            f"{row['compression_rate']:.2f}x | {row['latency_ms_median']:.1f} |"
        )
    run = content["run"]
    return "\n".join(
        [
            *lines,
            "",
            f"{content['images']:,} test images, so that one image is "
            f"{100 / content['images']:.2f} points; latency is the median of one image at a time; seed "
            f"{run['seed']}; {machine(run)}.",
        ]
    )


def section(name, results, tested):
    """The text between the comments of a table, or '' without records of it.

    Args:
        name: of the table.
        results: as from `read`.
        tested: as from `read`.
    """
    if name in ("shipped", "exports", "demo"):
        return {"shipped": lambda: shipped(results, tested), "exports": lambda: exports(results), "demo": demo}[name]()
    columns = TABLES[name]["columns"]
    if "rows" not in TABLES[name]:  # a row an iteration
        if name not in results:
            return ""
        content = results[name]
        table = markdown(iterations(content, results), columns)
        return (
            f"{table}\n\n{caption([content], split_of([content], tested), call_of(name, [content]))}\n\n"
            f"![accuracy, sparsity, compression and MACs over the iterations](img/{name}-pruning.png)\n\n"
            f"![channels left in every layer](img/{name}-channels.png)"
        )
    rows = grouped(name, results)
    if not rows:
        return ""
    contents = [content for row in rows.values() for content in row]
    runs = {label: [measured(content, results, tested) for content in row] for label, row in rows.items()}
    split = split_of(contents, tested if "test" in columns else {})
    text = f"{markdown(runs, columns)}\n\n{caption(contents, split, call_of(name, contents))}"
    figure = f"\n\n![accuracy against parameters and MACs](img/{name}-models.png)"
    return text + figure * (TABLES[name].get("figure", False) and len(rows) > 1)


def rebuilt(text, results, tested):
    """The text of a page with all its tables built again.

    Args:
        text: the present text.
        results: as from `read`.
        tested: as from `read`.
    """

    def fill(match):
        none = f"No record yet: `./experiments/reproduce.sh {match[2]}` makes them."
        return f"{match[1]}\n{section(match[2], results, tested) or none}\n{match[3]}"

    return re.sub(r"(<!-- results:(\w+) -->).*?(<!-- /results:\2 -->)", fill, text, flags=re.DOTALL)


def ship(run, target):
    """Copies a student's model, history and record to a folder of the repository, and marks the record as shipped.

    `knowledge_distillation.py` moves a shipped student away before it writes into the same folder.

    Args:
        run: folder of the run.
        target: folder that it is copied to, model/kd_model.
    """
    target.mkdir(parents=True, exist_ok=True)
    for name in ("model.h5", "history.json", "history.png"):
        shutil.copyfile(run / name, target / name)
    content = json.loads((run / "result.json").read_text(encoding="utf-8")) | {"shipped": True}
    (target / "result.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def main(argv=None):
    """Command line; returns the exit status: 0, or 1 under --check if a page differs from its records."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--check", action="store_true", help="write nothing, only compare")
    parser.add_argument("--ship", type=Path, metavar="RUN", help="copy the student of a run to model/kd_model")
    args = parser.parse_args(argv)
    if args.ship:
        ship(args.ship, ROOT / "model" / "kd_model")
        return 0
    results, tested = read(ROOT / "experiments" / "records")
    # Records that don't belong together are reported, but the tables are built: they may be half-way through a rerun.
    for line in gaps(results, tested, TABLES):
        print(line, file=sys.stderr)
    stale = []
    for page in filter(lambda page: (ROOT / page).is_file(), PAGES):
        before = (ROOT / page).read_text(encoding="utf-8")
        after = rebuilt(before, results, tested)
        stale += [page] * (before != after)
        if not args.check:
            (ROOT / page).write_text(after, encoding="utf-8")
    if args.check:
        print(*(f"{page}: not what the records give; make results" for page in stale), sep="\n", end="\n" * bool(stale))
        return int(bool(stale))
    figures(results)
    return 0


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))  # for compress
    sys.exit(main())
