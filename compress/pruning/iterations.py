"""How far a pruning run is, by its result.json, and whether it may go on from there. Imports no Keras."""

import math
from pathlib import Path

from compress.cli import display
from compress.errors import InputError
from compress.storage import files, records, resuming

INNER = ("_1_conv", "_2_conv")  # how those of its layers end that these versions pruned

# what result.json has a number of for each iteration, beside the sha256
LISTS = (
    "base_acc",
    "sparsity",
    "pruned_acc",
    "recalibrated_acc",
    "final_acc",
    "seconds",
    "parameters",
    "bytes",
    "compression_rate",
)
# beside them where the MACs are known, and where a latency is the target
MORE = ("macs", "latency_ms")

STEP = 0.8  # of the MACs are left by an iteration where only `max_accuracy_drop` says how far it goes
HALVINGS = 3  # of the step with `max_accuracy_drop`; a fourth iteration that loses too much is the end


def length(config):
    """What may be larger than it was, for `resuming`; None with a target, where all iterations depend on their number.

    Args:
        config: a configs.PruneConfig.
    """
    return None if config.targeted else "prune_iter"


def start(config, run_record):
    """result.json of an unfinished run with the same flags, or of one that was to have fewer iterations, or a new one.

    Args:
        config: a configs.PruneConfig.
        run_record: from `records.run_record`.

    Raises:
        InputError: an unfinished run with other flags, or one whose files are not those that it names.
    """
    root = Path(config.root_folder)
    path = root / "result.json"
    if config.resume == "auto" and path.is_file():
        result = records.read_json(path)
        more = result.get("finished") is True and resuming.is_shorter(result.get("run"), run_record, "prune_iter")
        if result.get("finished") is False or more:
            check_unfinished(result, root)
            resuming.check_same_run(result["run"], run_record, config.root_folder, length=length(config))
            if (done := len(result["final_acc"])) > config.prune_iter:
                raise InputError(
                    f"`prune_iter`: received {config.prune_iter}, but {config.root_folder} holds {done} "
                    f'iterations; expected at least {done}, another `root_folder`, or `resume="never"` '
                    "to start over"
                )
            return result
    return {
        "finished": False,
        "split": "validation",
        "run": run_record,
        "final_acc": [],
        "channels": {},
    }


def lowest(config, result, row):
    """The validation accuracy, 0 to 1, that `max_accuracy_drop` asks for; row: of an iteration, the first or a later.

    Accuracies are shares of whole images: what rounding leaves must not tell one on the bound from one within it.
    """
    first = base_accuracy(result)
    return (row["base_acc"] if first is None else first) - config.max_accuracy_drop / 100 - 1e-9


def warn_of_worse(config, row, title, rate, images):
    """Warns where a fine-tuning ended below the accuracy that the trimmed network had before it, by more than its
    standard error.

    Args:
        config: a configs.PruneConfig.
        row: an iteration's numbers, `final_acc` among them.
        title: of the iteration.
        rate: the highest learning rate of the fine-tuning.
        images: how many the accuracies are of.
    """
    before, after = row["recalibrated_acc"], row["final_acc"]
    if before - after > math.sqrt(before * (1 - before) / images):  # of a share of so many images
        start = "recalibration" if config.recalibrate_images else "trimming"
        display.warn(
            f"{title}: fine-tuning made the network worse, from {display.percent(before)} validation accuracy after "
            f"{start} to {display.percent(after)}; try a lower `learning_rate` than {rate:g}, or a larger `epoch_num`"
        )


def base_accuracy(result):
    """The base's validation accuracy, 0 to 1; None before the first iteration."""
    tried = [*result.get("base_acc", ())[:1], *(row["base_acc"] for row in discarded(result)[:1])]
    return tried[0] if tried else None


def discarded(result):
    """Rows of the iterations of a result.json that lost too much, in their order; the first is the base's first try."""
    return result.get("discarded", [])


def is_over(config, result):
    """Whether no iteration is left that may be tried, whatever the network costs by now."""
    return len(result["final_acc"]) >= config.prune_iter or len(discarded(result)) > HALVINGS


def go_on(config, result, run_record):
    """Says where a run goes on that has begun, and takes note where it is to have more iterations than it was.

    Args:
        config: a configs.PruneConfig.
        result: from `start`; its run becomes this one where that was shorter.
        run_record: from `records.run_record`.
    """
    done = len(result["final_acc"])
    if done or "begun" in result:
        display.say(
            f"{config.root_folder} goes on "
            + (f"in iteration {done + 1}, which is trimmed" if "begun" in result else f"behind iteration {done}"),
            config.verbose,
        )
        resuming.tell_devices(result["run"], run_record, config.root_folder, config.verbose)
    if resuming.is_shorter(result["run"], run_record, "prune_iter"):
        result["run"] = run_record


def group_of_keys(result, scope, root):
    """Which group of the base each key of a result's `channels` stands for; a new result gets its keys.

    Args:
        result: from `start`.
        scope: a scope.Scope of the base.
        root: folder of the run, for the message.

    Returns:
        {key: group name}. They are the same but for runs of earlier versions, where 'conv3_stream' stands for the group
        that is called after the first layer that makes it now.

    Raises:
        InputError: the record is of another network.
    """
    groups = scope.graph.groups
    if not result["channels"]:
        result["channels"] = {name: [group.width] for name, group in groups.items()}
        result["groups"] = list(scope.names)
    found = {}
    for key, left in result["channels"].items():
        # a group has the name of its first layer, and another one may have come first as the key was written
        makes = (name for name, group in groups.items() if key in group.makers)
        name = scope.graph.named(key) or next(makes, None)
        if name is None or groups[name].width != left[0]:
            raise InputError(
                f"`resume`: received {root / 'result.json'}, which tells of {left[0]:g} channels of {key:.60}; "
                'expected the record of a run on this base, or `resume="never"` to start over'
            )
        found[key] = name
    return found


def pruned(result):
    """The `channels` of a result.json, of any origin, but of the groups that might lose some alone."""
    channels, names = result.get("channels", {}), result.get("groups")
    if not isinstance(names, list):
        return {name: left for name, left in channels.items() if name.endswith(INNER)}
    return {name: channels[name] for name in names if isinstance(name, str) and name in channels}


def check_unfinished(result, root):
    """Raises InputError where an unfinished result.json hasn't the shape or the files of one."""
    try:
        done = len(result["final_acc"])
        lists = {key: result[key] for key in LISTS} if done else {"final_acc": result["final_acc"]}
        lists |= {key: result[key] for key in MORE if key in result}
        sums, begun = result.get("sha256", []), result.get("begun", {"row": {}})
        tried = [begun["row"], *discarded(result)]
        if not all(records.is_curve(values, done) for values in lists.values()) or len(sums) != done:
            raise ValueError(f"lists that have not {done} numbers")
        channels = result["channels"]
        if not (channels or not done) or not all(records.is_curve(left, done + 1) for left in channels.values()):
            raise ValueError("channels")
        if (
            not isinstance(result["run"], dict)
            or not all(set(row) <= {*LISTS, *MORE, "iteration"} for row in tried)
            or not all(map(records.is_number, (value for row in tried for value in row.values())))
            or not all(records.is_number(row["base_acc"]) for row in discarded(result))
        ):
            raise ValueError("run or begun")
        wanted = {root / f"iter{done}" / "model.h5": sums[-1]} if done else {}
        if "begun" in result:
            wanted[root / f"iter{done + 1}" / "trimmed.h5"] = begun["sha256"]
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise InputError(
            f"`resume`: received {root / 'result.json'}, which is not the record of an unfinished run "
            f'({error!r:.100}); expected one, or `resume="never"` to start over'
        ) from None
    for file, digest in wanted.items():
        if not file.is_file() or files.sha256(file) != digest:
            raise InputError(
                f"`resume`: {file} is missing or damaged: its sha256 is not {digest!s:.8}..., as "
                f'{root / "result.json"} says; expected the file of this run, or `resume="never"` to '
                "start over"
            )
