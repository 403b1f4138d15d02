"""Command-line flags: every flag that two scripts share is declared here, once. Imports no Keras."""

import argparse
import difflib
import math
import os
import re
import sys
import textwrap
from pathlib import Path

from compress.cli import completion, messages
from compress.cli.values import AUGMENTATIONS, PRECISIONS, address, data_set, path, precision, real, usual_hflip, whole
from compress.errors import OutputError, one_line, shown

STOCK_SET = "cifar10"  # the data set where none is named
CLASS_NUM = {"cifar10": 10, "cifar100": 100, "digits": 10}
PREPROCESSING = ("auto", "caffe", "tf", "torch", "unit", "none")
OUTPUTS = ("output", "save_folder", "root_folder", "tensorboard")  # flags that say where to write, the surest first
OF_READING = ("data_dir", "val_split", "image_size", "preprocessing")
CRITERIA = ("apoz", "l1", "l2", "bn", "taylor", "fpgm", "random")


class Help(argparse.HelpFormatter):
    """Help that fits the terminal, or 80 columns: the usage names the required flags alone, as all are listed below it;
    an example that is too wide goes on behind a backslash."""

    def add_usage(self, usage, actions, groups, prefix=None):
        needed = [
            " ".join([*action.option_strings[:1], self._format_args(action, action.dest.upper())])
            for action in actions
            if action.required
        ]
        super().add_usage(" ".join(["%(prog)s", *needed, "[--FLAG VALUE ...]"]), actions, groups, prefix)

    def _fill_text(self, text, width, indent):
        return "\n".join(part for line in text.splitlines() for part in _fitting(line, width))


def _fitting(line, width):
    """A line of a description, or of the examples below it, as lines of at most `width`."""
    if line[:1] != " ":
        return textwrap.wrap(line, width) or [""]
    if len(line) <= width:
        return [line]
    command, mark, comment = line.partition("  #")
    parts = textwrap.wrap(command, width - 2, subsequent_indent=" " * 6, break_long_words=False, break_on_hyphens=False)
    return [f"  #{comment}"] * bool(mark) + [f"{part} \\" for part in parts[:-1]] + parts[-1:]


class Parser(argparse.ArgumentParser):
    """An ArgumentParser whose errors are one line, and which knows what some flags mean by default for a data set."""

    def __init__(self, *args, **kwargs):
        kwargs.setdefault("formatter_class", Help)
        super().__init__(*args, allow_abbrev=False, **kwargs)

    def parse_known_args(self, args=None, namespace=None):
        words = list(sys.argv[1:] if args is None else args)
        parsed, unknown = super().parse_known_args(words, namespace)
        self.complete(parsed, {word.split("=")[0].removeprefix("--") for word in words})
        parsed.argv = [self.prog, *words]
        return parsed, unknown

    @staticmethod
    def complete(parsed, given):
        """What a flag means that isn't among the names given, where that depends on others."""
        if hasattr(parsed, "class_num") and "class_num" not in given:
            parsed.class_num = CLASS_NUM.get(parsed.dataset or STOCK_SET)  # None: as many as the folder has
        if hasattr(parsed, "hflip") and "hflip" not in given:  # the record of a run is to name what was done
            parsed.hflip = usual_hflip(parsed.dataset, parsed.augment)

    def parse_args(self, args=None, namespace=None):
        completion.answer(self)
        parsed, unknown = self.parse_known_args(args, namespace)
        if unknown:
            known = [flag for action in self._actions for flag in action.option_strings]
            near = difflib.get_close_matches(unknown[0].split("=")[0], known, 1)
            self.error(f"{unknown[0]}: no such flag" + (f"; did you mean {near[0]}?" if near else "; see --help"))
        return parsed

    def _print_message(self, message, file=None):
        if file is sys.stdout:
            file.write(message)  # argparse itself passes over a closed pipe
        else:
            super()._print_message(message, file)

    def error(self, message):
        """Raises SystemExit(2) after one line on standard error."""
        messages.print_error(f"{self.prog}: {one_line(self.explained(message))}")
        self.exit(2)

    def explained(self, message):
        """argparse's message; of flags that are missing, which it only names, also what they have to be."""
        lacking = message.partition("arguments are required: ")[2].split(", ")
        wanted = [action for action in self._actions if {*action.option_strings, action.metavar} & {*lacking}]
        return "; ".join(
            f"{[*action.option_strings, action.metavar][0]}: not given; expected {action.help.split('; ')[0]}"
            for action in wanted
        ) or message.removeprefix("argument ")


def named(error, args):
    """The text of an InputError, behind the name of the flag whose value it is about.

    Args:
        error: an InputError; its `path` is a file or folder, or None.
        args: the script's namespace.
    """
    if error.path is None:
        return str(error)
    places = [
        (name, Path(os.path.abspath(place)))
        for name, value in vars(args).items()
        if name != "argv"
        for place in (value if isinstance(value, list) else [value])
        if isinstance(place, (str, Path))
    ]
    found = Path(os.path.abspath(error.path))
    for wanted in (found, *found.parents):  # the file itself, or the nearest folder above it that was given
        names = [name for name, place in places if place == wanted]
        # of two flags that name one path, that which is written to or that which is read
        writes = {name: place for place, name in enumerate(OUTPUTS)}
        if isinstance(error, OutputError):
            names.sort(key=lambda name: writes.get(name, len(writes)))
        else:
            names.sort(key=lambda name: name in writes)
        if names:
            return f"`{names[0]}`: {error}"
    return str(error)


def of_reading(args):
    """{name: value} of the flags that were given and say how data and a model are read, for a command in a message."""
    given = {str(word).split("=")[0].removeprefix("--") for word in args.argv}
    return {name: getattr(args, name) for name in OF_READING if name in given and hasattr(args, name)}


def _typed(amount):
    """An amount as it would be typed: text as it is, a number, or (number, whether an x follows it)."""
    if isinstance(amount, str):
        return amount
    number, is_ratio = amount if isinstance(amount, (list, tuple)) else (amount, False)
    if isinstance(number, bool):
        return shown(amount)
    try:
        return f"{number:.15g}{'x' * is_ratio}"
    except (ValueError, TypeError, OverflowError):  # no number, or one of 400 digits, which the callers then refuse
        return shown(amount)


def macs(text):
    """A type for add_argument: multiply-accumulates left, as '20M', '1.3G', '20000000', or a reduction, as '4x'.

    Args:
        text: such text, a number, or a pair as it is returned.

    Returns:
        (number, is_ratio).
    """
    text = _typed(text)
    match = re.fullmatch(r"(\d+(?:\.\d+)?(?:[eE]\d+)?)([kKMGx]?),?", text.strip())
    scale = {"": 1, "k": 1e3, "K": 1e3, "M": 1e6, "G": 1e9, "x": 1}[match[2] if match else ""]
    number = float(match[1]) * scale if match else math.nan
    if not 0 < number < math.inf or (match[2] == "x" and number < 1):  # nan compares false, so it ends here too
        raise argparse.ArgumentTypeError(f"received {text!r}, expected MACs left (20M, 1.3G) or a reduction (4x)")
    return number, match[2] == "x"


def latency(text):
    """A type for add_argument: milliseconds, as '2ms' or '2', or a share of another latency, as '0.5x'.

    Args:
        text: such text, a number of ms, or a pair as it is returned.

    Returns:
        (number, is_share).
    """
    text = _typed(text)
    match = re.fullmatch(r"(\d+(?:\.\d+)?(?:[eE]-?\d+)?) ?(ms|x|),?", text.strip())
    if not match or not 0 < float(match[1]) < (1 if match[2] == "x" else math.inf):
        raise argparse.ArgumentTypeError(
            f"received {text!r}, expected milliseconds (2ms), or a share below 1 of the base's latency (0.5x)"
        )
    return float(match[1]), match[2] == "x"


def macs_left(target, full):
    """Multiply-accumulates that a target of `macs` leaves of `full`."""
    number, is_ratio = target
    return full / number if is_ratio else number


def add_model_file_flags(group):
    """Those that say how a model file from elsewhere is read."""
    group.add_argument(
        "--preprocessing",
        choices=PREPROCESSING,
        default="auto",
        help="what a model file from elsewhere was trained with: a mode of keras.applications' "
        "preprocess_input, unit: pixels / 255, none: pixels as they are; auto: caffe, which its "
        "ResNets use; a file's own layers for it, as every file of this suite has them, come first "
        "(default: %(default)s)",
    )
    group.add_argument(
        "--verify_model",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="deprecated, does nothing: the network of a file is rebuilt of Keras' own layers (default: on)",
    )


def add_data_flags(parser, needed=True):
    """--dataset and all that says which images there are, how they are read and what a model wants of them.

    Args:
        parser: a Parser.
        needed: False where a script can do without images: its `dataset` is then None where none is named.
    """
    group = parser.add_argument_group("data")
    group.add_argument(
        "--dataset",
        type=data_set,
        default=STOCK_SET if needed else None,
        metavar="{cifar10,cifar100,digits,FOLDER}",
        help="stock data set, or a folder with one subfolder of images per class, with or without train/ and test/ "
        f"above them (default: {STOCK_SET})",
    )
    add_data_dir_flag(group)
    group.add_argument(
        "--val_split",
        type=real(0, 0.5, strict=True),
        default=0.1,
        help="share of the training images held out for every choice (default: %(default)s)",
    )
    group.add_argument(
        "--subset",
        type=whole(1),
        metavar="N",
        help="use a stratified part of N training and validation images (default: all)",
    )
    group.add_argument(
        "--image_size",
        type=whole(16, 1024),
        metavar="PIXELS",
        help="side to which a FOLDER's images are resized (default: the model's; for a new model "
        "the images' own size if they share one, else 224)",
    )
    group.add_argument(
        "--class_num",
        type=whole(2, 100_000),
        default=10,
        help="number of classes (default: 10 for cifar10 and digits, 100 for cifar100, a FOLDER's own number)",
    )
    add_model_file_flags(group)
    group.add_argument(
        "--num_worker",
        type=whole(0, 256),
        default=0,
        help="threads that decode a FOLDER's images, 0: one a core; stock sets need none (default: %(default)s)",
    )
    add_cache_flags(group)
    add_batch_size_flag(group)


def add_cache_flags(group):
    """--cache_dir, --cache: where images lie that memory doesn't hold."""
    group.add_argument(
        "--cache_dir",
        type=path,
        default="./data/cache",
        metavar="DIR",
        help="where a FOLDER's images are kept decoded if they need more than 1 GiB, once for all runs "
        "(default: %(default)s)",
    )
    group.add_argument(
        "--cache",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="--no-cache decodes such images each time that they are needed (default: on)",
    )


def add_data_dir_flag(group):
    """--data_dir, for scripts that read a stock data set."""
    group.add_argument(
        "--data_dir",
        type=path,
        default="./data",
        help="where cifar-10-batches-py (or the binary folder) lies (default: %(default)s)",
    )


def add_batch_size_flag(group):
    """--batch_size, for scripts that run a model."""
    group.add_argument("--batch_size", type=whole(1, 65536), default=128, help="images a step (default: %(default)s)")


def add_output_flags(parser):
    """--verbose, --json."""
    group = parser.add_argument_group("output")
    group.add_argument(
        "--verbose",
        type=whole(0, 2),
        default=1,
        metavar="{0,1,2}",
        help="0: errors only, 1: bars and tables, 2: a plain line an epoch (default: %(default)s)",
    )
    group.add_argument(
        "--json",
        action="store_true",
        help="print the result as one JSON document on standard output, and all else on standard error",
    )


def add_machine_flags(parser, default_precision="auto"):
    """--gpu, --precision, --seed, --deterministic, and those of `add_output_flags`."""
    group = parser.add_argument_group("machine")
    group.add_argument(
        "--gpu",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="use an accelerator where there is one (default: on)",
    )
    group.add_argument(
        "--precision",
        type=precision,
        default=default_precision,
        metavar=f"{{{','.join(PRECISIONS)}}}",
        help="arithmetic of the layers; weights, statistics and files are float32 in any; auto: "
        "mixed_bfloat16 under TensorFlow where the processor multiplies it, else float32, "
        "whatever an accelerator can do (default: %(default)s)",
    )
    group.add_argument(
        "--seed",
        type=whole(0, 2**32 - 1),
        default=826,
        help="seed of weights, order and augmentation; the split into training and validation "
        "images does not depend on it (default: %(default)s)",
    )
    group.add_argument("--deterministic", action="store_true", help="same seed, same bits, at some cost in speed")
    add_output_flags(parser)


def add_device_flags(parser):
    """--devices, --coordinator, --num_processes, --process_id, --distributed, for scripts that train or score."""
    group = parser.add_argument_group("several devices (KERAS_BACKEND=jax)")
    group.add_argument(
        "--devices",
        type=whole(1, 4096),
        metavar="N",
        help="divide each batch among this many devices of a process (default: all that JAX finds; under TensorFlow 1)",
    )
    group.add_argument(
        "--coordinator",
        type=address,
        metavar="HOST:PORT",
        help="several processes compute this run, on one host or many: the address of process 0; start the same "
        "command for each of them, with --num_processes and its own --process_id",
    )
    group.add_argument("--num_processes", type=whole(1, 65536), metavar="P", help="how many processes there are")
    group.add_argument(
        "--process_id",
        type=whole(0, 65535),
        metavar="I",
        help="the number of this process, from 0, which alone writes and prints",
    )
    group.add_argument(
        "--distributed",
        action="store_true",
        help="likewise, with what Slurm, Kubernetes or Open MPI announce to the processes of a job",
    )


def add_training_flags(parser):
    """--epoch_num and all that says how to train, how a run goes on and what it logs."""
    group = parser.add_argument_group("training")
    group.add_argument(
        "--optimizer",
        choices=["sgd", "muon"],
        default="sgd",
        help="sgd: with Nesterov momentum 0.9; muon: the same for all but the convolutions, whose "
        "steps are made orthogonal; for small networks (default: %(default)s)",
    )
    group.add_argument("--epoch_num", type=whole(1, 100_000), default=200, help="epochs (default: %(default)s)")
    group.add_argument(
        "--weight_decay",
        type=real(0, 1),
        default=5e-3,
        help="decoupled decay: each step takes learning rate x this off every kernel that SGD trains, "
        "none off biases, batch-norm and Muon's convolutions; 5e-3 equals 5e-4 as an L2 gradient "
        "term under momentum 0.9 (default: %(default)s)",
    )
    group.add_argument(
        "--label_smoothing",
        type=real(0, 0.9),
        default=0.0,
        help="share of each label spread over all classes (default: %(default)s)",
    )
    add_augmentation_flags(group)
    group.add_argument(
        "--warmup",
        type=real(0, 1),
        default=0.1,
        help="share of steps in which the rate rises, before its cosine fall (default: %(default)s)",
    )
    group.add_argument(
        "--resume",
        choices=["auto", "never"],
        default="auto",
        help="auto: go on where an unfinished run with the same flags stopped, do nothing where it is "
        "finished (or go on from its end if --epoch_num is larger), refuse to write over a run "
        "with other flags; never: start over (default: %(default)s)",
    )
    group.add_argument(
        "--save_minutes",
        type=real(),
        default=10.0,
        metavar="MINUTES",
        help="within an epoch, save the state this often; 0 after every step (default: %(default)s)",
    )
    group.add_argument(
        "--tensorboard",
        type=path,
        metavar="DIR",
        help="also write losses, accuracies, learning rate and seconds of every epoch as TensorBoard "
        "events, in a folder of DIR named after the save folder (default: none)",
    )


def add_augmentation_flags(group):
    """--augment, --crop_padding, --hflip: how training images are varied at random."""
    group.add_argument(
        "--augment",
        choices=AUGMENTATIONS,
        default="shift",
        help="shift: training images are shifted by some pixels; crop: a random part of each is shown at full size, "
        "and the middle of evaluated ones; randaugment: two random changes of colour or geometry follow, behind crops "
        "of a FOLDER's images, behind shifts of others; none (default: %(default)s)",
    )
    group.add_argument(
        "--crop_padding",
        type=whole(0),
        metavar="PIXELS",
        help="shift training images by up to this in every direction (default: an eighth of the side, 4 "
        "at 32x32; of digits a sixteenth)",
    )
    group.add_argument(
        "--hflip",
        type=real(0, 1),
        metavar="PROB",
        help="mirror each training image left to right with this probability; 0 where left and right matter, as of "
        "arrows or letters (default: 0.5, of digits and with --augment none 0)",
    )


def add_criterion_flags(group):
    """--criterion, --scope, --apoz_images."""
    group.add_argument(
        "--criterion", choices=CRITERIA, default="apoz", help="what makes a channel idle (default: %(default)s)"
    )
    group.add_argument(
        "--scope",
        choices=["inner", "all"],
        default="inner",
        help="which channels may go: inner ones, that no addition joins; all: also residual streams and stems "
        "(default: %(default)s)",
    )
    group.add_argument(
        "--apoz_images",
        type=whole(1),
        metavar="N",
        help="validation images on which the criterion is computed (default: all)",
    )


def add_recalibrate_flag(group):
    """--recalibrate_images, for the scripts that cut channels."""
    group.add_argument(
        "--recalibrate_images",
        type=whole(0),
        default=2048,
        metavar="N",
        help="training images for recalibration once channels are gone: batch-norm's statistics are measured anew; a "
        "network without batch-norm has its layers scaled to the mean and deviation that their outputs had (REPAIR); 0 "
        "for none (default: %(default)s)",
    )
