"""The trials of a search in a report: their values, how far they came and which is the best. Imports no Keras."""

import contextlib
import dataclasses
import re

from compress.cli import display
from compress.cli import tables as display_tables
from compress.errors import InputError
from compress.report import comparing, tables
from compress.report.tree import mapping, text, within
from compress.storage import records

VALIDATION = ("val_acc", "final_acc")  # keys that are the validation accuracy, which has a column anyway
STATES = ("finished", "stopped", "unfinished")  # in the order in which a table has them


@dataclasses.dataclass(frozen=True)
class Trial:
    """A trial, by the run of its last step.

    Attributes:
        settings: {name: value} of what varies, without the seed.
        state: of STATES; 'stopped' is one that the search ended early.
        epochs: how many it has trained; None where no history tells.
        acc: 0 to 1, of a finished one's last model, else the best one until then; None where nothing tells.
        value: what is searched for, of a finished one; None where its record has no such number.
    """

    settings: dict
    state: str
    epochs: int | None
    acc: float | None
    value: float | None


@dataclasses.dataclass(frozen=True)
class Search:
    """What a sweep.json says of a study.

    Attributes:
        step: name of the last step.
        key: of the records of that step, what is searched for.
        direction: 'maximize' or 'minimize'.
        trials: list of Trial, the best one first, then those that came less far.
        group: the images that the accuracies of finished ones are of, or '' where they are of several sets or of none.
    """

    step: str
    key: str
    direction: str
    trials: list
    group: str

    @property
    def best(self):
        """The best of the finished trials; None where none has what is searched for."""
        first = self.trials[0]
        return first if first.value is not None else None


def read(tree):
    """The Search in the root of a tree, or None where its sweep.json tells of none."""
    found, entries = comparing.listed(tree.root)
    if "study" not in found or not entries:
        return None
    objective = mapping(found.get("objective"))
    key, direction = text(objective.get("key", "val_acc"), 40), objective.get("direction")
    down = direction == "minimize"
    last = entries[-1].get("step")
    known = {run.path.parent.relative_to(tree.root).as_posix(): run for run in tree.of_kind(*comparing.KINDS)}
    trials, groups = [], set()
    for entry in (entry for entry in entries if entry.get("step") == last):
        run = known.get(entry["folder"]) if comparing.is_finished(tree.root, entry) else None
        groups |= {run.points[-1].group} if run and run.points else set()
        trials.append(_trial(tree.root, entry, run, key))
    trials.sort(key=lambda trial: _rank(trial, down))
    group = groups.pop() if len(groups) == 1 else ""
    return Search(text(last, 60), key, "minimize" if down else "maximize", trials, group)


def _trial(root, entry, run, key):
    """The Trial of a run that sweep.json names; `run`: its record, a tree.Run, where it is finished."""
    settings = comparing.settings_of(entry)
    settings.pop("seed", None)
    epochs, acc = _reached(root, entry["folder"])
    if comparing.is_finished(root, entry):
        value = run.content.get(key) if run else None
        value = value[-1] if records.is_curve(value) else value
        acc = run.points[-1].acc if run and run.points else acc
        return Trial(settings, STATES[0], epochs, acc, value if records.is_number(value) else None)
    return Trial(settings, STATES[1 if entry.get("stopped") is True else 2], epochs, acc, None)


def _reached(root, folder):
    """Number of epochs in the histories of a run, and the best accuracy of the last one; a pruning has several.

    Returns:
        (epochs, accuracy from 0 to 1), None for what no history tells.
    """
    place = root / folder
    paths = [place / "history.json"]
    if within(place, root) and place.is_dir():
        several = place.glob("iter*/history.json")
        paths += sorted(several, key=lambda path: int(re.sub(r"\D", "", path.parent.name)[:9] or 0))[: comparing.MOST]
    epochs, acc = None, None
    for path in paths:
        with contextlib.suppress(InputError, OSError):
            curve = records.read_history(path).get("val_acc", []) if within(path, root) else []
            if curve and min(curve) >= 0 and max(curve) <= 1:
                epochs, acc = (epochs or 0) + len(curve), max(curve)
    return epochs, acc


def _rank(trial, down):
    """What trials are sorted by: the best value first, then those without, by how far they came."""
    value = trial.value if trial.value is None or down else -trial.value
    return value is None, value or 0.0, STATES.index(trial.state), -(trial.epochs or 0), -(trial.acc or 0.0)


def told(search):
    """What is to be known to read the table, as a text."""
    stopped = sum(trial.state == STATES[1] for trial in search.trials)
    parts = []
    if search.best:
        name = "validation accuracy" if search.key in VALIDATION else search.key
        parts.append(
            f"The best trial is the first one, by the {'lowest' * (search.direction == 'minimize') or 'highest'} "
            f"{name}."
        )
    if stopped:
        which = f"{stopped:,} of {display_tables.counted(len(search.trials), 'trial')}"
        parts.append(
            f"{which} {'was' if stopped == 1 else 'were'} stopped early, since others were better after as many "
            "epochs; the accuracy of one that isn't finished is the best one that it reached."
        )
    return " ".join(parts)


def _state(trial):
    """A trial's state as a cell."""
    if trial.state == STATES[0] or trial.epochs is None:
        return trial.state, trial.state
    shown = f"{trial.state} at epoch {trial.epochs}"
    return shown, shown


def table(search):
    """The trials: values, state, accuracy, what is searched for, and which is the best."""
    names = comparing.varying(search.trials) or list(search.trials[0].settings)
    numbers = [name for name in names if all(records.is_number(trial.settings.get(name)) for trial in search.trials)]
    other = search.key not in VALIDATION
    form = display.percent if search.key.endswith("_acc") else "{:.6g}".format
    rows = []
    for number, trial in enumerate(search.trials, 1):
        cells = [comparing.setting(trial, name, name in numbers) for name in names]
        cells += [_state(trial), tables.cell(trial.acc, display.percent)]
        cells += [tables.cell(trial.value, form)] if other else []
        rows.append(
            [(str(number), number), *cells, ("best", "best") if trial is search.best else (tables.NOTHING, None)]
        )
    columns = [("rank", True), *((name, name in numbers) for name in names), ("state", False)]
    columns += [("validation accuracy", True), *([(search.key, True)] if other else []), ("best", False)]
    images = f" ({search.group})" if search.group else ""
    return tables.Table(
        "trials", f"Trials of the search, the best first; accuracy of {search.step}{images}", columns, rows
    )
