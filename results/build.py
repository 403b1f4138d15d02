#!/usr/bin/env python3
"""Rebuild the README's result tables and figures from the records under results/; `make results` runs it.

A table stands between two comments, `<!-- results:NAME -->` and `<!-- /results:NAME -->`, and nothing between them is
typed by hand. Its columns and rows stand in tables.json, as folders results/NAME/ROW. A row is one result.json, or
several of different seeds as ROW/seedN/result.json. The test accuracy of a row's model is found in any evaluation.json
by the model's sha256, and what was trained before it by its parent's. A pruning run of many iterations, which is
results/NAME/result.json alone, is a table of its own with a row an iteration, and two figures; a table whose entry in
tables.json says so has one of its rows by accuracy and size, and results/NAME/sensitivity.json is drawn. The table
'shipped' is about the student under model/kd_model and the models that it comes from, the table 'exports' about the
files of results/exports/MODEL/export.json.
"""

import argparse
import json
import re
import shutil
import statistics
import sys
from pathlib import Path

from readings import gaps, last, machine, measured, read

HERE = Path(__file__).resolve().parent
TABLES = json.loads((HERE / "tables.json").read_text(encoding="utf-8"))
COLUMNS = {  # heading: (what `measured` calls it, format, factor)
    "validation": ("validation", "{:.2f}", 100), "test": ("test", "{:.2f}", 100),
    "after pruning": ("pruned_acc", "{:.2f}", 100), "after BN recalibration": ("recalibrated_acc", "{:.2f}", 100),
    "sparsity": ("sparsity", "{:.2f}", 100), "parameters (M)": ("parameters", "{:.2f}", 1e-6),
    "MACs (M)": ("macs", "{:.2f}", 1e-6), "file (MB)": ("bytes", "{:.2f}", 1e-6),
    "compression rate": ("compression rate", "{:.2f}x", 1), "minutes": ("seconds", "{:.1f}", 1 / 60)}
PACKAGES = {"keras": "Keras", "tensorflow": "TensorFlow", "onnxruntime": "ONNX Runtime", "ai-edge-litert": "LiteRT"}


def spread(values, form):
    """Mean, and from two values on that read unequal ± the sample standard deviation; '-' where one is missing."""
    if None in values:
        return "-"
    mean = form.format(statistics.fmean(values))
    several = len({form.format(value) for value in values}) > 1
    return f"{mean} ± {form.removesuffix('x').format(statistics.stdev(values))}" if several else mean


def markdown(rows, columns):
    """A table.

    Args:
        rows: {label: list of what `measured` gives, one a seed}.
        columns: headings, of COLUMNS or 'epochs' or 'seeds'.
    """
    lines = ["| | " + " | ".join(columns) + " |", "| --- |" + " ---: |" * len(columns)]
    for label, runs in rows.items():
        cells = {"epochs": " / ".join(dict.fromkeys(run["epochs"] for run in runs)),
                 "seeds": ", ".join(str(run["seed"]) for run in runs)}
        for heading, (key, form, factor) in COLUMNS.items():
            values = [None if run[key] is None else run[key] * factor for run in runs]
            several = heading == "minutes" and len({run["machine"] for run in runs}) > 1  # no mean of machines
            cells[heading] = " / ".join(map(form.format, values)) if several else spread(values, form)
        lines.append("| " + " | ".join([label, *(cells[column] for column in columns)]) + " |")
    return "\n".join(lines)


def split_of(contents, tested):
    """Numbers of images that all runs of a table share, as text; ValueError where they don't."""
    images = {row["images"] for c in contents if (row := tested.get(last(c, "sha256")))}
    if len(images) > 1:
        raise ValueError(f"one table has tests of {sorted(images)} images; they can't be compared")
    test = f", the first {images.pop():,} test images" if images else ""
    return f"{contents[0]['train_images']:,} training and {contents[0]['images']:,} validation images{test}"


def _untold(run):
    """Flags that a run had by a default of its time which has changed since."""
    allocation = run["flags"].get("allocation")
    targeted = run["flags"].get("target_macs") or run["flags"].get("target_compression")
    told = allocation is None or any(word.startswith("--allocation") for word in run["argv"])
    return ["--allocation", allocation] if targeted and not told else []


def caption(contents, split):
    """The split in words, the machines, with seeds where there are several, and versions, then each row's command."""
    def shared(values):
        return ", ".join(dict.fromkeys(values))

    runs = [content["run"] for content in contents]
    seeds = {}
    for run in runs:
        seeds.setdefault(machine(run), {})[str(run["seed"])] = None
    machines = "; ".join(f"{name} (seed{'s' * (len(of) > 1)} {', '.join(of)})" if len(seeds) > 1 else name
                         for name, of in seeds.items())
    versions = shared(f"{PACKAGES[name]} {version}" for run in runs for name, version in run["versions"].items()
                      if name in PACKAGES)
    commands = "\n".join(dict.fromkeys(f"python {' '.join([*run['argv'], *_untold(run)])}" for run in runs))
    return (f"Accuracies in per cent; {split}. {machines}; {versions}.\n\n<details><summary>commands</summary>\n\n"
            "As they were run. Some folders were renamed since: to make the same models anew take `reproduce.sh`.\n\n"
            f"```\n{commands}\n```\n\n</details>")


def iterations(content, results):
    """What `measured` gives, for each iteration of a pruning run: {its number: [numbers]}."""
    lists = {key: values for key, values in content.items() if isinstance(values, list)}
    return {str(i + 1): [measured(content | {key: values[i] for key, values in lists.items()}, results, {})]
            for i in range(len(lists["final_acc"]))}


def grouped(name, results):
    """The records of a table's rows: {label: [result, one a seed]}, without rows that have none."""
    rows = {label: [results[path] for path in sorted(results)
                    if re.fullmatch(re.escape(f"{name}/{folder}") + r"(/seed\d+)?", path)]
            for folder, label in TABLES[name]["rows"].items()}
    return {label: found for label, found in rows.items() if found}


def figures(results):
    """Draws a pruning run's curves and channels left, the models of tables that ask for it, what sensitivity.py saw."""
    sys.path.insert(0, str(HERE.parent))
    from compress.plots import comparison, style

    for name, table in TABLES.items():
        if name in results:  # a pruning run of many iterations
            layers = {layer.removesuffix("_conv"): left for layer, left in results[name]["channels"].items()
                      if layer.endswith(("_1_conv", "_2_conv"))}
            style.save_figure(style.plot_pruning(results[name]), HERE / name / "pruning.png")
            style.save_figure(style.plot_channels(layers), HERE / name / "channels.png")
        if table.get("figure") and len(rows := grouped(name, results)) > 1:
            looks = [role_of(contents[0], results) for contents in rows.values()]
            models = [averaged(*row) | {"role": role} for row, role in zip(rows.items(), looks, strict=True)]
            style.save_figure(comparison.plot_models(models, "validation"),
                              HERE / name / "models.png")
        if (path := HERE / name / "sensitivity.json").is_file():
            seen = json.loads(path.read_text(encoding="utf-8"))
            style.save_figure(comparison.plot_sensitivity(seen), path.with_suffix(".png"))


def role_of(content, results):
    """What a result's model is in its chain, as `roles.LOOKS` names it: a student that taught is an assistant."""
    from compress.plots import roles

    role = roles.of_run(content["run"])
    taught = {run.get("parent_sha256") for run in results.values() if roles.of_run(run["run"]) == "student"}
    return "assistant" if role == "student" and content["sha256"] in taught else role


def averaged(label, contents):
    """A row of a table as `plot_models` takes it: means over the seeds, and the spread of several."""
    runs = [measured(content, {}, {}) for content in contents]
    accuracies = [run["validation"] for run in runs]
    return {"name": label, "test_acc": statistics.fmean(accuracies),
            "spread": statistics.stdev(accuracies) if len(runs) > 1 else 0.0,
            **{key: statistics.fmean(run[key] for run in runs) for key in ("parameters", "macs")}}


def shipped(results, tested):
    """The student under model/kd_model beside all models that it comes from, or '' where none is shipped."""
    path = HERE.parent / "model" / "kd_model" / "result.json"
    content = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    if content.get("shipped") is not True:
        return ""
    results = results | {"shipped": content}
    family, parent = [content], content["parent_sha256"]
    while found := [run for run in results.values() if parent is not None and parent in run["sha256"]]:
        family, parent = [found[0], *family], found[0].get("parent_sha256")
    between = [f"teacher {i}" for i in range(1, len(family) - 1)] if len(family) > 3 else ["the student's teacher"]
    names = ["base", *between[:len(family) - 2], "student"]
    rows = dict(zip(names, ([measured(run, results, tested)] for run in family), strict=True))
    return f"{markdown(rows, TABLES['shipped']['columns'])}\n\n{caption(family, split_of(family, tested))}"


def exports(results):
    """The files of the models in every format; sizes and latencies as times the base's .h5 and fastest file."""
    found = {name: json.loads(path.read_text(encoding="utf-8")) for name in ("base", "alike", "student")
             if (path := HERE / "exports" / name / "export.json").is_file()}
    if not found.keys() > {"base"}:  # without the base there is nothing to compare with
        return ""
    whole, fastest = found["base"]["files"][0], min(row["latency_ms_median"] for row in found["base"]["files"])
    lines = ["| | runtime | validation | agreement with the .h5 | file (MB) | smaller than the base's .h5 | "
             "latency (ms) | threads | faster than the base's fastest | seed |", "| --- | --- |" + " ---: |" * 8]
    seeds = {str(run["sha256"]): run["run"]["seed"] for run in results.values()}  # of the training, not of the export
    for name, content in found.items():
        for row in content["files"]:
            agreement = f"{100 * row['agreement']:.2f}" if "agreement" in row else "-"
            seed = seeds.get(content["sha256"], "-")
            label = "without assistant" if name == "alike" else name
            lines.append(f"| {label}, {row['format']} | {row['runtime']} | {100 * row['acc']:.2f} | {agreement} | "
                         f"{row['bytes'] / 1e6:.2f} | {whole['bytes'] / row['bytes']:.1f}x | "
                         f"{row['latency_ms_median']:.2f} | {row.get('threads', '-')} | "
                         f"{fastest / row['latency_ms_median']:.1f}x | {seed} |")
    first = found["base"]
    if len({machine(content["run"]) for content in found.values()}) > 1:
        raise ValueError("latencies of several machines can't be compared; export all models on one")
    split = (f"{first['images']:,} validation images; int8 is calibrated on {first['calibration_images']:,} training "
             "images; latency is the median of one image at a time, by one thread or all cores, whichever is faster")
    return "\n".join([*lines, "", caption(list(found.values()), split)])


def section(name, results, tested):
    """What stands between the comments of a table, or '' where it has no record."""
    if name in ("shipped", "exports"):
        return shipped(results, tested) if name == "shipped" else exports(results)
    columns = TABLES[name]["columns"]
    if "rows" not in TABLES[name]:  # a row an iteration
        if name not in results:
            return ""
        content = results[name]
        table = markdown(iterations(content, results), columns)
        return (f"{table}\n\n{caption([content], split_of([content], tested))}\n\n"
                f"![accuracy, sparsity, compression and MACs over the iterations](results/{name}/pruning.png)\n\n"
                f"![channels left in every layer](results/{name}/channels.png)")
    rows = grouped(name, results)
    if not rows:
        return ""
    contents = [content for row in rows.values() for content in row]
    runs = {label: [measured(content, results, tested) for content in row] for label, row in rows.items()}
    text = f"{markdown(runs, columns)}\n\n{caption(contents, split_of(contents, tested if 'test' in columns else {}))}"
    figure = f"\n\n![accuracy against parameters and MACs](results/{name}/models.png)"
    return text + figure * (TABLES[name].get("figure", False) and len(rows) > 1)


def rebuilt(text, results, tested):
    """A README's text with every table between its comments made anew from what `read` gives."""
    def fill(match):
        none = f"No record yet: `./reproduce.sh {match[2]}` makes them."
        return f"{match[1]}\n{section(match[2], results, tested) or none}\n{match[3]}"

    return re.sub(r"(<!-- results:(\w+) -->).*?(<!-- /results:\2 -->)", fill, text, flags=re.DOTALL)


def ship(run, target):
    """Copies a student with its history and record to where it is shipped; its record says that it came so."""
    target.mkdir(parents=True, exist_ok=True)
    for name in ("model.h5", "history.json", "history.png"):
        shutil.copyfile(run / name, target / name)
    content = json.loads((run / "result.json").read_text(encoding="utf-8")) | {"shipped": True}
    (target / "result.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def main(argv=None):
    """Command line; returns the exit status: 0, or 1 with --check where the README isn't what the records give."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--check", action="store_true", help="write nothing, only compare")
    parser.add_argument("--ship", type=Path, metavar="RUN", help="copy the student of a run to model/kd_model")
    args = parser.parse_args(argv)
    if args.ship:
        ship(args.ship, HERE.parent / "model" / "kd_model")
        return 0
    readme = HERE.parent / "README.md"
    before = readme.read_text(encoding="utf-8")
    results, tested = read(HERE)
    after = rebuilt(before, results, tested)
    for line in gaps(results, tested, TABLES):
        print(line, file=sys.stderr)
    if not args.check:
        readme.write_text(after, encoding="utf-8")
        figures(results)
    return int(args.check and before != after)


if __name__ == "__main__":
    sys.exit(main())
