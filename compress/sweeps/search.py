"""A sweep searched by Optuna: a trial is one run of each step, and ends early where others were better by then.

Trials lie in a database that processes share: each takes the next one until there are as many as were asked for.
"""

import contextlib
import dataclasses
import json
import os
import re
import time
import warnings
from pathlib import Path

from compress.cli import keywords
from compress.cli.values import nearest
from compress.errors import InputError, one_line
from compress.storage import records
from compress.storage.files import check_writable
from compress.sweeps import notes, plans, running
from compress.sweeps.specs import NUMBERS, TRAINS, wrong

RUNGS = 9  # the first look at a trial comes after this part of its epochs, the next one three times as late
KEEPS = 3  # of so many trials that came as far one goes on
HEARTBEAT = 60  # seconds; a process that is silent for twice as long is dead, and its trial is taken up by another
BETWEEN = 0.6180339887  # where, from the low end of a range, a value is tried before any work
LOOK = 0.3  # seconds between two looks at a history
WAIT = 3  # seconds between two looks at the trials of other processes
CURVES = {"val_acc": "val_acc", "final_acc": "val_acc", "val_loss": "val_loss"}  # of a result's key while it runs
SEARCH = "search"  # the attribute of a study that says what it was begun with
OWN = ("optuna.storages", "sqlalchemy")  # packages in which an error is one of the database
NOTED = {"folder", "step", "values", "record"}  # keys of `notes.entry`


class RunFailed(Exception):
    """A run of a trial ended with another status than 0; its text is the last line of its log."""


class Edges:
    """Stands in for a trial where a file is checked: the ends of each range and between, and each of some values.

    Args:
        number: which value of a list; of ranges 0 for the low end, 1 for the high one, others for one between.
        row: which row.
    """

    def __init__(self, number, row):
        self.number, self.row = number, row

    def suggest_categorical(self, name, choices):
        """One of the choices, the last one where there are fewer."""
        return choices[min(self.row if name.rpartition(".")[2] == "row" else self.number, len(choices) - 1)]

    def suggest_float(self, name, low, high, log=False, step=None):
        """An end of the range or a number between, which is no whole one where `step` doesn't say so."""
        if self.number < 2:
            return high if self.number else low
        return low + step * round(BETWEEN * (high - low) / step) if step else low + BETWEEN * (high - low)

    suggest_int = suggest_float


def _value(trial, name, value, several):
    """What a trial takes of a flag's value: itself, or in a list of one, one of a list or a number of a range."""
    if isinstance(value, dict):
        how = {"log": value.get("log", False), "step": value.get("step")}
        if type(value["low"]) is int and type(value["high"]) is int and type(how["step"]) in (int, type(None)):
            return [trial.suggest_int(name, value["low"], value["high"], log=how["log"], step=how["step"] or 1)]
        found = trial.suggest_float(name, value["low"], value["high"], **how)
        # four digits, as a folder's name has them
        return [min(max(float(f"{found:.4g}"), value["low"]), value["high"])]
    choices = plans.choices(value, several)
    if choices is None:
        return value
    texts = [json.dumps(choice) for choice in choices]  # a database holds no lists
    return [json.loads(trial.suggest_categorical(name, texts))]


def chosen(spec, trial, parser_of):
    """The specs.Spec of one trial: of all that varies one value."""
    steps, of_all = [], trial.suggest_categorical("row", list(spec.rows)) if spec.rows else None
    for step in spec.steps:
        several, found = keywords.several(parser_of(step.script)), {}
        alone = step.rows and not spec.rows
        row = trial.suggest_categorical(f"{step.name}.row", list(step.rows)) if alone else of_all
        own = step.rows.get(row, {})
        for name, value in (step.flags | own).items():
            # other rows may have other values of a flag, and a study knows one choice by a name
            label = f"{step.name}.{row}.{name}" if name in own else f"{step.name}.{name}"
            found[name] = _value(trial, label, value, name in several)
        rows = {row: {name: found[name] for name in own}} if step.rows else {}
        steps.append(dataclasses.replace(step, flags=found, rows=rows))
    return dataclasses.replace(spec, steps=steps)


def check(spec, parser_of):
    """Makes sure, before any work, that a sweep's values can be used: of a range the ends and one between.

    Returns:
        The most epochs that the last step's runs have.

    Raises:
        InputError: a value can't; or there is nothing that can be searched for.
    """
    last, (key, direction) = spec.steps[-1], spec.objective
    if last.script not in TRAINS:
        raise wrong(
            spec.file, f"steps.{last.name}.script", f"received {last.script}, expected a script that trains last"
        )
    if "test" in key:
        raise wrong(spec.file, direction, f"received {key}, expected a key of result.json that is of validation images")
    if key not in NUMBERS[last.script]:
        near = nearest(key, NUMBERS[last.script])
        hint = f"did you mean {near}?" if near else f"expected one of {', '.join(NUMBERS[last.script])}"
        raise wrong(
            spec.file, direction, f"received {key}, which the result.json of {last.script} has no number for; {hint}"
        )
    if len(spec.seeds or ()) > 1:
        raise wrong(spec.file, "seeds", f"received {len(spec.seeds)}, expected one where values are searched")
    several = [step.flags | more for step in spec.steps for more in (step.rows or {None: {}}).values()]
    varies = any(isinstance(value, (dict, list)) for given in several for value in given.values())
    if not varies and all(len(step.rows) < 2 for step in spec.steps):
        raise wrong(spec.file, "steps", "nothing varies; expected a list or a range, such as {low: 0.01, high: 0.1}")
    most = max([3, *(len(value) for given in several for value in given.values() if isinstance(value, list))])
    rows = max([1, *(len(step.rows) for step in spec.steps)])
    found = [
        plans.expand(chosen(spec, Edges(number, row), parser_of), parser_of)
        for row in range(rows)
        for number in range(most)
    ]
    return max(runs[-1].epochs for runs in found)


def curve(run, key):
    """What a run's histories hold by now under one of records.CURVES, a pruning's iterations one after another."""
    folder = Path(run.folder)
    files = sorted(folder.glob("iter*/history.json"), key=lambda path: int(re.sub(r"\D", "", path.parent.name) or 0))
    values = []
    for file in files if run.script == "prune_model.py" else [folder / "history.json"]:
        with contextlib.suppress(InputError, OSError):
            values += records.read_history(file).get(key, [])
    return values


def result_of(spec, run):
    """The number of a run's result.json that is searched for; of a list, as of a pruning's iterations, the last one.

    Raises:
        InputError: there is none, or it is of test images.
    """
    found, (key, direction) = records.read_json(run.record), spec.objective
    value = found.get(key)
    value = value[-1] if isinstance(value, list) and value else value
    if not records.is_number(value) or found.get("split") == "test":
        known = [name for name, one in found.items() if records.is_number(one) or records.is_curve(one)]
        raise wrong(
            spec.file,
            direction,
            f"received {key}, which {run.record} has no number for; expected one of {', '.join(known)}",
        )
    return float(value)


def _make(spec, run, look, busy):
    """Makes a run unless it is finished; `look`: called now and then, a true answer ends it. Raises RunFailed.

    Where another process is at work on it, `busy` is called with it, and it is waited for.
    """
    if running.is_finished(run):
        return
    lock = running.take(run)
    if lock is None:
        busy(run)
    while lock is None:
        time.sleep(LOOK)
        lock = running.take(run)
    with contextlib.ExitStack() as stack:
        stack.callback(lock.release)
        if running.is_finished(run):
            return
        job, ended = running.start(run, running.log_of(run, spec.folder)), False
        try:
            while job.process.poll() is None and not ended:
                ended = look()
                time.sleep(0 if ended else LOOK)
        finally:
            running.stop([job])
        if not ended and (why := running.why_failed(job)):
            raise RunFailed(f"{run.folder}: {why}")


def objective(spec, parser_of, trial, busy):
    """Makes the runs of a trial, and returns what is searched for; `busy` as of `search`.

    Raises:
        optuna.TrialPruned: its last run was stopped, since others were better after as many epochs.
        RunFailed: a run ended with an error.
    """
    import optuna

    try:
        runs = plans.expand(chosen(spec, trial, parser_of), parser_of)
    except ValueError as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"`study`: received {trial.study.study_name}, which searches other values ({one_line(error):.150}); "
            "expected another name"
        ) from None
    trial.set_user_attr("runs", [notes.entry(run, spec.folder) for run in runs])
    key, told = spec.objective[0], []

    def hopeless():
        values = curve(runs[-1], CURVES[key])
        for epoch, value in enumerate(values[len(told) :], len(told) + 1):
            told.append(value)
            trial.report(value, epoch)
            if len(values) < runs[-1].epochs and trial.should_prune():  # one that has them all only has to write
                return True
        return False

    try:
        for run in runs[:-1]:
            _make(spec, run, lambda: False, busy)
        _make(spec, runs[-1], hopeless if key in CURVES else lambda: False, busy)
    except KeyboardInterrupt:
        trial.study.enqueue_trial(trial.params)  # the next process goes on with it
        raise
    except RunFailed as error:
        trial.set_user_attr("failed", str(error))
        raise
    if not running.is_finished(runs[-1]):
        raise optuna.TrialPruned(f"after {len(told)} epochs")
    return result_of(spec, runs[-1])


@contextlib.contextmanager
def database():
    """Makes one line of what a database, or its driver, says as it fails beneath a study."""
    import optuna
    import sqlalchemy

    try:
        yield
    except InputError:
        raise
    except Exception as error:
        cause = error  # Optuna itself stumbles behind one at times
        while cause and not isinstance(cause, (optuna.exceptions.StorageInternalError, sqlalchemy.exc.SQLAlchemyError)):
            cause = cause.__cause__ or cause.__context__
        if not cause and _is_of(error, OWN):  # what they make of values that nobody wrote
            cause = error
        if not cause:
            raise
        raise InputError(
            f"`storage`: the database can't be used any more ({_told(cause.__cause__ or cause)}); expected it there, "
            "whole and with room; it is study.db in the sweep's folder where `storage` names no other. What the runs "
            "have saved stays: the same command goes on with a database that is whole, or without study.db begins a "
            "new study"
        ) from None


def _is_of(error, packages):
    """Whether an exception was raised in one of some packages."""
    frame = error.__traceback__
    while frame.tb_next:
        frame = frame.tb_next
    return frame.tb_frame.f_globals.get("__name__", "").startswith(packages)


def _told(error):
    """What an error of a database says; of a ValueError, which may hold a part of an address' password, its type."""
    text = "" if isinstance(error, ValueError) else f": {one_line(getattr(error, 'orig', None) or error):.200}"
    return f"{type(error).__name__}{text}"


def _storage(url):
    """An optuna.storages.RDBStorage, of which a missed heartbeat is nothing to speak of.

    The thread that tells of it would print a traceback; what follows in the main one fails, too, and says it.
    """
    import optuna

    class Storage(optuna.storages.RDBStorage):
        def record_heartbeat(self, trial_id):
            with contextlib.suppress(Exception):
                super().record_heartbeat(trial_id)

    waits = {"connect_args": {"timeout": 100}} if url.startswith("sqlite") else {}  # while another process writes
    return Storage(
        url,
        engine_kwargs=waits,
        heartbeat_interval=HEARTBEAT,
        heartbeat_stale_trial_callback=lambda study, trial: study.enqueue_trial(trial.params),
    )


def open_study(spec, name, storage, longest):
    """The optuna.Study of this name, new or as it is in its database.

    Args:
        spec: a specs.Spec.
        name: of the study.
        storage: URL of a database, or None for SQLite in the sweep's folder.
        longest: most epochs of a run.

    Raises:
        InputError: there is no Optuna, or no such database; or the study looks for something else.
    """
    import filelock

    try:
        import optuna
    except ImportError:
        raise InputError(
            "`study`: received it where Optuna is not installed; expected the packages of requirements-sweep.txt"
        ) from None
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    check_writable(spec.folder)
    Path(spec.folder).mkdir(parents=True, exist_ok=True)
    file = Path(spec.folder) / "study.db"
    url = storage or f"sqlite:///{os.path.abspath(file)}"
    direction = spec.objective[1]
    try:
        # two processes that made the tables at once would be in each other's way
        with warnings.catch_warnings(), filelock.FileLock(Path(spec.folder) / ".study.lock"):
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # the heartbeat
            study = optuna.create_study(
                storage=_storage(url),
                study_name=name,
                direction=direction,
                load_if_exists=True,
                # ASHA: Li et al. 2020, A System for Massively Parallel Hyperparameter Tuning, arXiv 1810.05934
                pruner=optuna.pruners.SuccessiveHalvingPruner(max(1, longest // RUNGS), KEEPS),
            )
    except Exception as error:  # of SQLAlchemy, of a driver, of Optuna
        place = "`storage`: received" if storage else f"{file}:"
        wanted = (
            "a URL, such as sqlite:///study.db, and its driver installed"
            if storage
            else "one of studies; without that file a new study begins, and runs that are finished stay"
        )
        raise InputError(f"{place} a database that can't be used ({_told(error)}); expected {wanted}") from None
    with database(), filelock.FileLock(Path(spec.folder) / ".study.lock"):
        if [one.name.lower() for one in study.directions] != [direction]:
            raise InputError(f"`study`: received {name}, which does not {direction}; expected another name")
        _check_same_search(spec, study)
    return study


def _check_same_search(spec, study):
    """Raises InputError where a study was begun with other steps, flags or another key: its trials don't compare."""
    steps = {step.name: {"script": step.script, "flags": step.flags, "rows": step.rows} for step in spec.steps}
    now = json.loads(json.dumps({"searched for": spec.objective[0], "seeds": spec.seeds, "steps": steps}))
    then = study.user_attrs.get(SEARCH)
    if then is None:  # a new one, or one of an earlier version
        study.set_user_attr(SEARCH, now)
    elif difference := _difference(then, now):
        raise InputError(
            f"`study`: received {study.study_name}, which was begun with other settings ({difference}); expected "
            "another name, or the file and `seeds` of then: their trials don't compare"
        )


def _difference(then, now, where=""):
    """What differs first in two parts of JSON, as 'steps.base.flags.subset: 100 then, 200 now', or ''."""
    if isinstance(then, dict) and isinstance(now, dict):
        keys = dict.fromkeys([*now, *then])
        parts = (_difference(then.get(key), now.get(key), f"{where}.{key}".lstrip(".")) for key in keys)
        return next(filter(None, parts), "")
    shown = [("nothing" if one is None else f"{json.dumps(one):.60}") for one in (then, now)]
    return f"{where}: {shown[0]} then, {shown[1]} now" if then != now else ""


def counted(study):
    """The trials that count: all but those that were interrupted, which are made again, and those that wait."""
    return [
        trial
        for trial in study.get_trials(deepcopy=False)
        if trial.state.name != "WAITING" and (trial.state.name != "FAIL" or "failed" in trial.user_attrs)
    ]


def folder_of(spec, trial):
    """The folder of a trial's last run, or None of one that something else than `objective` made."""
    found = _entries(trial)
    return os.path.normpath(os.path.join(spec.folder, str(found[-1]["folder"]))) if found else None


def _entries(trial):
    """The runs of a trial as `notes.entry` has them; none of a trial that something else than `objective` made."""
    found = trial.user_attrs.get("runs")
    known = isinstance(found, list) and all(isinstance(one, dict) and {*one} >= NOTED for one in found)
    return [dict(one) for one in found] if known else []


def search(spec, parser_of, study, trials, tell, busy):
    """Makes trials until a study has so many; other processes may do so at the same time.

    Args:
        spec: a specs.Spec, see `check`.
        parser_of: function(script) -> its flags.Parser.
        study: from `open_study`.
        trials: how many there are to be, those of other processes and of earlier among them.
        tell: function(an optuna FrozenTrial), called at its end.
        busy: function(a plans.Run or the number of a trial), called where another process is at work on it, which is
            waited for.
    """
    import optuna

    seen = {}  # {number of a trial of another process: since when it is waited for}

    def at_work(trial):
        """Whether another process makes a trial; one that isn't of this module, and hangs, has no sign of life."""
        since = seen.get(trial.number, time.monotonic())
        return trial.state.name == "RUNNING" and bool(_entries(trial) or time.monotonic() - since < 3 * HEARTBEAT)

    def ended(study, trial):
        found = {}
        for one in counted(study):
            entries = _entries(one)
            if entries and one.state.name == "PRUNED":
                entries[-1]["stopped"] = True
            found |= {entry["folder"]: entry for entry in entries}
        notes.write(spec, list(found.values()), study=study.study_name)
        tell(trial)

    while True:
        with warnings.catch_warnings(), database():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            optuna.storages.fail_stale_trials(study)
            found = counted(study)
            if len(found) >= trials:
                others = [trial.number for trial in found[:trials] if at_work(trial)]
                if not others:
                    return
                for number in others:
                    if number not in seen:
                        seen[number] = time.monotonic()
                        busy(number)
                time.sleep(WAIT)
                continue
            study.optimize(
                lambda trial: objective(spec, parser_of, trial, busy), n_trials=1, catch=(RunFailed,), callbacks=[ended]
            )
