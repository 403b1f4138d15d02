"""The sections of a report: what is shown of a tree of records, and why something is not."""

import itertools

from compress.cli import display, messages
from compress.cli import tables as display_tables
from compress.errors import InputError
from compress.plots import comparison, curves, pruning, style
from compress.pruning import iterations
from compress.report import comparing, searching, tables
from compress.report import figures as report_plots
from compress.report.page import Figure, Section
from compress.report.tree import text, within
from compress.storage import records

MOST_PAIRS = 4  # of base and student whose confusion is shown
MOST_CURVES = 6  # runs in one figure
NARROW = 5.6  # inches; a phone shows a figure of this width whole
SWEEP = (
    "A setting matters where the means of its values lie farther apart than runs that differ in their seed alone. With "
    "few seeds, and many settings to choose from, the best one is partly luck. Accuracies are of a run's last model."
)
UNBALANCED = (
    "Not every combination of settings was run equally often, so that the means of a setting's values differ in their "
    "other settings too."
)
FRONT = "Under 'front' stand the sizes by which no smaller model on the same images beats a model."
MOST_SETS = 6  # of images that have figures, or of a sweep's step tables


def models_section(tree):
    """Accuracy against everything that sizes are measured in, for each set of images, and the table of all models."""
    groups = {}
    for point in tree.points:
        groups.setdefault(point.group, []).append(point)
    compared = [name for name, points in groups.items() if _drawn(points)]
    shown, parts = compared[:MOST_SETS], []
    for number, name in enumerate(shown, 1):
        parts += [("heading", f"On {name}"), ("figures", _fronts(groups[name], name, number))]
    figures = (entry.figure for kind, content in parts if kind == "figures" for entry in content)
    stepped = any(line.get_label() == "_front" for figure in figures for axes in figure.axes for line in axes.lines)
    drawn = [point for name in shown for points in _drawn(groups[name]).values() for point in points]
    has_outlined = any(point.shipped for point in drawn)
    text = (
        "A step joins the models that no smaller one beats. " * stepped
        + "Accuracies on different images can't be compared: each set of images has its own figures."
    )
    notes = [
        ("note", messages.spelled(note)) for note in _model_notes(tree, len(groups) - len(shown), stepped, has_outlined)
    ]
    unbeaten = _unbeaten(groups)
    notes += [("note", FRONT)] if unbeaten else []
    head = [("text", text)] if shown else []
    return Section("models", "Accuracy against size", [*head, *parts, *notes, ("table", tables.models(tree, unbeaten))])


def _drawn(points):
    """{size: the points that its figure has, one a model}; sizes by which all lie at one place have no figure."""
    found = {key: report_plots.newest(points, key) for key in report_plots.SIZES}
    return {key: few for key, few in found.items() if len({(point.sizes[key], point.acc) for point in few}) > 1}


def _unbeaten(groups):
    """{id of a point: names of the sizes by which no smaller model beats it}; `groups`: {images: list of Point}."""
    found = {}
    for points in groups.values():
        for key, few in _drawn(points).items():
            best = {(point.name, point.sizes[key], point.acc) for point in report_plots.unbeaten(few, key)}
            for point in points:  # what was measured again, and is the same, too
                if (point.name, point.sizes.get(key), point.acc) in best:
                    found.setdefault(id(point), []).append(report_plots.SIZES[key][0])
    return found


def _fronts(points, name, number):
    """A figure of accuracy against each measure of size that some of the points have; `name` is of their images."""
    figures = []
    for key, measured in _drawn(points).items():
        slug = f"front-{key.split('_')[0]}" + (f"-{number}" if number > 1 else "")
        figure, tips = report_plots.plot_front(measured, key)
        figures.append(Figure(slug, f"Accuracy against {report_plots.SIZES[key][0]}, {name}", figure, tips))
    return figures


def _model_notes(tree, unshown, stepped, has_outlined):
    """What the figures leave out; `unshown` sets of images have none, `stepped`: a figure has a step, `has_outlined`:
    one has the student that came with the suite."""
    if 0 < unshown < len({point.group for point in tree.points}):
        other = "another set" if unshown == 1 else f"{unshown:,} other sets"
        yield f"Accuracies on {other} of images have no figure; they are in the table."
    if has_outlined:
        joins = ", and joins no step" if stepped else ""
        yield f"The student that came with the suite is outlined, to compare with{joins}."
    measured = {key for point in tree.points for key in point.sizes}
    missing = [title for key, (title, _, _) in report_plots.SIZES.items() if key not in measured]
    if missing:
        why = "; evaluate_model.py `output` measures it" if "latency" in missing else ""
        yield f"No record names {' or '.join(missing)}{why}."
    sized = [point for point in tree.points if "parameters" in point.sizes and "compression_rate" not in point.sizes]
    if names := list(dict.fromkeys(point.name for point in sized)):
        yield f"No compression rate of {comparing.several(names)}: no record here tells from which base it comes."
    if any("sparsity" not in point.sizes for run in tree.of_kind("student") for point in run.points):
        yield (
            "The sparsity of a student is known where evaluate_model.py `output` has compared it with its base, the "
            "first of its models."
        )


def sweep_section(tree):
    """What the runs of a sweep say of its settings, step by step, or None where the folder is no sweep's.

    Of a search it has the trials in place of the table of the last step's settings.
    """
    if tree.sweep is None:
        return None
    members, parts, numbers, search = tree.sweep.members, [], itertools.count(1), searching.read(tree)
    for step in dict.fromkeys(member.step for member in members):
        same = [member for member in members if member.step == step]
        if found := _step_parts(same, step, numbers, has_means=not search or step != search.step):
            parts += [("heading", step), *found]
    head = [("text", SWEEP)] if parts else []
    if search:
        head = [("text", searching.told(search)), ("table", searching.table(search)), *head]
    head += [("list", lines)] if (lines := list(comparing.told(tree.sweep, stopped=not search))) else []
    return Section("sweep", "Search" if search else "Sweep", [*head, *parts])


def _step_parts(same, step, numbers, has_means):
    """Tables of the members of one step, a set of images after the other; `numbers` counts the tables of the page."""
    alike, parts = {}, []
    for member in same:  # accuracies on other images can't be compared
        alike.setdefault(member.group, []).append(member)
    shown = sorted(alike.values(), key=len, reverse=True)
    for chosen, number in zip(shown[:MOST_SETS], numbers, strict=False):
        if has_means:
            parts.append(("table", comparing.settings_table(chosen, step, number, comparing.varying(same))))
        if (names := comparing.varying(chosen)) and (effects := comparing.effects_table(chosen, step, number)):
            parts.append(("table", effects))
            balanced = comparing.is_balanced(chosen, names)
            parts += [] if balanced else [("note", UNBALANCED)]
    if without := sum(map(len, shown[MOST_SETS:])):
        parts.append(("note", f"Without {display_tables.counted(without, 'run')} on other images."))
    return parts


def pruning_section(tree):
    """Table, curves and heat map of every pruning run, or None."""
    parts, several = [], tree.of_kind("pruned")
    for number, run in enumerate(several, 1):
        if tree.sweep:  # of many runs, each of which has two figures
            parts.append(("fold", run.name))
        elif len(several) > 1:
            parts.append(("heading", run.name))
        unfinished = "" if run.content.get("finished", True) else " The run is not finished."
        tried = run.content.get("discarded")
        if isinstance(tried, list) and tried:
            lost = display_tables.counted(len(tried), "iteration")
            unfinished += f" Discarded, since they lost more than the bound on the accuracy allows: {lost}."
        start = tree.model(run.parent)
        if "sparsity" not in run.points[0].sizes:  # it started from a model that is no base
            unfinished += f" Sparsity is relative to {start.name if start else 'the model'}, which it started from."
        parts.append(
            (
                "text",
                f"Accuracies are of {run.points[0].group}. Criterion: "
                f"{tables.word(run.flags.get('criterion'))[0]}.{unfinished}",
            )
        )
        rates = [point.sizes.get("compression_rate") for point in run.points]
        drawn = pruning.plot_pruning(run.content | {"compression_rate": None if None in rates else rates})
        drawn.set_figwidth(NARROW)
        figures = [Figure(f"pruning-{number}", f"Accuracy and size over the iterations of {run.name}", drawn)]
        layers = {name.removesuffix("_conv"): left for name, left in iterations.pruned(run.content).items()}
        if layers:
            title = f"Channels left in every layer of {run.name}"
            figures.append(Figure(f"channels-{number}", title, pruning.plot_channels(layers)))
        parts += [("table", tables.pruning(run, number)), ("figures", figures)]
        parts += [("end of fold", None)] if tree.sweep else []
    return Section("pruning", "Pruning", parts) if parts else None


def distillation_section(tree):
    """Teachers and students, and the ablations, or None."""
    parts = []
    for run in tree.of_kind("student"):
        teacher = tree.model(run.parent)
        name = f"{run.name}, which came with the suite," if run.shipped else run.name
        parts.append(
            (
                "text",
                f"{name} classifies {display.percent(run.points[0].acc)} correctly, its teacher "
                f"{teacher.name if teacher else '(not below this folder)'} "
                f"{display.percent(run.content['teacher_acc'])} ({run.points[0].group}).",
            )
        )
    for number, run in enumerate(tree.of_kind("ablation"), 1):
        images, teacher = run.content.get("images"), tree.model(run.parent)
        looks = [teacher.role if teacher else None, *["student"] * (len(run.content["rows"]) - 1)]
        parts += [
            ("heading", f"What each loss brings, {run.name}"),
            (
                "figures",
                [
                    Figure(
                        f"ablation-{number}",
                        f"Accuracy by each combination of losses, {run.name}",
                        comparison.plot_ablation(run.content["rows"], looks, NARROW),
                    )
                ],
            ),
            ("table", tables.ablation(run, number)),
        ]
        if images:
            parts.append(("note", f"One image of {images:,} is {100 / images:.2f} points."))
    return Section("distillation", "Distillation", parts) if parts else None


def training_section(tree):
    """Curves of bases and students over their epochs, several in one figure, or None."""
    notes, parts, number = [], [], 0
    for kind in ("base", "student"):
        drawn = {}
        for run in tree.of_kind(kind):
            history = run.path.parent / "history.json"
            if not history.is_file() or not within(history, tree.root):  # records that were kept without their models
                continue
            try:
                found = records.read_history(history)
                curves.plot_history({run.name: found})  # raises where the numbers can't be drawn
                drawn[run.name] = (found, run.points[0].role)
            except InputError as error:
                notes.append(("note", f"{run.name}: no curves, {text(str(error), 300)}."))
        for start in range(0, len(drawn), MOST_CURVES):
            names = list(drawn)[start : start + MOST_CURVES]
            histories, looks = {n: drawn[n][0] for n in names}, {n: drawn[n][1] for n in names}
            number, figures = number + 1, []
            for panel in curves.panels_of(histories, looks):  # one figure each, so that they stack on a phone
                figures += _panel_figures(histories, looks, panel, f"history-{number}-{panel.replace(' ', '-')}")
            parts += [("heading", ", ".join(names)), ("figures", figures)]
    return Section("training", "Training", [*parts, *notes]) if parts or notes else None


def _panel_figures(histories, looks, panel, slug):
    """A panel of histories as one figure; the parts of a distillation's loss as one for each history that has them."""
    parted = [[name] for name in histories if "distillation" in curves.panels_of({name: histories[name]}, looks)]
    figures = []
    for i, names in enumerate(parted if panel == "distillation" else [list(histories)]):
        figure = curves.plot_history({name: histories[name] for name in names}, looks, panel)
        if len(names) == 1:
            figure.suptitle(style.plain_text(names[0], 40), fontsize=10, color=style.GREY)
        figures.append(
            Figure(
                f"{slug}-{i + 1}" if i else slug, f"{panel.capitalize()} over the epochs of {', '.join(names)}", figure
            )
        )
    return figures


def sensitivity_section(tree):
    """What each layer's channels are worth, or None."""
    parts = []
    for number, run in enumerate(tree.of_kind("sensitivity"), 1):
        name = run.points[0].name
        parts += [
            (
                "text",
                f"{name} with a share of one layer's channels removed, the most idle first by "
                f"{text(run.content.get('criterion'), 40)}, and all other layers whole; nothing fine-tuned; "
                f"{run.points[0].group}.",
            ),
            (
                "figures",
                [
                    Figure(
                        f"sensitivity-{number}",
                        f"Accuracy lost without channels of one layer of {name}",
                        comparison.plot_sensitivity(run.content),
                    )
                ],
            ),
            ("table", tables.sensitivity(run, number)),
        ]
    return Section("sensitivity", "Sensitivity", parts) if parts else None


def apoz_section(tree, images):
    """Histograms of the layers that were cut most, or why there are none."""
    from compress.report import measure  # Keras, which a report of records alone does not wait for

    parts = [
        (
            "text",
            "APoZ, the share of zeros that a channel of the base has after its ReLU, in the layers that lost "
            "the largest share of their channels. By default the first iteration cuts what lies above mean + "
            "1 standard deviation of its layer, and each later one measures again what is left.",
        )
    ]
    for number, run in enumerate(tree.of_kind("pruned"), 1):
        try:
            base = existing(tree, run.parent, "the base")
            layers, count = measure.apoz_of_cut_layers(images, run, base.file)
        except InputError as error:
            parts.append(("note", f"{run.name}: not shown, {messages.spelled(str(error))}."))
            continue
        parts.append(
            (
                "figures",
                [
                    Figure(
                        f"apoz-{number}",
                        f"APoZ of the layers that {run.name} pruned most",
                        report_plots.plot_apoz(layers),
                    )
                ],
            )
        )
        rule = [
            tables.as_flag(name, run.flags[name])
            for name in (
                *("criterion", "prune_ratio", "target_compression", "target_macs", "target_latency"),
                *("max_accuracy_drop", "allocation"),
            )
            if run.flags.get(name) not in (None, "threshold")
        ]
        known = all(left is not None for _, left in layers.values())
        parts.append(
            (
                "note",
                f"{run.name}, measured on {base.name} with {count:,} validation images"
                + (f"; pruned by {' '.join(rule)}" if rule else "")
                + ("." if known else "; its masks can't be read, so removed channels are not marked."),
            )
        )
    return Section("apoz", "Idle channels", parts) if len(parts) > 1 else None


def existing(tree, sha256, what):
    """The point of a model whose file lies below the folder. Raises InputError where there is none."""
    point = tree.model(sha256)
    if point is None or point.file is None or not point.file.is_file() or not within(point.file, tree.root):
        named = f"the model.h5 of {point.name}" if point else f"{what} ({str(sha256)[:12]})"
        raise InputError(f"{named} is not below this folder")
    return point


def classes_section(tree, images):
    """Confusion of each student and the first model of its chain, and the classes that lost most."""
    from compress.report import measure

    parts, students = [], tree.of_kind("student")
    for number, run in enumerate(students[:MOST_PAIRS], 1):
        try:
            student = existing(tree, run.points[0].sha256, run.name)
            above = [tree.model(digest) for digest in tree.chain(student.sha256)[:-1]]
            first = next((point for point in above if point), None)
            base = existing(tree, first.sha256 if first else run.parent, "what it was made from")
            pair = [base, student]
            matrices, names = measure.confusion(images, run, [point.file for point in pair])
        except InputError as error:
            parts.append(("note", f"{run.name}: not shown, {messages.spelled(str(error))}."))
            continue
        total = matrices[0].sum()
        table, order = tables.classes(names, matrices, [point.name for point in pair], number)
        accuracies = [display.percent(matrix.trace() / total) for matrix in matrices]
        figures = [
            Figure(
                f"confusion-{number}-{role}",
                f"Confusion matrix of {point.name}",
                report_plots.plot_confusion(matrix, names, f"{point.name}: {accuracy}", point.role),
            )
            for role, point, matrix, accuracy in zip(("base", "student"), pair, matrices, accuracies, strict=True)
        ]
        shown = order[:20]
        shares = [[matrix[i, i] / matrix[i].sum() for i in shown] for matrix in matrices]
        figures.append(
            Figure(
                f"classes-{number}",
                f"Classes that lost most from {base.name} to {student.name}",
                report_plots.plot_classes(
                    [names[i] for i in shown], *shares, [point.name for point in pair], [point.role for point in pair]
                ),
            )
        )
        parts += [
            ("text", f"{base.name} and {student.name} on {total:,} validation images."),
            ("figures", figures),
            ("table", table),
        ]
    if len(students) > MOST_PAIRS:
        parts.append(("note", f"The first {MOST_PAIRS} of {len(students)} students are shown."))
    return Section("classes", "Classes", parts) if parts else None


def exports_section(tree):
    """The files in other formats, or None."""
    runs = tree.of_kind("export")
    parts = [("table", tables.exports(run, number)) for number, run in enumerate(runs, 1)]
    return Section("exports", "Exports", parts) if parts else None


def runs_section(tree):
    """Every record's flags, seed, versions, split and origin."""
    entries = [(run.path.relative_to(tree.root).as_posix(), run.kind, *tables.details(tree, run)) for run in tree.runs]
    return Section(
        "runs",
        "Runs",
        [
            ("table", tables.runs(tree)),
            ("heading", "Flags and origin"),
            ("runs", [(text(name, 120), *rest) for name, *rest in entries]),
        ],
    )


def skipped_section(tree):
    """The JSON files that can't be shown, or None."""
    lines = [f"not shown: {file}, {why}" for file, why in tree.skipped]
    return Section("skipped", "Not shown", [("list", lines)]) if lines else None
