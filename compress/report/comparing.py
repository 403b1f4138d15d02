"""The runs of a sweep side by side: means and spreads over seeds, and what each setting does. Imports no Keras."""

import dataclasses
import itertools
import json
import shlex
import statistics
from pathlib import Path

from compress.cli import display
from compress.cli import tables as display_tables
from compress.errors import InputError
from compress.report import tables
from compress.report.tree import mapping, text, within
from compress.storage import records

NAME = "sweep.json"
MOST = 5000  # runs that are looked at
NAMED = 20  # runs that are named one by one
FEW = 6  # distinct numbers of a setting that are shown one by one; more, as a search has, are put into thirds
TIE = 1e-9  # between two means that differ by how floats are rounded alone
KINDS = ("base", "pruned", "student")


@dataclasses.dataclass(frozen=True)
class Member:
    """A finished run of a sweep.

    Attributes:
        step: name of its step.
        settings: {name: value} of what varies, without the seed.
        seed: its seed as text, or None.
        acc: 0 to 1, of its last model.
        group: the images that it is of, see `tree.Point`.
        sizes: of its last model.
    """

    step: str
    settings: dict
    seed: str | None
    acc: float
    group: str
    sizes: dict


@dataclasses.dataclass(frozen=True)
class Sweep:
    """What a sweep.json says of the runs below its folder.

    Attributes:
        members: list of Member.
        labels: {name of a member's model: the values that it differs in from others of its step}.
        unfinished: folders of runs that failed, were interrupted, are at work or weren't begun.
        stopped: folders of those that a search ended early.
        others: number of finished runs that are no members: they train nothing, or lie elsewhere.
        command: the one that makes what is unfinished, or None where it isn't known.
    """

    members: list
    labels: dict
    unfinished: list
    stopped: list
    others: int
    command: str | None


def listed(root):
    """What a sweep.json in a folder holds.

    Args:
        root: Path of the folder.

    Returns:
        (the file's object, its runs that name a folder, MOST at most); both empty where there is none that can be read.
    """
    path = Path(root) / NAME
    try:
        found = records.read_json(path) if within(path, root) and path.is_file() else {}
    except InputError:
        return {}, []
    runs = found.get("runs") if "sweep" in found and isinstance(found.get("runs"), list) else []
    return found, [entry for entry in runs[:MOST] if isinstance(entry, dict) and isinstance(entry.get("folder"), str)]


def read(tree):
    """The Sweep that a sweep.json in the root of a tree tells of, or None where there is none."""
    found, entries = listed(tree.root)
    if not entries and (Path(tree.root) / NAME).exists():
        tree.skipped.append((NAME, "it names no runs of a sweep: sweep.py, started again, writes it"))
    known = {run.path.parent.relative_to(tree.root).as_posix(): run for run in tree.of_kind(*KINDS) if run.points}
    compared, missing, others = [], {False: [], True: []}, 0
    for entry in entries:
        run = known.get(entry["folder"])
        if not is_finished(tree.root, entry):
            missing[entry.get("stopped") is True].append(text(entry["folder"], 200))
        elif run:
            compared.append((_member(entry, run), run))
        else:
            others += 1
    command = None if "study" in found else _command(found)  # what failed in a study isn't made again
    members = [member for member, _ in compared]
    return Sweep(members, _labels(compared), missing[False], missing[True], others, command) if entries else None


def is_finished(root, entry):
    """Whether the record of a run that sweep.json names says so; see `sweeps.running.is_finished`."""
    record = entry.get("record")
    path = Path(root) / (record if isinstance(record, str) else f"{entry['folder']}/result.json")
    try:
        if not (within(path, root) and path.is_file()) or (path.parent / records.STATE).exists():
            return False
        return records.read_json(path).get("finished") is not False
    except (InputError, OSError, ValueError):
        return False


def _member(entry, run):
    """The Member of a run that sweep.json names; `run`: its record, a tree.Run."""
    values = settings_of(entry)
    seed, point = values.pop("seed", None), run.points[-1]
    step, seed = text(entry.get("step", "?"), 60), None if seed is None else text(seed, 20)
    return Member(step, values, seed, point.acc, point.group, point.sizes)


def settings_of(entry):
    """{name: value} of what varies, of a run that sweep.json names; the seed is among them."""
    return {text(name, 60): value for name, value in list(mapping(entry.get("values")).items())[:50]}


def _labels(compared):
    """The labels of a Sweep, such as 'crop, apoz, seed=1', of several steps 'prune: apoz, seed=1'.

    Args:
        compared: list of (Member, tree.Run).
    """
    found, steps = {}, list(dict.fromkeys(member.step for member, _ in compared))
    for step in steps:
        same = [(member, run) for member, run in compared if member.step == step]
        names = varying([member for member, _ in same])
        seeds = {member.seed for member, _ in same}
        for member, run in same:
            values = [(name.rpartition(".")[2], member.settings.get(name)) for name in names]
            words = [shown(value) if isinstance(value, str) else f"{name}={shown(value)}" for name, value in values]
            words += [f"seed={member.seed}"] if len(seeds) > 1 else []
            for number, point in enumerate(run.points, 1):
                iteration = [f"iter{number}"] if len(run.points) > 1 else []
                named = ", ".join([*words, *iteration])
                found[point.name] = (f"{step}: {named}" if len(steps) > 1 else named) if named else step
    return found


def _command(found):
    """The command that makes what is unfinished of the sweep that a sweep.json is of, or None where it says no file."""
    file, seeds = found.get("file"), found.get("seeds")
    if not isinstance(file, str):
        return None
    given = {"seeds": seeds} if records.is_curve(seeds) else {}
    words = [word for name, values in given.items() for word in (f"--{name}", *map(str, values))]
    return shlex.join(["python", "sweep.py", text(file, 300), *words])


def told(sweep, stopped=True):
    """What the tables don't show of a sweep's runs, as lines; `stopped`: with those that a search stopped."""
    more = f"; go on with: {sweep.command}" if sweep.command else ""
    if sweep.unfinished:
        yield f"unfinished: {several(sweep.unfinished)}{more}"
    if sweep.stopped and stopped:
        yield f"stopped early, as other trials were better by then: {several(sweep.stopped)}"
    if sweep.others:
        count = display_tables.counted(sweep.others, "run")
        yield f"{count} finished but not compared: of a script that trains nothing, or outside this folder"


def several(names):
    """Names in a row, the first NAMED of them."""
    rest = len(names) - NAMED
    return ", ".join(names[:NAMED]) + (f" and {rest} more" if rest > 0 else "")


def varying(members):
    """Names of the settings that differ between members, in their order."""
    names = dict.fromkeys(name for member in members for name in member.settings)
    return [name for name in names if len({shown(member.settings.get(name)) for member in members}) > 1]


def shown(value):
    """A setting's value as a page shows it."""
    if value is None:
        return tables.NOTHING
    return text(f"{value:.4g}" if isinstance(value, float) else value, 40)


def grouped(members, names):
    """{values of these settings as texts: list of Member}: what a group has in common but its seed."""
    found = {}
    for member in members:
        found.setdefault(tuple(shown(member.settings.get(name)) for name in names), []).append(member)
    return found


def deviation(values):
    """Sample standard deviation; None of fewer than two numbers."""
    return statistics.stdev(values) if len(values) > 1 else None


def pooled(groups):
    """Standard deviation over seeds, pooled over groups of equal settings: the root of the mean of their variances,
    each weighted by its degrees of freedom; None where no group has two."""
    several = [[member.acc for member in group] for group in groups if len(group) > 1]
    freedom = sum(len(values) - 1 for values in several)
    return (sum(statistics.variance(v) * (len(v) - 1) for v in several) / freedom) ** 0.5 if freedom else None


def levels(members, name):
    """{value of a setting, or a third of its range: list of Member}; thirds where it has more than FEW numbers."""
    numbers = [member.settings.get(name) for member in members]
    if len({json.dumps(value) for value in numbers}) <= FEW or not all(map(records.is_number, numbers)):
        return {key[0]: group for key, group in grouped(members, [name]).items()}
    ordered = sorted(members, key=lambda member: member.settings[name])
    cuts = [round(len(ordered) * part / 3) for part in range(4)]
    parts = [ordered[low:high] for low, high in itertools.pairwise(cuts)]
    return {f"{shown(p[0].settings[name])} to {shown(p[-1].settings[name])}": p for p in parts if p}


def is_balanced(members, names):
    """Whether all combinations of the settings' values are there equally often, so that means can be compared."""
    groups = grouped(members, names)
    count = 1
    for name in names:
        count *= len(grouped(members, [name]))
    return len(groups) == count and len({len(group) for group in groups.values()}) == 1


def _points(value):
    return (tables.NOTHING, None) if value is None else (f"{100 * value:.2f}", 100 * value)


def setting(member, name, is_number):
    """A setting's value as a cell, that of a column of numbers sorted as one."""
    value = member.settings.get(name)
    return shown(value), value if is_number or value is None else shown(value)


def _level(value, found):
    """A setting's value with the mean of its runs, as a cell of text; `found`: (mean, number of runs)."""
    mean, count = found
    shown = f"{value}: {display.percent(mean)} ({display_tables.counted(count, 'run')})"
    return shown, f"{mean:.9f}"  # as many digits for all: texts are sorted


def settings_table(members, step, number, names):
    """Mean and standard deviation over seeds for each combination of settings, the best first.

    Args:
        members: list of Member on the same images.
        step: its name.
        number: of the table in the page.
        names: settings that have a column.
    """
    rows = []
    numbers = [name for name in names if all(records.is_number(member.settings.get(name)) for member in members)]
    for group in grouped(members, names).values():
        accuracies = [member.acc for member in group]
        sizes = [member.sizes["parameters"] for member in group if "parameters" in member.sizes]
        mean = statistics.fmean(accuracies)
        parameters = (
            (tables.count(statistics.fmean(sizes)), statistics.fmean(sizes)) if sizes else (tables.NOTHING, None)
        )
        seeds = (str(len(group)), len(group))
        ends = [(display.percent(value), value) for value in (min(accuracies), max(accuracies))]
        cells = [setting(group[0], name, name in numbers) for name in names] or [("all runs", "all runs")]
        rows.append([*cells, seeds, (display.percent(mean), mean), _points(deviation(accuracies)), *ends, parameters])
    rows.sort(key=lambda row: -row[max(1, len(names)) + 1][1])
    heads = ["runs", "mean accuracy", "deviation over seeds, points", "lowest", "highest", "mean parameters"]
    columns = [*((name, name in numbers) for name in names or ["settings"]), *((head, True) for head in heads)]
    return tables.Table(
        f"sweep-{number}",
        f"Accuracy of {step} ({members[0].group}) for each combination of settings, over its seeds",
        columns,
        rows,
    )


def effects_table(members, step, number):
    """How far the means of a setting's values lie apart, the farthest first; None where fewer than two runs differ."""
    names = varying(members)
    noise, rows = pooled(grouped(members, names).values()), []
    for name in names:
        means = {
            value: (statistics.fmean(member.acc for member in group), len(group))
            for value, group in levels(members, name).items()
        }
        ordered = sorted(means.items(), key=lambda item: -item[1][0])
        apart = ordered[0][1][0] - ordered[-1][1][0]
        ends = [_level(*ordered[0]), _level(*ordered[-1])] if apart > TIE else [("no difference", "")] * 2
        rows.append([(name, name), _points(apart), _points(noise), *ends])
    rows.sort(key=lambda row: -row[1][1])
    return (
        tables.Table(
            f"effects-{number}",
            f"Which setting matters for {step}: means over all runs with a value, whatever their other settings",
            [
                ("setting", False),
                ("best mean - worst mean, points", True),
                ("deviation over seeds, points", True),
                ("best value", False),
                ("worst value", False),
            ],
            rows,
        )
        if rows
        else None
    )
