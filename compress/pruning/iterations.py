"""How far a pruning run is, by its result.json, and whether it may go on from there. Imports no Keras."""

from pathlib import Path

from compress.cli import display
from compress.errors import InputError
from compress.storage import files, records, resuming

# what result.json has a number of for each iteration, beside the sha256
LISTS = (
    "base_acc",
    "sparsity",
    "pruned_acc",
    "recalibrated_acc",
    "final_acc",
    "seconds",
    "parameters",
    "macs",
    "bytes",
    "compression_rate",
)


def length(config):
    """What may be larger than it was, for `resuming`; None with a target, where all iterations depend on their number.

    Args:
        config: a configs.PruneConfig.
    """
    return None if config.targeted else "prune_iter"


def start(config, run_record, widths):
    """result.json of an unfinished run with the same flags, or of one that was to have fewer iterations, or a new one.

    Args:
        config: a configs.PruneConfig.
        run_record: from `records.run_record`.
        widths: of the base, as `resnet.widths_of` gives them.

    Raises:
        InputError: an unfinished run with other flags, or one whose files are not those that it names.
    """
    root = Path(config.root_folder)
    path = root / "result.json"
    if config.resume == "auto" and path.is_file():
        result = records.read_json(path)
        more = result.get("finished") is True and resuming.is_shorter(result.get("run"), run_record, "prune_iter")
        if result.get("finished") is False or more:
            check_unfinished(result, root, widths)
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
        "channels": {name: [width] for name, width in widths.items()},
    }


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
    if resuming.is_shorter(result["run"], run_record, "prune_iter"):
        result["run"] = run_record


def check_unfinished(result, root, widths):
    """Raises InputError where an unfinished result.json hasn't the shape or the files of one."""
    try:
        done = len(result["final_acc"])
        lists = {key: result[key] for key in LISTS} if done else {"final_acc": result["final_acc"]}
        sums, begun = result.get("sha256", []), result.get("begun", {"row": {}})
        if not all(records.is_curve(values, done) for values in lists.values()) or len(sums) != done:
            raise ValueError(f"lists that have not {done} numbers")
        if set(result["channels"]) != set(widths) or not all(
            records.is_curve(left, done + 1) for left in result["channels"].values()
        ):
            raise ValueError("channels")
        if (
            not isinstance(result["run"], dict)
            or not set(begun["row"]) <= set(LISTS)
            or not all(map(records.is_number, begun["row"].values()))
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
