#!/usr/bin/env python3
# PYTHON_ARGCOMPLETE_OK: the TAB key completes flags
"""Train the base model: a ResNet50, 101 or 152 from scratch, from ImageNet weights or from any .h5 of the kind."""

import dataclasses
import sys
from pathlib import Path

from compress.cli import app, configs, display, flags, keywords, tables, values
from compress.errors import InputError
from compress.graph import resnet
from compress.storage import files, records, resuming

EXAMPLE = """example:
  python train_base_model.py --save_folder=./model/base_model --epoch_num 12
  python train_base_model.py --model_path=./model/pretrained_resnet50.h5 --epoch_num 12  # start from pretrained weights
  python train_base_model.py --dataset ./my_images --model_path imagenet --epoch_num 10  # your own images
"""


def build_parser():
    """The flags of this script."""
    parser = flags.Parser(Path(__file__).name, description=__doc__, epilog=EXAMPLE)
    group = parser.add_argument_group("files")
    group.add_argument(
        "--save_folder",
        type=flags.path,
        default="./model/base_model",
        help="where model.h5, history.json, history.png and result.json go (default: %(default)s)",
    )
    group.add_argument(
        "--model_path",
        type=values.model,
        help="weights to start from: an .h5 or .keras of this suite or of keras.applications, a "
        "folder with model.h5, or the word imagenet to download them (default: random weights)",
    )
    group = parser.add_argument_group("base model")
    group.add_argument(
        "--depth", type=flags.whole(), choices=[50, 101, 152], help="layers (default: the file's, else 50)"
    )
    group.add_argument(
        "--stem",
        choices=["imagenet", "half", "cifar"],
        help="imagenet: 7x7 stride 2 and max-pool; half: 5x5 stride 2, 4 times the work; cifar: 3x3 "
        "stride 1, 16 times the work on small images and usually more accurate (default: "
        "the file's, else imagenet)",
    )
    group.add_argument(
        "--learning_rate",
        type=flags.real(strict=True),
        help="highest learning rate (default: 0.1 from scratch, 0.01 from weights)",
    )
    flags.add_training_flags(parser)
    flags.add_data_flags(parser)
    flags.add_machine_flags(parser)
    return parser


def start_model(args, images):
    """The model to train: from --model_path, or new."""
    from compress.storage import checkpoints, classes

    if args.model_path is None:
        import model

        return model.resnet(args.depth or 50, images.class_num, images.image_shape, args.stem or "imagenet")
    if args.model_path == "imagenet":
        checkpoint = checkpoints.imagenet_checkpoint(args.depth or 50)
    else:
        checkpoint = checkpoints.read_checkpoint(args.model_path)
    if checkpoint.classes != images.class_num:
        display.say(
            f"{args.model_path} has {checkpoint.classes or 'no'} classes, the data {images.class_num}: "
            "the classifier starts from random weights",
            args.verbose,
        )
    # as many classes, but others: the file is compared with plain Keras as it is, and then built with a new classifier
    elif classes.are_others(known := classes.of_model(args.model_path), names := classes.of_data(images)):
        display.say(
            f"{args.model_path} has the classes {classes.shown(known)}, the data {classes.shown(names)}: "
            "the classifier starts from random weights",
            args.verbose,
        )
        checkpoints.open_checkpoint(checkpoint, None, images.image_shape, *flags.opening(args))
        return checkpoints.build(
            dataclasses.replace(checkpoint, classes=None), images.class_num, images.image_shape, args.preprocessing
        )
    return checkpoints.open_checkpoint(checkpoint, images.class_num, images.image_shape, *flags.opening(args))


def check_flags(args):
    """Finds what can't work before anything heavy is imported; returns the image size (h, w) that a file asks for."""
    files.check_writable(args.save_folder)
    if args.model_path is None or (args.model_path == "imagenet" and args.stem in (None, "imagenet")):
        return None
    if args.model_path == "imagenet":
        raise InputError(f"--stem: received {args.stem}, expected imagenet, the stem of the pretrained weights")
    from compress.storage import checkpoints

    files.check_apart(args.model_path, args.save_folder)
    records.check_split(args.model_path, args.dataset, args.val_split)
    checkpoint = checkpoints.read_checkpoint(args.model_path, weights=False)
    if args.stem not in (None, checkpoint.stem):
        raise InputError(f"--stem: received {args.stem}, expected {checkpoint.stem}, as {args.model_path} has it")
    blocks = resnet.blocks_of(checkpoint.widths)
    if args.depth and resnet.BLOCKS[args.depth] != blocks:
        raise InputError(
            f"--depth: received {args.depth}, which has blocks {resnet.BLOCKS[args.depth]}, expected "
            f"{blocks}, as {args.model_path} has them; leave --depth out"
        )
    return checkpoint.input_shape and checkpoint.input_shape[:2]


def load_images(args, size):
    """The dataset.Data to train and validate on, of `size` (h, w) where a model file asks for one."""
    from compress.data import dataset, pixels

    config = configs.DataConfig.of(args, instead="digits need no download: `dataset=digits`, or make demo")
    images = dataset.load_data(
        config,
        size,
        display.track("reading images", args.verbose),
        needs=("train", "validation"),
        pixels=pixels.of_models(*filter(None, [args.model_path])),
    )
    display.show_images(images, args.batch_size, args.verbose)
    records.check_source(args.model_path or "", images.val, args.val_split)  # of a file, if it is one
    return images


def outputs(args):
    """Paths of all that a run may write."""
    names = ("model.h5", "result.json", "history.json", "history.png")
    return [*(Path(args.save_folder) / name for name in names), args.tensorboard or ""]


def train(args, size):
    """Trains, in a folder that is this process' alone, or finds that the run is finished; returns as `run` does."""
    parent = files.sha256(args.model_path) if Path(args.model_path or "").is_file() else None
    folder, kept = Path(args.save_folder), configs.RunConfig.of(args)
    run_record = records.run_record(vars(args), parent)
    if result := resuming.finished(folder, run_record, kept, outputs(args)):
        return result
    app.start_keras(configs.MachineConfig.of(args))
    from compress.data import dataset
    from compress.engine import fast
    from compress.storage import classes, recording
    from compress.training import runs
    from compress.training.recipe import Recipe, compile_classifier

    images = load_images(args, size)
    run_record |= {"source": images.train.source, "class_names": classes.of_data(images), "pixels": images.pixels}
    if result := resuming.finished(folder, run_record, kept, outputs(args)):  # on images that lie elsewhere now
        return result
    model = start_model(args, images)
    rate = args.learning_rate or (0.01 if args.model_path else 0.1)
    run = recording.Run(folder, run_record, model, kept)
    recipe = runs.continued(Recipe.of(args, epochs=args.epoch_num, learning_rate=rate), run)
    trainer = fast.FastResNet(model, args.precision)  # the same variables, in a form that trains faster
    compile_classifier(trainer, recipe, dataset.steps_per_epoch(len(images.train), recipe.batch_size))
    history = runs.train(trainer, images, recipe, run, "base model")
    result = {
        "train_images": len(images.train),
        "images": len(images.val),
        "split": "validation",
        "epochs": recipe.epochs,
        "parent_sha256": parent,
        "class_names": run_record["class_names"],
        "run": run_record,
    }
    return report(args, model, history, result)


def report(args, model, history, result):
    """Writes result.json, which ends the run, prints the table, and returns the result.

    Args:
        args: the flags.
        model: the keras.Model of the best epoch.
        history: of the training.
        result: the part of `run`'s result that was known before.
    """
    from compress import metrics
    from compress.storage import recording

    folder, best = Path(args.save_folder), records.best_epoch(history)
    file = folder / "model.h5"
    result |= {
        "val_acc": history["val_acc"][best],
        "val_loss": history["val_loss"][best],
        "best_epoch": best + 1,
        "seconds": sum(history["seconds"]),
        "sha256": files.sha256(file),
        **metrics.size_of(model, file),
    }
    records.write_json(folder / "result.json", result)
    recording.finish(folder)  # what was kept to resume from isn't needed any more
    show(args, result)
    display.written(outputs(args), args.verbose)
    return result


def show(args, result):
    """Prints the table."""
    columns = {
        "val_acc": ("validation accuracy", tables.percent),
        "val_loss": ("validation loss", tables.number),
        "parameters": ("parameters", tables.count),
        "macs": ("MACs", tables.count),
        "bytes": ("file", tables.size),
    }
    display.print_table(
        f"Base model; {result['images']:,} validation images",
        [("best epoch", tables.text), *columns.values()],
        [[f"{result['best_epoch']} of {result['epochs']}", *(result[key] for key in columns)]],
        args.verbose,
    )


@keywords.callable_with(build_parser)
def run(args):
    """Trains the base model.

    Args:
        args: the namespace of `build_parser`, or its flags as keywords.

    Returns:
        What result.json holds: accuracies, sizes, split, run.
    """
    size = check_flags(args)
    with files.exclusive(args.save_folder):
        return train(args, size)


def main(argv=None):
    """Command line; returns the exit status."""
    return app.run_main(build_parser(), run, argv)


if __name__ == "__main__":
    sys.exit(main())
