#!/usr/bin/env python3
# PYTHON_ARGCOMPLETE_OK: the TAB key completes flags
"""Prune a network in iterations: score the channels, remove the idle ones for good, fine-tune what is left."""

import argparse
import contextlib
import dataclasses
import shutil
import sys
import typing
from pathlib import Path

from compress.cli import app, configs, display, flags, formats, keywords, tables, values
from compress.engine import processes
from compress.errors import InputError, OutputError, command
from compress.pruning import iterations
from compress.storage import files, records, resuming

BASE = "./model/base_model/model.h5"
ITERATION = ("model.h5", "mask.npz", "history.json", "history.png")  # what iterK holds in the end
RECORDED = {"parameters": "parameters", "MACs": "macs", "ms": "latency_ms"}  # result.json's name of a budget's unit
BEST = ("model.h5", "history.json")  # what best/ holds of one
TIMED = tuple(name for name in formats.FORMATS if name != "savedmodel")  # what runs elsewhere than in TensorFlow
CALIBRATION = 128  # images for the ranges of litert-int8, which matter little to its latency
EXAMPLE = """example:
  python prune_model.py --prune_iter=15 --epoch_num 4
  python prune_model.py --prune_iter 3 --epoch_num 4 --criterion taylor --target_macs 4x --round_to 8
  python prune_model.py --prune_iter 3 --epoch_num 4 --target_latency 0.5x --round_to 8
  python prune_model.py --prune_iter 10 --epoch_num 4 --criterion taylor --max_accuracy_drop 0.5
"""


def build_parser():
    """The flags of this script."""
    parser = flags.Parser(Path(__file__).name, description=__doc__, epilog=EXAMPLE)
    group = parser.add_argument_group("files")
    group.add_argument(
        "--root_folder",
        type=flags.path,
        default="./model/pruned_model",
        help="where iter1, iter2, ... and result.json go (default: %(default)s)",
    )
    group.add_argument(
        "--base_model_path",
        type=values.model,
        default=BASE,
        help="model to prune: an .h5 or .keras of any Keras classifier, or a folder with model.h5 "
        "(default: %(default)s)",
    )
    group = parser.add_argument_group("fine-tuning")
    group.add_argument(
        "--learning_rate",
        type=flags.real(strict=True),
        default=0.01,
        help="highest learning rate of each fine-tune (default: %(default)s)",
    )
    group.add_argument(
        "--save_best_model",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="keep each fine-tune's best validation epoch, else its last (default: on)",
    )
    group = parser.add_argument_group("pruning")
    group.add_argument(
        "--prune_iter",
        type=flags.whole(1, 1000),
        default=16,
        help="iterations; with --max_accuracy_drop at most (default: %(default)s)",
    )
    flags.add_criterion_flags(group)
    add_amount_flags(group)
    add_bound_flags(group)
    flags.add_recalibrate_flag(group)
    group.add_argument(
        "--dry_run",
        action="store_true",
        help="print what may lose channels, what stays and which layer holds it, and the cost at the target; read no "
        "images, write nothing",
    )
    flags.add_training_flags(parser)
    flags.add_data_flags(parser)
    flags.add_machine_flags(parser)
    flags.add_device_flags(parser)
    return parser


def add_amount_flags(group):
    """Those that say how many channels go, and from which layers."""
    rule = group.add_mutually_exclusive_group()
    rule.add_argument(
        "--prune_ratio",
        type=flags.real(0, 0.99, strict=True),
        help="remove this share of every layer's channels in each iteration "
        "(default: channels above mean + 1 standard deviation of their layer)",
    )
    rule.add_argument(
        "--target_compression",
        type=flags.real(1, strict=True),
        metavar="RATE",
        help="base parameters / parameters left after the last iteration; each iteration goes an equal "
        "factor of the way",
    )
    rule.add_argument(
        "--target_macs",
        type=flags.macs,
        metavar="MACS",
        help="likewise for MACs left after the last iteration (20M), or the reduction (4x) of the base's",
    )
    rule.add_argument(
        "--target_latency",
        type=flags.latency,
        metavar="LATENCY",
        help="likewise for the latency of one image, in milliseconds (2ms) or as a share of the base's (0.5x): some "
        "trimmed networks are exported and timed on this machine, and widths are chosen by what they took",
    )
    group.add_argument(
        "--allocation",
        choices=["threshold", "sensitivity"],
        help="how a target is spread over the layers. threshold: one threshold over all of them; sensitivity: prune "
        "one layer at a time, measure the loss, and choose the shares with the smallest predicted rise (see "
        "sensitivity.py) (default: sensitivity)",
    )
    group.add_argument(
        "--sensitivity_images",
        type=flags.whole(1),
        default=1000,
        metavar="N",
        help="validation images on which that loss is measured (default: %(default)s)",
    )
    group.add_argument(
        "--round_to",
        type=flags.whole(1, 1024),
        default=1,
        help="round the channels left up to a multiple of this; 8 makes a fine-tune up to a tenth "
        "faster, but where a rule removes fewer than 8 of a layer's channels all stay "
        "(default: %(default)s)",
    )


def add_bound_flags(group):
    """--max_accuracy_drop, and what a latency is timed in."""
    group.add_argument(
        "--latency_format",
        choices=TIMED,
        default="litert",
        help="the exported format that --target_latency is timed in, by its runtime (default: %(default)s)",
    )
    group.add_argument(
        "--max_accuracy_drop",
        type=flags.real(0, 100),
        metavar="POINTS",
        help="of validation accuracy after fine-tuning, against the base's: an iteration that loses more is discarded "
        f"and tried again with half its step, {iterations.HALVINGS} times at most; best/ holds the smallest model "
        f"within the bound. Without a target each iteration leaves {100 * iterations.STEP:.0f} %% of the MACs",
    )


# ---- the steps of a run ------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a run is to do, as far as that is known before Keras is started.

    Attributes:
        header: what is in the base model's file, but for its weights.
        pruning: a configs.PruneConfig.
        record: what makes the result, see `records.run_record`; what the images say of themselves is added to it.
    """

    header: typing.Any
    pruning: configs.PruneConfig
    record: dict


def check(args):
    """The Plan of a run, after all that can be checked without Keras.

    Raises:
        InputError: flags that contradict each other, a base that can't be used, a folder that can't be written to.
    """
    from compress.storage import checkpoints, headers

    pruning = configs.PruneConfig.of(args).with_allocation()
    if args.target_latency and processes.asked(configs.MachineConfig.of(args)):
        raise InputError(
            f"`target_latency`: received {tables.amount(args.target_latency)} for several processes, which would time "
            "differently; expected one process"
        )
    if not args.dry_run:
        files.check_writable(args.root_folder)
    if args.base_model_path == BASE and not Path(BASE).exists():  # a newcomer's first command
        raise InputError(
            f"`base_model_path`: there is no {BASE}, the default; expected a model, or train one first: "
            f"{command('train_base_model.py', epoch_num=12)}"
        )
    root = Path(args.root_folder)
    for folder in (*(f"iter{iteration}" for iteration in range(1, args.prune_iter + 1)), "best"):
        files.check_apart(args.base_model_path, root / folder)
    header = headers.read_header(args.base_model_path, args.preprocessing)
    if not args.dry_run:  # which reads no images and writes nothing
        check_record_stays(args)
        checkpoints.check_fits(header, args.class_num, dataset=args.dataset, also=flags.of_reading(args))
        records.check_split(args.base_model_path, args.dataset, args.val_split)
        app.tell_augmentation(args, args.base_model_path)
    given = vars(args) | {"allocation": pruning.allocation}  # its default was another in earlier versions
    return Plan(header, pruning, records.run_record(given, files.sha256(args.base_model_path)))


def check_record_stays(args):
    """Raises OutputError where the run's result.json would take the place of that of the base's own run."""
    root = Path(args.root_folder)
    if Path(args.base_model_path).resolve().parent == root.resolve() and (root / "history.json").exists():
        found = {}
        with contextlib.suppress(InputError):
            found = records.read_json(root / "result.json")
        if found and "final_acc" not in found:  # which a pruning's has
            raise OutputError(
                f"received {root}, the folder of the base, whose result.json would be overwritten; expected another "
                f"folder, such as {root / 'pruned'}",
                root,
            )


def begin(args, plan):
    """Starts Keras, opens the base and reads the images.

    Returns:
        (the Plan, with the folder of this process; the Base, see `open_base`; a dataset.Data; what result.json holds by
        now). No base and no images where this very run was finished before.
    """
    plan = dataclasses.replace(plan, pruning=dataclasses.replace(plan.pruning, root_folder=args.root_folder))

    def finished():
        return resuming.finished(
            args.root_folder, plan.record, configs.RunConfig.of(args), outputs(args), iterations.length(plan.pruning)
        )

    if done := finished():
        return plan, None, None, done
    result = iterations.start(plan.pruning, plan.record)
    app.start_keras(configs.MachineConfig.of(args))
    if args.target_latency:
        from compress.export import writers

        writers.check_packages([args.latency_format], "latency_format")
    images, base = app.read_images(
        args, args.base_model_path, plan.header, lambda class_num, size: open_base(args, plan, class_num, size)
    )
    app.agree(args, images)
    plan.record.update(app.record_of_images(images))
    if done := finished():  # asked once more: images that lie elsewhere now are known by their checksum
        return plan, None, None, done
    resuming.check_same_run(result["run"], plan.record, args.root_folder, length=iterations.length(plan.pruning))
    if not result["final_acc"]:  # a run that goes on has said so before
        most = "at most " if args.max_accuracy_drop is not None else ""
        display.say(
            f"{most}{tables.counted(args.prune_iter, 'iteration')} of {tables.counted(args.epoch_num, 'epoch')}"
            f"{' each' if args.prune_iter > 1 else ''}",
            args.verbose,
        )
    return plan, base, images, result


@dataclasses.dataclass(frozen=True)
class Base:
    """The network that a run starts from.

    Attributes:
        model: the keras.Model.
        scope: the groups of it that may lose channels, a `pruning.scope.Scope`.
        budget: what is to be left of it, a `budgets.Budget`, or None.
        keys: {key of result.json's channels: group}, from `iterations.group_of_keys`.
    """

    model: typing.Any
    scope: typing.Any
    budget: typing.Any = None
    keys: dict = dataclasses.field(default_factory=dict)


def open_base(args, plan, class_num, size):
    """The Base of a run before its images are decoded; says what of it may lose channels.

    Args:
        args: the flags.
        plan: the Plan.
        class_num: number of classes that it must have; None for any.
        size: (height, width, 3) of the images.

    Returns:
        A Base without `keys`, and without the `budget` of a latency, for which networks are timed.

    Raises:
        InputError: it can't be pruned as the flags ask for.
    """
    from compress.pruning import budgets, cut
    from compress.storage import opening
    from compress.training import fit

    model = opening.load_network(args.base_model_path, class_num, size, args.preprocessing, args.verbose)
    fit.check_batch(model, args.batch_size)
    if args.recalibrate_images:
        fit.check_batch(model, args.recalibrate_images, "recalibrate_images")
    scope = cut.scope_of(plan.pruning, model)
    show_channels(args, model)
    return Base(model, scope, None if args.target_latency else budgets.of(plan.pruning, scope))


def ready_base(args, plan, base, images, result):
    """The Base of a run with all that it has, behind `open_base`."""
    from compress.pruning import budgets
    from compress.training import fit

    fit.check_batch(base.model, min(args.batch_size, len(images.train)))
    budget, scope = base.budget, base.scope
    if args.target_latency:
        budget = budgets.of(plan.pruning, scope, time_networks(args, plan, scope, images, result))
    keys = iterations.group_of_keys(result, scope, Path(args.root_folder))
    return dataclasses.replace(base, budget=budget, keys=keys)


def time_networks(args, plan, scope, images, result):
    """A LatencyModel of the base: it times some trimmed networks, or takes what a run that goes on has timed."""
    from compress.data import dataset
    from compress.pruning import latency

    if None in scope.model.input_shape[1:]:
        raise InputError(
            f"`target_latency`: received it for {scope.model.name}, which takes images of any size; expected a model "
            "with a size, or `target_compression`"
        )
    photos = dataset.sample(images.train, CALIBRATION)[0] if args.latency_format == "litert-int8" else None
    found = latency.LatencyModel(scope.graph, None)
    if "timed" in result:
        try:
            found.recall(result["timed"])
        except (TypeError, ValueError):
            raise InputError(
                f"`resume`: received {Path(args.root_folder) / 'result.json'}, which timed other networks; expected "
                'the record of a run on this base, or `resume="never"` to start over'
            ) from None
    found.measure = latency.Timer(args.latency_format, scope.model, photos, found.whole if found.seen else None)
    if not found.seen:
        display.say(f"times {latency.SAMPLES + 2} trimmed networks in {args.latency_format}", args.verbose)
        bar = display.track(f"timing in {args.latency_format}", args.verbose, of="networks")
        found.sample(scope, plan.pruning.round_to, progress=bar)
    result["timed"] = found.seen  # the list itself: what is timed later is written with the next iteration
    return found


def show_channels(args, model):
    """Prints what may lose channels and what stays, in a few lines."""
    from compress.pruning import overview
    from compress.pruning.scope import Scope

    display.print_table(
        f"Channels of {model.name}; scope {args.scope}, criterion {args.criterion}",
        [("what", tables.text), ("groups", tables.text), ("widths", tables.text), ("channels", tables.text)],
        overview.summary(Scope.of(model, args.scope), args.criterion),
        args.verbose,
    )


def rehearse(args, plan):
    """--dry_run: prints all groups, and what the network costs now and at the target.

    Returns:
        {"groups": rows, "parameters", "macs": now and at the target, None for what is not known}.
    """
    app.start_keras(configs.MachineConfig.of(args).alone)
    from compress.pruning import budgets, cut, overview
    from compress.pruning.scope import Scope
    from compress.storage import opening

    size = app.image_shape(args, plan.header)
    model = opening.load_network(args.base_model_path, None, size, args.preprocessing, args.verbose)
    scope = cut.scope_of(plan.pruning, model)
    rows = overview.details(Scope.of(model, args.scope), args.criterion)
    display.print_table(
        f"Channels of {model.name}; scope {args.scope}, criterion {args.criterion}",
        [("group", tables.text), ("channels", tables.text), ("what", tables.text)],
        rows,
        args.verbose,
    )
    left, how = {}, "not known: the criterion decides how many channels go, which takes images"
    if args.target_latency:
        how = "not known: networks are timed when the run begins"
    elif args.max_accuracy_drop is not None and not plan.pruning.targeted:
        how = "not known: the accuracy says when it is enough"
    elif plan.pruning.targeted:
        budget = budgets.of(plan.pruning, scope)
        left, how = overview.at_cost(scope, budget, args.round_to), "if all groups lose the same share"
    elif args.prune_ratio:
        ratio = args.prune_ratio, args.prune_iter, args.round_to
        left, how = overview.after_iterations(scope, *ratio), f"after {tables.counted(args.prune_iter, 'iteration')}"
    costs = [scope.graph.cost(), scope.graph.cost(left) if left else None]
    found = {
        "parameters": [cost and int(cost.parameters) for cost in costs],
        "macs": [int(cost.macs) if cost and cost.macs == cost.macs else None for cost in costs],  # NaN: of any size
    }
    display.print_table(
        f"Cost; at the target {how}" + ("" if found["macs"][0] else "; MACs depend on the size of the images"),
        [("network", tables.text), ("parameters", tables.count), ("MACs", tables.count)],
        [
            (name, *(found[key][place] for key in ("parameters", "macs")))
            for place, name in enumerate(("now", "at the target"))
        ],
        args.verbose,
    )
    display.say("nothing is written", args.verbose)
    return {"groups": [list(row) for row in rows]} | found


def go_on(args, plan, base, images, result):
    """The model that the next iteration starts from: the base, or what the last iteration left.

    Clears away what older runs left, and adds to `result` what all iterations share.
    """
    from compress.pruning import cut
    from compress.storage import classes, opening, recording

    parents = classes.compare(args.base_model_path, images)
    iterations.go_on(plan.pruning, result, plan.record)
    result |= {
        "finished": False,
        "images": len(images.val),
        "train_images": len(images.train),
        "parent_sha256": plan.record["parent_sha256"],
        "parent_class_names": parents,
        "class_names": plan.record["class_names"],
    }
    root, done = Path(args.root_folder), len(result["final_acc"])
    for folder in filter(Path.is_dir, root.glob("iter*")):
        if "begun" not in result or folder.name != f"iter{done + 1}":  # the one that is trimmed already goes on
            recording.finish(folder)
            (folder / cut.TRIMMED).unlink(missing_ok=True)
    if "begun" not in result and any(row["iteration"] == done + 1 for row in iterations.discarded(result)):
        clear(root / f"iter{done + 1}")  # a run may have been killed while it discarded this one
    if not done:
        for name in BEST:  # of another run that is started over
            (root / "best" / name).unlink(missing_ok=True)
    return (
        base
        if not done
        else opening.load_network(root / f"iter{done}" / "model.h5", images.class_num, images.image_shape)
    )


def prune_all(args, plan, base, images, result):
    """All iterations that are left; each adds its numbers to `result` and writes it. Then the end of the run.

    Args:
        args: the flags.
        plan: the Plan.
        base: the Base.
        images: a dataset.Data.
        result: what result.json holds.
    """
    model = go_on(args, plan, base.model, images, result)
    while model is not None and not is_over(plan.pruning, model, base.budget, result):
        model = prune_once(args, plan, model, base, images, result)
    conclude(args, base.budget if plan.pruning.targeted else None, result)


def is_over(config, model, budget, result):
    """Whether there is nothing left to do: enough iterations, or with `max_accuracy_drop` the target before that."""
    from compress.pruning import cut

    if iterations.is_over(config, result):
        return True
    if config.max_accuracy_drop is None or budget is None or "begun" in result:
        return False
    return budget.now(cut.scope_of(config, model)) <= budget.end


def prune_once(args, plan, model, base, images, result):
    """The next iteration: trim, fine-tune, write; one that was trimmed before an interruption is not trimmed again.

    Args:
        args: the flags.
        plan: the Plan.
        model: what this iteration starts from.
        base: the Base.
        images: a dataset.Data.
        result: what result.json holds; this iteration's numbers are added to it, and it is written.

    Returns:
        The fine-tuned model.
    """
    from compress import metrics
    from compress.graph.network import Graph
    from compress.pruning import cut
    from compress.storage import opening, recording

    done = len(result["final_acc"])
    folder = Path(args.root_folder) / f"iter{done + 1}"
    if "begun" in result:
        pruned, row = opening.load_network(folder / cut.TRIMMED), result["begun"]["row"]
    else:
        step = cut.Step(base.budget, done + 1, len(iterations.discarded(result)))
        before = result["final_acc"][-1] if done else iterations.base_accuracy(result)
        pruned, row = cut.trim_once(plan.pruning, model, base.model, images, step, before)
        if args.max_accuracy_drop is not None and pruned.count_params() == model.count_params():
            display.say("no channel goes any more: the step is finer than a channel", args.verbose)
            clear(folder)
            return None
        result["begun"] = {"row": row, "sha256": files.sha256(folder / cut.TRIMMED)}
        records.write_json(Path(args.root_folder) / "result.json", result)
    title = f"iteration {done + 1}/{args.prune_iter}"
    # the flags of now: a run that goes on may have moved, and its TensorBoard log with it
    run_record = result["run"] | {"flags": plan.record["flags"], "class_names": result["class_names"]}
    row["final_acc"], row["seconds"] = fine_tune(args, pruned, images, folder, run_record, title)
    iterations.warn_of_worse(plan.pruning, row, title, args.learning_rate, len(images.val))
    size = metrics.size_of(pruned, folder / "model.h5")
    row |= {key: value for key, value in size.items() if value is not None}  # MACs aren't known of every network
    row["compression_rate"] = base.model.count_params() / row["parameters"]
    if args.max_accuracy_drop is not None:
        lowest = iterations.lowest(plan.pruning, result, row)
        if row["final_acc"] < lowest:
            discard(args, plan, result, row, folder, lowest)
            return model
    row["sha256"] = files.sha256(folder / "model.h5")
    for key, value in row.items():
        result.setdefault(key, []).append(value)
    groups = Graph(pruned).groups
    for key, name in base.keys.items():
        result["channels"][key].append(groups[name].width)
    del result["begun"]
    write(args, result)
    (folder / cut.TRIMMED).unlink()
    recording.finish(folder)
    if args.max_accuracy_drop is not None:
        keep_best(args, result)
    return pruned


def discard(args, plan, result, row, folder, lowest):
    """Takes note of an iteration that lost too much, and clears its folder; the next try has half the step.

    Args:
        args: the flags.
        plan: the Plan.
        result: what result.json holds.
        row: the iteration's numbers.
        folder: iterK.
        lowest: the validation accuracy that it should have had, 0 to 1.
    """
    iteration = len(result["final_acc"]) + 1
    result.setdefault("discarded", []).append({"iteration": iteration, **row})
    del result["begun"]
    display.say(
        f"iteration {iteration}: {100 * row['final_acc']:.2f} % after fine-tuning, below the {100 * lowest:.2f} % that "
        "`max_accuracy_drop` asks for; it is discarded"
        + ("" if iterations.is_over(plan.pruning, result) else ", and tried again with half the step"),
        args.verbose,
    )
    write(args, result)  # before the files go: a run that is killed between the two clears them when it goes on
    clear(folder)


def clear(folder):
    """Removes what an iteration wrote."""
    from compress.pruning import cut
    from compress.storage import recording

    recording.finish(folder)
    for name in (cut.TRIMMED, *ITERATION):
        (folder / name).unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # something else lies there
        folder.rmdir()


def fine_tune(args, model, images, folder, run_record, title):
    """Trains a trimmed model in place; returns the validation accuracy of what is kept, and the seconds it took."""
    from compress.data import batches
    from compress.engine import twin
    from compress.storage import recording
    from compress.training import runs
    from compress.training.recipe import Recipe, compile_classifier

    recipe = Recipe.of(args, epochs=args.epoch_num)
    trainer = twin.Twin(model, args.precision)
    compile_classifier(trainer, recipe, batches.steps_per_epoch(len(images.train), recipe.batch_size))
    config = configs.RunConfig.of(args, home=args.root_folder)
    run = recording.Run(folder, run_record, model, config, args.save_best_model)
    history = runs.train(trainer, images, recipe, run, title)
    kept = records.best_epoch(history) if args.save_best_model else -1
    return history["val_acc"][kept], sum(history["seconds"])


def keep_best(args, result):
    """Copies the last iteration, the smallest model within the bound, to best/, where it isn't there already."""
    root, done = Path(args.root_folder), len(result["final_acc"])
    best = root / "best" / "model.h5"
    if best.is_file() and files.sha256(best) == result["sha256"][-1]:
        return
    best.parent.mkdir(exist_ok=True)
    for name in reversed(BEST):  # the model last: it tells that all is there
        with files.replacing(root / "best" / name) as temporary:
            shutil.copyfile(root / f"iter{done}" / name, temporary)


def conclude(args, budget, result):
    """Marks the run as finished, and prints its table and the paths of its files; budget: a budgets.Budget or None."""
    done = len(result["final_acc"])
    if args.max_accuracy_drop is not None and done:
        keep_best(args, result)
    result["finished"] = True  # last: a run that is killed before this has nothing but this to do again
    write(args, result)
    show(args, result)
    if args.max_accuracy_drop is not None:
        show_best(args, budget, result)
    display.written(outputs(args), args.verbose)


def show_best(args, budget, result):
    """Says what `max_accuracy_drop` led to, and whether the target was reached; budget: a budgets.Budget or None."""
    from compress.pruning import budgets

    before, drop = iterations.base_accuracy(result), f"{args.max_accuracy_drop:g} points"
    if not result["final_acc"]:
        best = Path(args.root_folder) / "best" / "model.h5"
        display.say(f"no iteration stayed within {drop} of {100 * before:.2f} %; there is no {best}", args.verbose)
        return
    after = result["final_acc"][-1]
    display.say(
        f"best/ holds iteration {len(result['final_acc'])}: {100 * after:.2f} %, {100 * (after - before):+.2f} points "
        f"against the base's {100 * before:.2f} %, at most {drop} below it; compression rate "
        f"{result['compression_rate'][-1]:.2f}x",
        args.verbose,
    )
    if budget and (left := result[RECORDED[budget.unit]][-1]) > budget.end:
        asked, left = (budgets.shown(cost, budget.unit) for cost in (budget.end, left))
        left = left if left != asked else f"hardly more than {left}"
        display.warn(f"the target of {asked} was not reached: {left} are left")


def write(args, result):
    """Writes result.json and its figures."""
    from compress.plots import pruning, style

    folder = Path(args.root_folder)
    records.write_json(folder / "result.json", result)
    if not result["final_acc"]:  # all that was tried so far lost too much
        return
    style.save_figure(pruning.plot_pruning(result), folder / "pruning.png")
    layers = {name.removesuffix("_conv"): left for name, left in iterations.pruned(result).items()}
    style.save_figure(pruning.plot_channels(layers), folder / "channels.png")


def epochs_kept(args, iterations_done):
    """For each iteration, of which epoch its model.h5 is, as '2 of 4'; None where no history tells."""
    found = []
    for i in range(1, iterations_done + 1):
        try:
            history = records.read_history(Path(args.root_folder) / f"iter{i}" / "history.json")
        except InputError:
            history = {}
        kept = records.checkpoint_epoch(history)
        found.append(None if kept is None else f"{kept + 1} of {len(history['val_acc'])}")
    return found


def show(args, result):
    """Prints the table of result.json."""
    kept = "best epoch" if args.save_best_model else "last epoch"
    columns = {
        "base_acc": ("before", tables.percent),
        "pruned_acc": ("after pruning", tables.percent),
        "recalibrated_acc": ("after recalibration", tables.percent),
        "final_acc": ("after fine-tuning", tables.percent),
        "kept": (kept, tables.text),
        "sparsity": ("sparsity", tables.percent),
        "parameters": ("parameters", tables.count),
        "macs": ("MACs", tables.count),
        "bytes": ("file", tables.size),
        "compression_rate": ("compression rate", tables.ratio),
    }
    done, tried = len(result["final_acc"]), iterations.discarded(result)
    if args.target_latency:
        columns["latency_ms"] = (f"latency, {args.latency_format}", tables.milliseconds)
    result = result | {"kept": epochs_kept(args, done)}
    rows = []
    for place in range(done + 1):  # what was discarded stands before what was kept of the same number
        rows += [
            (f"{row['iteration']}, discarded", *(row.get(key) for key in columns))
            for row in tried
            if row["iteration"] == place + 1
        ]
        if place < done:
            rows.append((place + 1, *(result[key][place] if key in result else None for key in columns)))
    display.print_table(
        f"Pruning by {args.criterion}; accuracy on {result['images']:,} validation images before and after each step",
        [("iteration", tables.text), *columns.values()],
        rows,
        args.verbose,
    )


def outputs(args):
    """Paths of all that a run may write."""
    names = (
        *(f"iter{i + 1}/{name}" for i in range(args.prune_iter) for name in ITERATION),
        *(f"best/{name}" for name in BEST if args.max_accuracy_drop is not None),
        "result.json",
        "pruning.png",
        "channels.png",
    )
    return [*(Path(args.root_folder) / name for name in names), args.tensorboard or ""]


# ---- the run -----------------------------------------------------------------------------------------------------


@keywords.callable_with(build_parser)
def run(args):
    """Prunes.

    Args:
        args: the namespace of `build_parser`, or its flags as keywords.

    Returns:
        What result.json holds: lists over the iterations, channels per layer, split, run.
    """
    plan = check(args)
    if args.dry_run:
        return rehearse(args, plan)
    with app.folder_of_run(args, "root_folder"):  # no other process writes there meanwhile
        plan, base, images, result = begin(args, plan)
        if images is not None:
            prune_all(args, plan, ready_base(args, plan, base, images, result), images, result)
    return result


def main(argv=None):
    """Command line; returns the exit status."""
    return app.run_main(build_parser(), run, argv)


if __name__ == "__main__":
    sys.exit(main())
