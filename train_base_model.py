#!/usr/bin/env python3
# PYTHON_ARGCOMPLETE_OK: the TAB key completes flags
"""Train the base model: any architecture of Keras from scratch, from ImageNet weights or from a model file."""

import sys
import tempfile
import typing
import warnings
from pathlib import Path

from compress.cli import app, architectures, configs, display, flags, keywords, tables, values
from compress.errors import InputError, one_line
from compress.plots import roles
from compress.storage import files, records

EXAMPLE = """example:
  python train_base_model.py --save_folder=./model/base_model --epoch_num 12
  python train_base_model.py --model_path=./model/pretrained_resnet50.h5 --epoch_num 12  # start from pretrained weights
  python train_base_model.py --dataset ./my_images --model_path imagenet --epoch_num 10  # your own images
  python train_base_model.py --architecture MobileNetV2 --epoch_num 12
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
        help="model to start from: the .h5 or .keras of any classifier of Keras, a folder with model.h5, or the "
        "word imagenet to download the architecture's weights (default: random weights)",
    )
    group = parser.add_argument_group("base model")
    group.add_argument(
        "--architecture",
        type=values.architecture,
        metavar="NAME",
        help="ResNet50, 101, 152; resnet20, 32, 44, 56, 110, those for CIFAR; or any of keras.applications, such as "
        "MobileNetV2, EfficientNetB0, VGG16 (default: the file's, else ResNet50)",
    )
    group.add_argument(
        "--depth", type=flags.whole(), choices=[50, 101, 152], help="--architecture ResNet50, ResNet101 or ResNet152"
    )
    group.add_argument(
        "--stem",
        choices=["imagenet", "half", "cifar"],
        help="of a new ResNet50, 101 or 152. imagenet: 7x7 stride 2 and max-pool; half: 5x5 stride 2, 4 times the "
        "work; cifar: 3x3 stride 1, 16 times the work on small images and usually more accurate (default: imagenet)",
    )
    group.add_argument(
        "--learning_rate",
        type=flags.real(strict=True),
        help="highest learning rate (default: 0.1 from scratch, 0.01 from weights)",
    )
    flags.add_training_flags(parser)
    flags.add_data_flags(parser)
    flags.add_machine_flags(parser)
    flags.add_device_flags(parser)
    return parser


# ---- what is to be done ------------------------------------------------------------------------------------------


class Plan(typing.NamedTuple):
    """What a run is to do, as far as that is known before Keras is started.

    Attributes:
        size: (h, w) of the images that a model file asks for, in pixels; None for any.
        parent: sha256 of the file that the run starts from; None for a new network.
        record: what makes the result, see `records.run_record`; what the images say of themselves is added to it.
    """

    size: tuple | None
    parent: str | None
    record: dict


def architecture(args):
    """The name of the network that is built new."""
    return args.architecture or f"ResNet{args.depth or 50}"


def check_flags(args):
    """Raises InputError where flags contradict each other or the network that they are about."""
    name = architecture(args)
    if args.depth and name != f"ResNet{args.depth}":
        raise InputError(f"`depth`: received {args.depth} beside `architecture={name}`; expected one of them")
    if args.stem and name not in architectures.BOTTLENECKS:
        raise InputError(f"`stem`: received {args.stem} for {name}; expected it for ResNet50, 101 or 152 only")
    if args.model_path == "imagenet":
        if args.stem not in (None, "imagenet"):
            raise InputError(f"`stem`: received {args.stem}, expected imagenet, the stem of the pretrained weights")
        if name in architectures.BASIC:
            raise InputError(f"`model_path`: received imagenet for {name}, which has no such weights; expected none")
    elif args.model_path and (odd := [flag for flag in ("architecture", "depth", "stem") if getattr(args, flag)]):
        raise InputError(
            f"`{odd[0]}`: received {getattr(args, odd[0])} beside `model_path={args.model_path}`; expected it left "
            "out: the file says what its network is"
        )
    if args.model_path in (None, "imagenet"):
        app.check_architecture(args, name=name, pretrained=args.model_path is not None)


def check(args):
    """The Plan of a run, after all that can be checked without Keras.

    Raises:
        InputError: flags that contradict each other, a model that can't be used, a folder that can't be written to.
    """
    from compress.storage import checkpoints, headers

    files.check_writable(args.save_folder)
    check_flags(args)
    size = None
    if args.model_path not in (None, "imagenet"):
        files.check_apart(args.model_path, args.save_folder)
        records.check_split(args.model_path, args.dataset, args.val_split)
        header = headers.read_header(args.model_path, args.preprocessing)
        # of any classes: a head is new
        checkpoints.check_fits(header, None, None, args.dataset, flags.of_reading(args))
        size = header.input_shape and header.input_shape[:2]
    parent = files.sha256(args.model_path) if Path(args.model_path or "").is_file() else None
    record = records.run_record(vars(args), parent)
    if role := roles.of_files([args.model_path])[0] if args.model_path else None:
        record["parent_role"] = role  # what is trained further stays what it was
    return Plan(size, parent, record)


# ---- the steps ---------------------------------------------------------------------------------------------------


def begin(args, plan):
    """Starts Keras and reads the images.

    Returns:
        (a dataset.Data, None); or (None, what result.json holds) where this very run was finished before.
    """
    return app.images_of_run(args, plan.record, outputs(args), lambda: load_images(args, plan.size))


def load_images(args, size):
    """The dataset.Data to train and validate on, of `size` (h, w) where a model file asks for one."""
    from compress.data import dataset, pixels

    config = configs.DataConfig.of(args, instead=configs.INSTEAD)
    images = dataset.load_data(
        config,
        size,
        display.track("reading images", args.verbose),
        needs=("train", "validation"),
        pixels=pixels.of_models(args.model_path or _begun(args)),
    )
    display.show_images(images, args.batch_size, args.verbose)
    records.check_source(args.model_path or "", images.val, args.val_split)  # of a file, if it is one
    return images


def _begun(args):
    """The model of a run that goes on in its folder, whose images are decoded as they were."""
    return Path(args.save_folder) / ("model.h5" if args.resume == "auto" else "")


def start_model(args, images):
    """The model to train: from --model_path, or new."""
    from compress.storage import classes, opening

    if args.model_path is None:
        import model

        name = architecture(args)
        if args.stem:  # which the others don't have, see `check_flags`
            return model.resnet(architectures.BOTTLENECKS[name], images.class_num, images.image_shape, args.stem)
        return model.build_model(name, images.class_num, images.image_shape)
    with tempfile.TemporaryDirectory() as folder:
        path, new_head = args.model_path, "if needed"
        if path == "imagenet":
            path = Path(folder) / "imagenet.keras"
            pretrained(architecture(args), images.image_shape).save(path)
        known, names = classes.of_model(path), classes.of_data(images)
        if classes.are_others(known, names):  # as many, but others
            display.say(
                f"{args.model_path} has the classes {classes.shown(known)}, the data {classes.shown(names)}: "
                "the classifier starts from random weights",
                args.verbose,
            )
            new_head = "always"
        size = images.class_num, images.image_shape
        return opening.load_network(path, *size, args.preprocessing, args.verbose, new_head)


def pretrained(name, image_shape=None):
    """A network of keras.applications with its ImageNet weights, downloaded by Keras where its cache lacks them.

    Args:
        name: of its constructor.
        image_shape: (height, width, 3). For images of another size than its own only the layers in front of its
            classifier have the weights: Keras gives no others. None for its own.

    Raises:
        InputError: there is no network and no copy in the cache, or it doesn't take such images.
    """
    import keras

    constructor = getattr(keras.applications, name)
    try:
        if image_shape in (None, constructor(weights=None).input_shape[1:]):
            return constructor(weights="imagenet")
        with warnings.catch_warnings(action="ignore"):  # MobileNets: that their weights are those for 224x224
            features = constructor(weights="imagenet", include_top=False, input_shape=image_shape, pooling="avg")
        return keras.Model(features.input, keras.layers.Dense(1000, name="predictions")(features.output))
    except ValueError as error:
        size = "x".join(map(str, image_shape[:2]))
        raise InputError(
            f"`architecture`: received {name} for images of {size}, which it doesn't take ({one_line(error):.200}); "
            "expected larger ones (`image_size`), or another architecture"
        ) from None
    except Exception as error:  # get_file raises a bare Exception for every network failure
        raise InputError(
            f"`model_path`: received imagenet, which needs a download ({error}); without a network give the file of "
            f"keras.applications.{name}(weights='imagenet').save('{name}.keras') from elsewhere instead"
        ) from None


def train(args, plan, model, images):
    """Trains the model in place, as the best epoch leaves it; returns the history."""
    from compress.data import batches
    from compress.engine import twin
    from compress.storage import recording
    from compress.training import runs
    from compress.training.recipe import Recipe, compile_classifier

    rate = args.learning_rate or (0.01 if args.model_path else 0.1)
    run = recording.Run(args.save_folder, plan.record, model, configs.RunConfig.of(args))
    recipe = runs.continued(Recipe.of(args, epochs=args.epoch_num, learning_rate=rate), run)
    trainer = twin.Twin(model, args.precision)  # the same variables, in a form that trains faster
    compile_classifier(trainer, recipe, batches.steps_per_epoch(len(images.train), recipe.batch_size))
    return runs.train(trainer, images, recipe, run, "base model")


def write_results(args, plan, model, images, history):
    """Writes result.json, which ends the run, and prints the table.

    Args:
        args: the flags.
        plan: the Plan.
        model: the keras.Model of the best epoch.
        images: a dataset.Data.
        history: of the training.

    Returns:
        What result.json holds.
    """
    from compress import metrics
    from compress.storage import recording

    folder, best = Path(args.save_folder), records.best_epoch(history)
    file = folder / "model.h5"
    result = {
        "train_images": len(images.train),
        "images": len(images.val),
        "split": "validation",
        "epochs": args.epoch_num,
        "parent_sha256": plan.parent,
        "class_names": plan.record["class_names"],
        "run": plan.record,
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


def outputs(args):
    """Paths of all that a run may write."""
    names = ("model.h5", "result.json", "history.json", "history.png")
    return [*(Path(args.save_folder) / name for name in names), args.tensorboard or ""]


# ---- the run -----------------------------------------------------------------------------------------------------


@keywords.callable_with(build_parser)
def run(args):
    """Trains the base model.

    Args:
        args: the namespace of `build_parser`, or its flags as keywords.

    Returns:
        What result.json holds: accuracies, sizes, split, run.
    """
    plan = check(args)
    with app.folder_of_run(args, "save_folder"):  # no other process writes there meanwhile
        images, result = begin(args, plan)
        if result is None:
            model = start_model(args, images)
            history = train(args, plan, model, images)
            result = write_results(args, plan, model, images, history)
    return result


def main(argv=None):
    """Command line; returns the exit status."""
    return app.run_main(build_parser(), run, argv)


if __name__ == "__main__":
    sys.exit(main())
