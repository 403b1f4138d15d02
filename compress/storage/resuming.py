"""Whether a run may go on where another stopped or ended, and what to say where it may not.

A record holds the parameters of its run by name, under `flags`; two runs are the same where these are, but for those
that leave the result alone.
"""

import json
import os
from pathlib import Path

from compress.cli import display, tables, values
from compress.errors import InputError, command
from compress.storage import records
from compress.storage.files import sha256

NEVER = 'or `resume="never"` to start over'

# how a finished run was made longer, in records of format 2 and 1
RESTARTED = ("restarted", "anew")

# parameters that leave the result alone, and names of places: what lies there is compared by its checksum
IGNORED = {
    "argv",
    "resume",
    "verbose",
    "num_worker",
    "gpu",
    "save_minutes",
    "save_folder",
    "root_folder",
    "base_model_path",
    "data_dir",
    "cache_dir",
    "cache",
    "tensorboard",
    "json",
    "verify_model",
    # who computes: a run may go on with others, see `tell_devices`
    "devices",
    "coordinator",
    "num_processes",
    "process_id",
    "distributed",
}
# parameters that say most of how two runs differ, in this order; behind them those that were given
FIRST = (
    "dataset",
    "model_path",
    "depth",
    "stem",
    "student_stem",
    "student_blocks",
    "class_num",
    "image_size",
    "criterion",
    "target_macs",
    "target_compression",
    "target_latency",
    "max_accuracy_drop",
    "prune_ratio",
    "subset",
    "val_split",
)
MOST = 4  # differing parameters that are named
LENGTHS = {"epoch_num": "epoch", "prune_iter": "iteration"}  # how much is to be done; may differ from what was


def finished_result(folder, run, resume, length="epoch_num"):
    """What result.json holds of a finished run with the same parameters, which has nothing left to do, or None.

    A record with a true 'shipped' belongs to a model that came with the suite: any run may write there.

    Args:
        folder: where a run writes.
        run: what `records.run_record` gives now.
        resume: 'auto' or 'never'; with 'never' the answer is None.
        length: key of LENGTHS, the parameter that may be larger than it was: the run then goes on, and the answer is
            None. None for no parameter.

    Raises:
        InputError: a finished run of other parameters, or a longer one, lies there, which must not be lost.
    """
    folder = Path(folder)
    if resume == "never" or not (folder / "result.json").is_file() or (folder / records.STATE).exists():
        return None
    result = records.read_json(folder / "result.json")
    if result.get("finished") is False or result.get("shipped") is True:  # what came with the suite can be had again
        return None
    before = result.get("run")
    check_same_run(before, run, folder, "a finished", length)
    if _may_have_moved(before, run):
        return None  # asked once more when the images are known
    if length and (then := before["flags"].get(length)) != (now := run["flags"].get(length)):
        if records.is_number(then) and now > then:
            return None
        done = tables.counted(then, LENGTHS[length]) if records.is_number(then) else f"{then!s:.20}"
        raise InputError(
            f"`{length}`: received {now}, but {folder} holds a finished run of {done}; expected {then}, a "
            f"larger number to go on from its end, another folder to write to, {NEVER}"
        )
    return result


def finished(folder, run, config, paths, length="epoch_num"):
    """`finished_result`; says what can be done with such a run, and where its files lie.

    Args:
        folder: where a run writes.
        run: what `records.run_record` gives now.
        config: a configs.RunConfig.
        paths: of the run's files, for `display.written`.
        length: as of `finished_result`.
    """
    result = finished_result(folder, run, config.resume, length)
    if result:
        place = "root_folder" if "prune_iter" in run["flags"] else "save_folder"
        more = f"a larger `{length}` goes on from its end, " if length else ""
        display.say(
            f"{folder} holds this run, finished before; nothing was done or written now: {more}another "
            f'`{place}` begins another run, `resume="never"` starts this one over',
            config.verbose,
        )
        display.written(paths, config.verbose, "there")
    return result


def _of_older(record):
    """What an older version did where it did not know a parameter: that was its value."""
    hflip = values.usual_hflip(record["flags"].get("dataset"))
    return {"allocation": "threshold", "hflip": hflip, "augment": "shift"}


def check_same_run(before, run, folder, kind="an unfinished", length=None):
    """Makes sure that a run had the parameters that this one has, and the same images and model.

    Args:
        before: what `records.run_record` gave then.
        run: what it gives now.
        folder: where the run of then lies, for the message.
        kind: of run, for the message.
        length: key of LENGTHS, a parameter that may differ, or None.

    Raises:
        InputError: a parameter that bears on the result differs, or the model that the run started from.
    """
    if not isinstance(before, dict) or not isinstance(before.get("flags"), dict):
        raise InputError(f"`resume`: {folder} holds {kind} run that names no flags; expected them, {NEVER}")
    # As JSON has them: a tuple of this process is a list in a record.
    then, now = (json.loads(json.dumps(record.get("flags", {}))) for record in (before, run))
    for record, flags in ((before, then), (run, now)):
        flags.update(_student_of(record), dataset=records.place(flags.get("dataset")))
    then = {name: value for name, value in _of_older(before).items() if name in now} | then
    given = _given(run)
    free = {key for key in set(now) - set(then) if key not in given}  # parameters that the run of then didn't know
    # Records of earlier versions hold the teacher's own stem and blocks where none were asked for.
    free |= {key for key in ("student_stem", "student_blocks") if now.get(key) is None and key not in _given(before)}
    if now.get("target_macs"):
        free -= {"stage_tilt"}  # before it, such a student had other widths
    # Images and the model that the run started from are known by their checksums, wherever they lie now.
    if (sources := [_source(record) for record in (before, run)]) and None not in sources:
        if not records.same_images(*sources):
            raise InputError(
                f"`resume`: {folder} holds {kind} run on other images than {now['dataset']} holds now; "
                f"expected the same, another folder to write to, {NEVER}"
            )
        free |= {"dataset"}  # wherever they lie now
    elif _may_have_moved(before, run):
        free |= {"dataset"}
    shown = [_pixels(record) for record in (before, run)]
    if None not in shown and shown[0] != shown[1]:
        raise InputError(
            f"`resume`: {folder} holds {kind} run on images shown with {before['pixels']}, now {run['pixels']}; "
            f"expected the same, another folder to write to, {NEVER}"
        )
    if kind == "an unfinished":
        _check_same_backend(before, run, folder)
    sums = [record.get("parent_sha256") for record in (before, run)]
    other_model = sums[0] != sums[1]
    if other_model or sums[0] is not None:
        free |= {_model_parameter(now)}  # known by its checksum
    if then.get("dataset") != now.get("dataset"):
        free |= {"class_num", "hflip"} - given - _given(before)  # the data set's own
    keys = [key for key in (set(then) | set(now)) - IGNORED - free - {length} if then.get(key) != now.get(key)]
    keys.sort(key=lambda key: (FIRST.index(key) if key in FIRST else len(FIRST), key not in given, key))
    if keys or other_model:
        was, wanted = _both_shown(keys, (then, now), (before, run), other_model)
        raise InputError(
            f"`resume`: {folder} holds {kind} run with {was}; received {wanted}{_why_not(keys, run, folder)}; "
            f"expected what that run had to go on with it, another folder to write to, {NEVER}"
        )


def tell_devices(before, run, folder, verbose):
    """Says where a run goes on on another number of devices than it had; both records then list all in turn.

    Args:
        before: what `records.run_record` gave then.
        run: what it gives now.
        folder: where the run lies.
        verbose: 0 for nothing.
    """
    then, now = ((record.get("devices") or [1]) for record in (before, run))
    if then[-1] != now[-1]:
        display.say(
            f"{folder} goes on on {tables.counted(now[-1], 'device')}, before on {then[-1]}: the same run but for "
            "rounding, not the same bits",
            verbose,
        )
        then = [*then, now[-1]]
    if then != [1]:
        before["devices"] = run["devices"] = then


def _pixels(record):
    """How images were converted, as a record says; older ones don't name the scale of 16-bit colour, which was this."""
    pixels = record.get("pixels")
    return {"colour": 65535} | pixels if isinstance(pixels, dict) else pixels


def _student_of(record):
    """The `student_path` of a run with one, as its file's checksum: it is the same wherever it lies now."""
    return {"student_path": record["student_sha256"]} if record.get("student_sha256") else {}


def _check_same_backend(before, run, folder):
    """InputError where an unfinished run was begun under another backend, which computes other bits."""
    then, now = (record.get("backend") for record in (before, run))
    if None not in (then, now) and then != now:
        raise InputError(
            f"`resume`: {folder} holds an unfinished run under KERAS_BACKEND={then!s:.20}; received "
            f"KERAS_BACKEND={now}, whose numbers differ; expected the same, another folder to write to, {NEVER}"
        )


def _both_shown(keys, flags, recorded, other_model):
    """The differing parameters of two runs, and their models where they are others, as two texts."""
    if flags[0]["dataset"] != flags[1]["dataset"]:  # even where it alone would be free
        keys = ["dataset", *(key for key in keys if key != "dataset")]
    found = []
    for resolved, run in zip(flags, recorded, strict=True):
        names = resolved | {"dataset": run.get("flags", {}).get("dataset")}  # as it was spelt
        words = [_shown(key, names, _given(run)) for key in keys]
        if other_model:
            words.insert(keys[:1] == ["dataset"], _model_shown(names, run))
        found.append(", ".join(words[:MOST]) + (f" and {len(words) - MOST} more" if len(words) > MOST else ""))
    return found


def _why_not(keys, run, folder):
    """Why a pruning can't be made longer, and the command that trains what it made further.

    Args:
        keys: names of the parameters that differ.
        run: what `records.run_record` gives of the run that is asked for.
        folder: where the pruning lies.
    """
    now = run["flags"]
    if "prune_iter" in keys:
        return (
            ", and what an iteration removes under a target depends on their number (prune the last iteration's "
            "model further: give it as `base_model_path`)"
        )
    if "epoch_num" not in keys or "prune_iter" not in now:
        return ""
    made = [path for path in Path(folder).glob("iter*/model.h5") if path.parent.name[4:].isdecimal()]
    made.sort(key=lambda path: int(path.parent.name[4:]))
    told = {"dataset", "epoch_num"} | _given(run) & {"data_dir", "val_split", "subset", "batch_size"}
    words = {name: now[name] for name in sorted(told) if name in now}
    further = made and command(
        "train_base_model.py", model_path=made[-1], **words, save_folder=f"{os.path.normpath(folder)}_trained"
    )
    return ", and all iterations of a run have as many epochs" + (
        f"; its last model is trained further by: {further}" if further else ""
    )


def _given(run):
    """Names of the parameters that a record's command line gives, 'no-' in front of a switch that is off."""
    words = run.get("argv")
    words = map(str, words) if isinstance(words, list) else ()
    return {word.split("=")[0].removeprefix("--") for word in words if word.startswith("--")}


def _shown(key, names, given):
    """A parameter with its value among `names`, and whether that was a default, by what was given."""
    value = names.get(key)
    if value is None or value is False:
        return f"`{key}=False`" if f"no-{key}" in given else f"no `{key}`"
    value = tables.amount(value)
    values = value if isinstance(value, (list, tuple)) else [value]
    text = f"{' '.join(map(str, values)):.200}".replace("`", "'")
    text = f'"{text}"' if isinstance(values[0], str) else text
    return f"`{key}={text}`" + (" (default)" if given and key not in given else "")


def _model_parameter(names):
    """The parameter, of those of a run, that names the model that it started from."""
    return "base_model_path" if "base_model_path" in names else "root_folder" if "lambda1" in names else "model_path"


def _model_shown(names, run):
    """The model that a run started from, with the beginning of its checksum."""
    words, digest = _shown(_model_parameter(names), names, _given(run)), run.get("parent_sha256")
    return words if digest is None else f"{words} (sha256 {digest!s:.8}...)"


def is_shorter(before, run, length):
    """Whether the run that a record tells of was to have fewer epochs or iterations; False for a broken record."""
    then = before["flags"].get(length) if isinstance(before, dict) and isinstance(before.get("flags"), dict) else None
    return records.is_number(then) and then < run["flags"][length]


def _source(run):
    """What identifies the images of a run's folder, a list as `folders.listing_checksum` gives it, or None."""
    source = run.get("source")
    return source if isinstance(source, list) and len(source) > 1 and isinstance(source[1], str) else None


def _may_have_moved(before, run):
    """Whether only the images, which aren't read yet, can tell if a run had the data that this one has."""
    then, now = (records.place(record["flags"].get("dataset")) for record in (before, run))
    return (
        _source(before) is not None
        and "source" not in run
        and then != now
        and isinstance(now, str)
        and (os.path.isdir(now))
    )


def continuation(folder, run):
    """How a run of training in a folder goes on with another number of epochs than it was to have.

    An unfinished one keeps its optimiser and takes the schedule of the new length from its next step on. A finished one
    starts another cycle of the schedule from its best weights (warm restarts: Loshchilov and Hutter 2017, SGDR, arXiv
    1608.03983, section 3), since its optimiser isn't kept, and its rate ended at 0.

    Args:
        folder: where `training.fit` writes.
        run: what `records.run_record` gives; where the run goes on so, or once did, its 'continued' tells of each
            time: after_epoch, epoch_num as it was before, schedule: 'stretched' or 'restarted' ('anew' in format 1).

    Returns:
        Epochs that were done when the schedule began that holds now: 0 for a run that never started another.
    """
    folder, wanted = Path(folder), run["flags"].get("epoch_num")
    run.pop("continued", None)
    unfinished = (folder / records.STATE).exists()
    try:
        done, history = _history_of_state(folder / records.STATE) if unfinished else _finished_history(folder)
        before = history["run"]
        check_same_run(before, run, folder, length="epoch_num")
        then, steps = before["flags"].get("epoch_num"), checked_steps(before)
    except Exception:  # of nearly any kind; `training.fit` says what is wrong
        return 0
    if unfinished and then != wanted:
        steps = [*steps, {"after_epoch": done, "epoch_num": then, "schedule": "stretched"}]
    elif not unfinished and records.is_number(then) and wanted > then == done:
        steps = [*steps, {"after_epoch": done, "epoch_num": then, "schedule": "restarted"}]
    elif not unfinished:
        return 0
    if steps:
        run["continued"] = steps
    return max((step["after_epoch"] for step in steps if step["schedule"] in RESTARTED), default=0)


def checked_steps(run):
    """A record's 'continued', or an empty list. Raises ValueError where it isn't what `continuation` writes."""
    steps = run.get("continued", [])
    if not (
        isinstance(steps, list)
        and all(
            isinstance(step, dict)
            and set(step) == {"after_epoch", "epoch_num", "schedule"}
            and type(step["after_epoch"]) is int
            and step["after_epoch"] > -1
            and type(step["epoch_num"]) is int
            and step["schedule"] in (*RESTARTED, "stretched")
            for step in steps
        )
    ):
        raise ValueError("'continued' of another kind")
    return steps


def _history_of_state(path):
    from compress.storage import states

    meta = states.read_meta(path)
    return meta["epoch"], meta["history"]


def _finished_history(folder):
    """(epochs, history) of a run that has ended. Raises Exception of several kinds where there is none."""
    history = records.read_json(folder / "history.json")
    if history["checkpoint"]["sha256"] != sha256(folder / "model.h5"):
        raise ValueError("another model")
    return len(history["val_acc"]), history
