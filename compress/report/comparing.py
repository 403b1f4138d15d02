"""The runs of a sweep side by side: means and spreads over seeds, and what each setting does. Imports no Keras."""

import dataclasses
import itertools
import json
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


def read(tree):
    """The finished runs that a sweep.json in the root of a tree names.

    Returns:
        (list of Member, number of runs that it names); ([], 0) where there is none.
    """
    path = Path(tree.root) / NAME
    try:
        found = records.read_json(path) if within(path, tree.root) and path.is_file() else {}
    except InputError:
        return [], 0
    listed = found.get("runs") if "sweep" in found and isinstance(found.get("runs"), list) else []
    entries = [entry for entry in listed[:MOST] if isinstance(entry, dict) and isinstance(entry.get("folder"), str)]
    known = {run.path.parent.relative_to(tree.root).as_posix(): run for run in tree.of_kind(*KINDS) if run.points}
    members = []
    for entry in entries:
        run = known.get(entry["folder"])
        if run is None:
            continue
        values = {text(name, 60): value for name, value in list(mapping(entry.get("values")).items())[:50]}
        seed, point = values.pop("seed", None), run.points[-1]
        members.append(
            Member(
                text(entry.get("step", "?"), 60),
                values,
                None if seed is None else text(seed, 20),
                point.acc,
                point.group,
                point.sizes,
            )
        )
    return members, len(entries)


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


def _setting(member, name, is_number):
    """A setting's value as a cell, that of a column of numbers sorted as one."""
    value = member.settings.get(name)
    return shown(value), value if is_number else shown(value)


def _level(value, found):
    """A setting's value with the mean of its runs, as a cell of text; `found`: (mean, number of runs)."""
    mean, count = found
    shown = f"{value}: {display.percent(mean)} ({display_tables.counted(count, 'run')})"
    return shown, f"{mean:.9f}"  # as many digits for all: texts are sorted


def settings_table(members, step, number):
    """Mean and standard deviation over seeds for each combination of settings, the best first."""
    names, rows = varying(members), []
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
        cells = [_setting(group[0], name, name in numbers) for name in names] or [("all runs", "all runs")]
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
