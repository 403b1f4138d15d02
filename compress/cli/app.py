"""How a script begins and ends: Keras as the flags ask for it, the user's errors as one line, an exit status."""

import contextlib
import dataclasses
import importlib.util
import json
import os
import signal
import sys
import tempfile
import traceback
import warnings

from compress.cli import architectures, configs, display, flags, keras_config, messages, native, signals, values
from compress.engine import devices, processes
from compress.errors import Diverged, InputError, Stopped, command, of_the_system, quoted
from compress.storage import files, records

LOST = 134  # 128 + SIGABRT, with which JAX itself ends a process whose others are lost
_passed_over = []  # what of Keras' settings isn't used, until it is said
_own_folders = []  # (folder, the one that the run writes to) of a process that keeps its files to itself


@contextlib.contextmanager
def quiet_stderr():
    """Holds back what native libraries print on file descriptor 2; gives it out after all if the body fails, but for an
    InputError, which says itself what is wrong, and a signal, which nothing there explains."""
    with tempfile.TemporaryFile() as held:
        sys.stderr.flush()
        real_stderr = os.dup(2)
        os.dup2(held.fileno(), 2)
        try:
            yield
        except InputError:
            raise
        except Exception:
            held.seek(0)
            os.write(real_stderr, held.read())
            raise
        finally:
            sys.stderr.flush()
            os.dup2(real_stderr, 2)
            os.close(real_stderr)


@contextlib.contextmanager
def _result_alone(wanted):
    """Where it is wanted, sends what Python and native libraries print meanwhile to standard error."""
    if not wanted:
        yield
        return
    sys.stdout.flush()
    real_stdout = os.dup(1)
    os.dup2(2, 1)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        os.dup2(real_stdout, 1)
        os.close(real_stdout)


def join(config):
    """Prepares the machine for Keras; where several processes compute the run, waits until all have come.

    All but the first are silent from here on, but for errors.

    Args:
        config: a configs.MachineConfig.

    Raises:
        InputError: there is no backend, or none for more than one device; see also `processes.join`.
    """
    native.prepare(config.gpu)
    _passed_over.append(keras_config.choose_backend())
    devices.check(config)
    if not processes.asked(config) or processes.has_joined():
        return
    # native code ends this process where some don't come, at times: the watcher says why then
    line = f"{config.argv[0]}: " * bool(config.argv) + processes.absent(config)
    processes.watch(messages.wrapped(messages.spelled(line), sys.stderr))
    try:
        with display.waiting("waiting for the other processes", config.verbose), quiet_stderr(), _result_alone(True):
            processes.join(config)
            processes.meet("all have come")  # the first connection, of which native code tells on standard output
    finally:
        processes.done()
    processes.watch(messages.wrapped(lost(config.argv), sys.stderr))
    if not processes.is_main():
        display.mute()


def lost(words):
    """What to say where a process of several has died; words: of the command line."""
    who = f"process {processes.rank()} of {processes.count()}"
    how = f": cd {quoted(os.getcwd())} && {command(*going_on(words))}" if words else ""
    return (
        f"{words[0] if words else 'compress'}: {who} has ended because it, or another process of this run, has died; "
        f"what was saved stays; start all of them again to go on, this one with{how or ' the same call'}"
    )


@contextlib.contextmanager
def folder_of_run(args, name):
    """Holds the folder that a run writes to for this process alone, see `files.exclusive`.

    Where several processes compute a run the first one holds it. Every other one sees the folder as it was then, in a
    temporary one of its own, to which it writes what the first writes: so all go on from the same files.

    Args:
        args: the script's namespace, with the flags of `flags.add_training_flags`.
        name: of the flag with the folder; in a process other than the first it names the temporary one meanwhile.

    Raises:
        InputError: another run holds the folder, or the processes don't see the same one or have other flags.
    """
    config, folder = configs.MachineConfig.of(args), getattr(args, name)
    devices_asked = processes.asked(config)
    if devices_asked:
        join(config)
    if processes.is_main():
        with files.exclusive(folder):
            if devices_asked:
                processes.meet("the first process holds the folder")
                agree_on_folder(args, name, folder)
            yield
        return
    with tempfile.TemporaryDirectory(prefix=f"process{processes.rank()}-") as own:
        processes.meet("the first process holds the folder")
        if args.resume == "auto" and os.path.isdir(folder):
            files.copy_run(folder, own)
        agree_on_folder(args, name, folder)
        setattr(args, name, own)
        _own_folders.append((own, str(folder)))
        args.tensorboard = None
        try:
            yield
        finally:
            setattr(args, name, folder)


def agree_on_folder(args, name, folder):
    """Raises InputError where the processes of a run have other flags, or see other files in its folder."""
    agree(args)
    processes.check_same(
        files.sizes(folder),
        f"`{name}`: received {folder}, where the processes of this run find different files; expected a folder that "
        "all of them see",
    )


def agree(args, images=None):
    """Raises InputError where the processes of a run have other flags or images: each would wait for what never comes.

    Args:
        args: the script's namespace.
        images: a dataset.Data; None before they are read.
    """
    import numpy as np

    from compress.data import dataset
    from compress.storage import resuming

    if processes.count() == 1:
        return
    given = {key: str(value) for key, value in vars(args).items() if key not in resuming.IGNORED}
    text = "`process_id`: the processes of this run have different flags{}; expected the same command for all"
    processes.check_same(list(given), text.format(""))  # of one script
    first = processes.of_main(given)
    odd = processes.gathered(np.array([given[key] != first[key] for key in given])).any(0)
    names = ", ".join(f"`{key}`" for key, is_odd in zip(given, odd, strict=True) if is_odd)
    processes.check_same(given, text.format(f" ({names})"))
    if images is not None:
        splits = [split for split in (images.train, images.val, images.test) if split]
        of_splits = [(split.name, split.source, files.digest(split.labels)) for split in splits]
        dataset.check_alike(args.dataset, [images.class_names, images.pixels, *of_splits])


def start_keras(config):
    """Imports Keras as the machine flags say: devices, seed, no chatter from native libraries.

    Args:
        config: a configs.MachineConfig.

    Raises:
        InputError: no events can be written for --tensorboard; or Keras is set to what the suite can't run on.
    """
    if getattr(config, "tensorboard", None) is not None:
        files.check_writable(config.tensorboard)
        if importlib.util.find_spec("tensorflow") is None:
            raise InputError(
                f"`tensorboard`: received {config.tensorboard} where there is no TensorFlow, which writes "
                "the events; expected it installed, under any backend"
            )
    join(config)
    passed_over = [*_passed_over]
    _passed_over.clear()
    with display.waiting("starting Keras", config.verbose), quiet_stderr():
        import keras

        passed_over += keras_config.settle()
        keras.ops.zeros((1,))  # the devices are opened now, while their chatter is held back
        keras.utils.set_random_seed(config.seed)  # loads TensorFlow under JAX too
        devices.setup(config)  # behind the seed, in front of every model
    if devices.count() > 1:
        display.say(f"each batch is divided among {devices.described()}", config.verbose)
    if any(passed_over):
        display.warn(f"Keras is set to {'; to '.join(filter(None, passed_over))} ({keras_config.config_path()})")
    # a model, or one nested in it, that was made with its one input in a list takes a tensor all the same
    warnings.filterwarnings("ignore", "The structure of `inputs` doesn't match", UserWarning)
    import logging

    for name in ("absl", "tensorflow"):  # "legacy HDF5 format": .h5 is this suite's; "retracing": one trace a model
        logging.getLogger(name).setLevel(logging.ERROR)
    if config.deterministic and keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        tf.config.experimental.enable_op_determinism()


def images_of_run(args, record, outputs, read):
    """Starts Keras and reads the images of a run, unless it was finished before; adds to its record what they are.

    Args:
        args: the script's namespace, with the flags of `flags.add_training_flags` and a save folder.
        record: from `records.run_record`.
        outputs: paths of what the run writes.
        read: function() -> dataset.Data.

    Returns:
        (images, None); or (None, what result.json holds) where this very run was finished before.
    """
    from compress.storage import resuming

    kept = configs.RunConfig.of(args)
    if done := resuming.finished(args.save_folder, record, kept, outputs):
        return None, done
    start_keras(configs.MachineConfig.of(args))
    images = read()
    agree(args, images)
    record.update(record_of_images(images))
    # asked once more: images that lie elsewhere now are known by their checksum
    done = resuming.finished(args.save_folder, record, kept, outputs)
    return (None, done) if done else (images, None)


def image_shape(args, header):
    """(height, width, 3) that the images of a run have, as far as that is known before they are read, or None.

    Args:
        args: the script's namespace, with the flags of `flags.add_data_flags`.
        header: what is in the model's file, a headers.Header.
    """
    from compress.storage import checkpoints

    if header.input_shape:
        return header.input_shape
    if args.dataset in values.STOCK:
        return (*checkpoints.STOCK_SIZE, 3)
    return args.image_size and (args.image_size, args.image_size, 3)


def check_architecture(args, parameter="architecture", name=None, pretrained=False):
    """Raises InputError where a new network doesn't take images of a size that is known before they are read.

    Args:
        args: the script's namespace, with the flags of `flags.add_data_flags`.
        parameter: what the script calls the network's name.
        name: of the network, of `architectures.NAMES`; None for that of the parameter.
        pretrained: whether it gets ImageNet's weights.
    """
    from compress.storage import checkpoints

    name, stock = name or getattr(args, parameter), args.dataset in values.STOCK
    side = checkpoints.STOCK_SIZE[0] if stock else args.image_size
    least = (architectures.PRETRAINED_LEAST if pretrained else architectures.LEAST).get(name, 0)
    if side and side < least:
        raise InputError(
            f"`{parameter}`: received {name}, which takes images from {least}x{least} on; the images of {args.dataset} "
            + (f"are {side}x{side}, and stay so" if stock else f"become {side}x{side} by `image_size`")
            + f"; expected {'a folder of images with ' * stock}`image_size={least}` or more, or another network, such "
            "as ResNet50"
        )


def read_images(args, path, header, open_model, needs=("train", "validation")):
    """Opens a model and reads the images that a script's flags name, for a run that starts from it; says what they are.

    The model comes first: what can't be done with it is said before images are decoded, which may take long.

    Args:
        args: the script's namespace, with the flags of `flags.add_data_flags`.
        path: of the model's file.
        header: what is in it, a headers.Header.
        open_model: function(number of classes or None for any, (height, width, 3)) -> what is made of the model, an
            object whose `model` is the keras.Model. It is called at once; for a model of images of any size, or without
            a classifier, once the images are listed.
        needs: names of the required splits.

    Returns:
        (a dataset.Data, what `open_model` gave).

    Raises:
        InputError: there are no such images, or the model was trained on others or has another number of classes.
    """
    from compress.data import dataset, pixels
    from compress.storage import checkpoints, records

    size, opened = image_shape(args, header), []
    if size and header.classes != 0:
        opened.append(open_model(args.class_num, size))
        header = dataclasses.replace(header, classes=opened[0].model.output_shape[-1])  # which no header may tell

    def listed(images):
        records.check_source(path, images.val, args.val_split)
        checkpoints.check_fits(header, images.class_num, images.image_shape, args.dataset, flags.of_reading(args))
        if not opened:
            opened.append(open_model(images.class_num, images.image_shape))

    images = dataset.load_data(
        configs.DataConfig.of(args),
        header.input_shape and header.input_shape[:2],
        display.track("reading images", args.verbose),
        needs=needs,
        pixels=pixels.of_models(path),
        listed=listed,
    )
    if "train" in needs:
        display.show_images(images, args.batch_size, args.verbose)
    else:
        display.say(images.description, args.verbose)
    return images, opened[0]


def record_of_images(images):
    """What a run's record says of its images: where they come from, their class names and values of pixels; and the
    devices that are known by now, where there are several."""
    from compress.storage import classes

    several = {"devices": [devices.count()]} if devices.count() > 1 else {}
    return {"source": images.train.source, "class_names": classes.of_data(images), "pixels": images.pixels} | several


def run_main(parser, run, argv=None):
    """What every script's main does: parse, run, turn the user's errors into one line.

    Args:
        parser: the script's Parser.
        run: function(args) -> dict of results, which --json prints.
        argv: list of words; None takes the process's own.

    Returns:
        The exit status: 0; 2 for input that can't be used or a file that can't be written; 3 for a loss that is no
        number; 128 + the signal's number where one ended the run; 134 where another process of the run was lost; 141
        where the reader of standard output has gone.
    """
    messages.open_streams()
    try:
        try:
            status = _status(parser, run, argv)
            if status and processes.count() > 1:
                processes.leave(status)
            return status
        finally:
            sys.stdout.flush()  # now, where a closed pipe can still be answered: Python's own flush comes too late
    except OSError as error:
        status = 141  # `script | head`, which has nothing to complain of
        if not isinstance(error, BrokenPipeError):
            status = _end(
                f"{parser.prog}: standard output can't be written ({error.strerror or error}); expected room "
                "for it, or none of it with --verbose 0",
                2,
            )
        for stream in sys.stdout, sys.stderr:  # what they still hold back, Python would try to write at its end
            with contextlib.suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        return status


def _status(parser, run, argv):
    """The exit status of `run_main`, but for a closed pipe."""
    args = parser.parse_args(argv)
    as_json = getattr(args, "json", False)
    with contextlib.suppress(AttributeError):  # a caller's own stream
        sys.stdout.reconfigure(errors="backslashreplace")  # a folder may have a name that the terminal can't show
    try:
        with signals.raising():  # the message too: a signal may come twice
            return _ended(parser, run, args, as_json)
    except KeyboardInterrupt as error:  # as the handlers are put in place or taken away
        return _stopped(parser, args, error, _saved(args))


def _ended(parser, run, args, as_json):
    """The exit status of a script's run, whose error is printed."""
    # The user's errors end as one line and status 2; what is none of them is a defect, whose traceback is shown.
    before = _saved(args)
    try:
        with _result_alone(as_json):
            result = run(args)
        if as_json:
            print(json.dumps(result, indent=1, allow_nan=False, default=str), flush=True)
    except InputError as error:
        line = messages.spelled(flags.named(error, args), vars(args))
        return _end(f"{parser.prog}: {line}", 2)
    except Diverged as error:
        return _end(f"{parser.prog}: {messages.spelled(str(error), vars(args))}", 3)
    except BrokenPipeError:
        raise
    except Exception as error:
        if (line := of_the_system(error)) is None and processes.count() == 1:
            raise
        if line is None:
            return _end_of_many(error, args)
        return _end(f"{parser.prog}: {messages.spelled(line)}", 2)
    except KeyboardInterrupt as error:
        return _stopped(parser, args, error, before)
    return 0


def _end_of_many(error, args):
    """The exit status of a process, of several, that an error of JAX or a defect ended."""
    if processes.is_loss(error):
        return _end(lost(args.argv), LOST)
    traceback.print_exception(error)
    return 1


def _stopped(parser, args, error, before):
    """The exit status of a script that a signal ended, which is said; `before` as of `_way_on`."""
    number, saved = (error.number, error.saved) if isinstance(error, Stopped) else (signal.SIGINT, "")
    how = _way_on(args, saved, before) if saved or hasattr(args, "resume") else ""
    return _end(f"{parser.prog}: stopped by {signal.Signals(number).name}{how}", 128 + number)


def _saved(args):
    """What lies where a run that can go on writes, see `files.versions`; an empty set for other scripts."""
    return files.versions(getattr(args, "save_folder", None) or args.root_folder) if hasattr(args, "resume") else set()


def _way_on(args, saved, before):
    """What a stopped run has saved, and the command to go on with, which is right in whatever folder it is pasted.

    Args:
        args: the flags.
        saved: what the run itself says of it, or ''.
        before: what `_saved` gave before the run.
    """
    words, here = args.argv, f"cd {quoted(os.getcwd())} && "
    if not (saved or _saved(args) - before):
        where = f" in {getattr(args, 'save_folder', None) or args.root_folder}" if hasattr(args, "resume") else ""
        return f"; nothing new was saved{where}; start it again with: {here}{command(*words)}"
    return f"; {saved or 'what was saved stays'}; go on with: {here}{command(*going_on(words))}"


def tell_augmentation(args, path):
    """Says where the model that a run starts from was trained with other augmentation than the run's."""
    then = records.augmentation_of(path)
    if then not in (None, args.augment):
        display.say(
            f"{path} was trained with `augment={then:.20}`, this run has `augment={args.augment}`", args.verbose
        )


def going_on(words):
    """A command line without what would start over once more."""
    return [word for i, word in enumerate(words) if "--resume" not in (word.split("=")[0], words[i - 1] if i else "")]


def _end(message, status):
    """Says why a script ends; the terminal may be gone."""
    for own, folder in _own_folders:
        message = message.replace(own, folder)
    with contextlib.suppress(OSError):
        display.end_bars()
        messages.print_error(message)
    return status
