"""What a person sees in the terminal: progress bars and tables, by rich. Imports no Keras."""

import contextlib
import importlib.util
import math
import os
import shutil
import sys
import time

from compress.cli import messages, tables
from compress.errors import one_line

FEW_STEPS = 5  # an epoch, below which a smaller batch is suggested
SILENT = 30  # seconds between two lines of what takes long, where no bar can be drawn
ROOMY = 100  # columns from which a bar also says how many images a second it does
_walking = []  # bars of `track` that are on their way
_muted = []  # what takes what is printed, in a process that is to be silent


def _redraws():
    """Whether standard output is a terminal that can redraw a line; TERM=dumb says that one can't."""
    return sys.stdout.isatty() and os.environ.get("TERM", "").lower() not in ("dumb", "unknown")


def _notebook():
    """Whether this is the kernel of a notebook, where nothing is redrawn without ipywidgets."""
    if "IPython" not in sys.modules:
        return False
    from rich.console import Console

    return Console().is_jupyter


def _has_bars():
    """Whether standard output shows progress bars."""
    return _redraws() or (_notebook() and importlib.util.find_spec("ipywidgets") is not None)


def _console():
    from rich import console

    class Console(console.Console):
        def on_broken_pipe(self):  # rich itself would end the process, with status 1
            raise BrokenPipeError

    if _redraws():
        return Console(highlight=False)
    if _notebook():
        return Console(highlight=False, width=100)
    # a file or a pipe has no width of its own: give tables the room they need, unless COLUMNS says how much there is;
    # rich takes any dumb terminal for 80 wide, unless it is given both sides
    wide = shutil.get_terminal_size().columns if sys.stdout.isatty() else messages.columns_given() or 200
    return Console(highlight=False, width=wide, height=25)


def width():
    """Columns that a table on standard output may take."""
    return _console().width


def progress_bar(shown=True, transient=False, of="images"):
    """A rich progress bar with time left and, where there is room, images/s; invisible where none can be drawn.

    Use it as a context manager; give its tasks a total in images, or in what else `of` names, and the field `note` for
    what else is to be said.
    """
    from rich import progress

    class Speed(progress.ProgressColumn):
        def render(self, task):
            if not task.speed:  # a single batch has none
                return "" if task.finished else f"  - {of}/s"
            return per_second(task.speed, of)

    console = _console()
    return progress.Progress(
        progress.TextColumn("{task.description}", markup=False),
        progress.BarColumn(bar_width=None),
        progress.TaskProgressColumn(),
        *([Speed()] if console.width >= ROOMY else []),
        progress.TimeRemainingColumn(),
        progress.TextColumn("{task.fields[note]}"),
        console=console,
        disable=not (shown and _has_bars()),
        speed_estimate_period=10,
        transient=transient,
    )


def waiting(title, verbose=1):
    """A context manager that shows a turning wheel in a terminal, for a wait whose length nobody knows."""
    if verbose != 1 or not _redraws():
        return contextlib.nullcontext()
    console = _console()
    return console.status(title, spinner="line" if console.options.ascii_only else "dots")


MORE_STEPS = "what helps are more steps (a smaller `batch_size`, a larger `epoch_num`) or a smaller learning rate"


def warn_of_guessing(title, loss, classes, helps=MORE_STEPS):
    """Warns where a validation loss is above ln(classes), that of the same probability for every class."""
    guessed = tables.significant(math.log(classes))
    if loss > math.log(classes):
        shown = tables.significant(loss)
        than = f"above {guessed}," if shown != guessed else "no better than"
        warn(f"{title}: validation loss {shown}, {than} the loss of guessing among {classes} classes; {helps}")


def track(title, verbose=1, first="", of="images"):
    """A wrapper for a range of batch starts that shows a bar while one walks through it, or a line now and then.

    Args:
        title: what is being done.
        verbose: 0 for no bar.
        first: what the first batch waits for, such as 'compiling'.
        of: what the range's numbers count, in the plural.

    Returns:
        function(range) -> generator of the range's numbers.
    """

    def walk(starts):
        with progress_bar(verbose > 0, transient=True, of=of) as bar:
            _walking.append(bar)
            task, said = bar.add_task(title, total=starts.stop, note=first), time.monotonic()
            try:
                for start in starts:
                    yield start
                    done = min(start + starts.step, starts.stop)
                    bar.update(task, completed=done, note="")
                    if verbose > 0 and done < starts.stop and time.monotonic() - said >= SILENT and not _has_bars():
                        said = time.monotonic()
                        say(f"{title}: {done:,} of {starts.stop:,} {of}")
            finally:
                if bar in _walking:
                    _walking.remove(bar)

    return walk


def end_bars():
    """Takes away the bars that an error left open: one that stands there breaks what is printed into lines of its own.

    An error in the loop over a generator doesn't end the generator, as long as the traceback holds it.
    """
    while _walking:
        _walking.pop().stop()


def encodable(text):
    """Text with what standard output can't encode written as escapes: a folder may have any name."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)


def mute():
    """Lets nothing be seen from here on but errors: another process of the run says all that."""
    if not _muted:
        _muted.append(open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 - for as long as the process runs
        sys.stdout = _muted[0]


def say(text, verbose=1):
    """Prints a line, unless verbose is 0; what a terminal would obey in the names of files is escaped."""
    if verbose:
        print(messages.wrapped(encodable(messages.spelled(one_line(text))), sys.stdout), flush=True)


def show_images(images, batch_size, verbose=1):
    """Says what is trained on, and where an epoch has so few steps that a schedule over them trains little.

    Args:
        images: a dataset.Data.
        batch_size: images a step.
        verbose: 0 for nothing.
    """
    say(images.description, verbose)
    say(f"augmentation of the training images: {augmentation(images.train)}", verbose)
    if images.train.augmentation.hflip and (pair := mirror_twins(images.class_names)):
        warn(
            f"the training images are mirrored left to right, and two classes are called {pair[0]} and {pair[1]}: if "
            "a mirrored image of the one class shows the other, no network can tell them apart; `hflip=0` turns it off"
        )
    count = len(images.train)
    batch_size = min(batch_size, count)
    if (steps := count // batch_size) < FEW_STEPS:
        smaller = max(2, 2 ** int(math.log2(max(1, count // 8))))  # of 8 steps or more, where there are 16 images
        more = f"; `batch_size={smaller}` makes {count // smaller}" if smaller < batch_size else ""
        say(f"an epoch is {tables.counted(steps, 'step')} of {tables.counted(batch_size, 'image')}{more}", verbose)


def augmentation(split):
    """How a dataset.Split's images are varied at random, such as 'shifts of up to 4 pixels', or 'none'."""
    parts, done = [], split.augmentation
    if done.crop:
        parts.append("a random part of each at full size")
    if done.pad:
        parts.append(f"shifts of up to {tables.counted(done.pad, 'pixel')}")
    if done.hflip:
        parts.append(f"mirrored left to right with probability {done.hflip:g} (`hflip=0` turns that off)")
    if done.operations:
        parts.append(f"{done.operations} operations of RandAugment")
    return ", ".join(parts) or "none"


def mirror_twins(names):
    """The first two names of classes that are one but for 'left' and 'right', such as turn_left; None without."""
    known = {name.casefold(): name for name in names}
    twins = ((name, known.get(key.replace("left", "right"))) for key, name in known.items() if "left" in key)
    return next((pair for pair in twins if pair[1]), None)


def warn(text):
    """Prints a line on standard error, whatever --verbose is: a number may be wrong, or not what it seems."""
    if not _muted:
        messages.print_error(f"warning: {messages.spelled(one_line(text))}")


def print_table(title, columns, rows, verbose=1):
    """Prints a table, in the form of `tables.layout` that fits the terminal.

    Args:
        title: shown above.
        columns: list of (heading, function of `tables` that turns the column's values into a unit and text); the first
            is set left, and so is text; numbers are set right.
        rows: list of lists of values, None for what is not known.
        verbose: 0 for nothing.
    """
    if not verbose:
        return
    from rich.text import Text  # takes [brackets] for what they are

    console, grid = _console(), []
    for i, (heading, kind) in enumerate(columns):
        unit, cells = kind([row[i] for row in rows])
        grid.append([encodable(text) for text in (f"{heading} ({unit})" if unit else heading, *cells)])
    rule = "-" if console.options.ascii_only else "\u2500"
    lines = [Text(line, "bold") for line in ("", *tables.wrap(tables.printable(encodable(title)), console.width))]
    for head, body in tables.layout(grid, console.width):
        length = max(map(tables.width_of, [*head, *body]))
        lines += [Text(""), *[Text(line, "bold") for line in head], Text(rule * length, "dim"), *map(Text, body)]
    with console:  # in a notebook, one output
        for line in lines:
            console.print(line, soft_wrap=True)


def millions(number):
    """A count in millions with at least four significant digits, such as '23.61 M' or '0.6047 M'."""
    return f"{number / 1e6:,.2f} M" if number >= 1e7 else f"{tables.significant(number / 1e6)} M"


def per_second(number, of="images"):
    """A speed, such as '1,240 images/s', or '0.47 images/s' of a slow one; of: what is counted, in the plural."""
    return f"{number:,.0f} {of}/s" if number >= 9.95 else f"{number:.2g} {of}/s"


def percent(share):
    """A share of 1 as per cent with two decimals, or '-' for None."""
    return "-" if share is None else f"{100 * share:.2f} %"


def written(paths, verbose=1, head="written"):
    """Ends a run with the paths of what it wrote, one a line; what isn't there is left out.

    Args:
        paths: of files and folders.
        verbose: 0 for nothing.
        head: before the first.
    """
    lines = [f"{'' if i else head:8} {tables.printable(path)}" for i, path in enumerate(filter(os.path.exists, paths))]
    if lines and verbose:  # not wrapped: a path may have blanks
        print(encodable("\n".join(["", *lines])), flush=True)


class EpochBar:
    """Progress of one fit: a bar over all epochs in a terminal or a notebook, else a plain line an epoch.

    Args:
        title: what is being trained.
        images: training images an epoch.
        epochs: epochs in all.
        verbose: 0 nothing, 1 a bar where one can be drawn, 2 lines.
    """

    def __init__(self, title, images, epochs, verbose=1):
        self.title, self.images, self.epochs, self.verbose = title, images, epochs, verbose
        self.bar, self.task, self.drawn = progress_bar(verbose == 1), None, 0.0
        self.lines = verbose == 2 or (verbose == 1 and not _has_bars())
        self.epoch, self.loss, self.val_acc = 0, None, []

    def start(self, epoch, val_acc=()):
        """Opens the bar with `epoch` epochs behind it, whose validation accuracies are given; a step compiles first."""
        self.epoch, self.val_acc = int(epoch), list(val_acc)
        going_on = f", going on {'behind' if epoch == int(epoch) else 'in'} epoch {math.ceil(epoch)}" if epoch else ""
        if self.lines or (going_on and self.verbose):  # above the bar, which looks the same at a slow beginning
            say(
                f"{self.title}: {tables.counted(self.epochs, 'epoch')} of {tables.counted(self.images, 'image')}"
                f"{going_on}" + ("; compiling" if self.lines else "")
            )
        self.bar.start()
        self.task = self.bar.add_task(
            self.title,
            start=False,
            total=self.epochs * self.images,
            completed=epoch * self.images,
            note=self.note("compiling"),
        )

    def note(self, doing=None):
        """What stands behind the bar: as much as there is room for, the last validation accuracy before the loss."""
        loss = None if self.loss is None else f"loss {self.loss:.4f}"
        last = f"val acc {percent(self.val_acc[-1])}" if self.val_acc else None
        best = f"best {percent(max(self.val_acc))}" if self.val_acc else None
        epoch = f"epoch {min(self.epoch + 1, self.epochs)}/{self.epochs}"
        width = self.bar.console.width
        room = width - tables.width_of(self.title) - 24 - 18 * (width >= ROOMY)  # 10 of the bar; per cent, time left
        for parts in (
            [epoch, doing or loss, last, best],
            [epoch, doing or loss, last],
            [epoch, doing or last],
            [doing or last or epoch],
        ):
            text = "  ".join(filter(None, parts))
            if len(text) <= room:
                return text
        return ""

    def step(self, epoch, images, logs):
        """`images` of an epoch (from 0) are done; logs holds Keras' running loss and accuracy."""
        now = time.monotonic()
        if now - self.drawn < 0.25 or self.bar.disable:  # drawing takes time from training
            return
        self.drawn, self.epoch, self.loss = now, epoch, float(logs["loss"])
        self.bar.start_task(self.task)  # the first step was compiled: time left is estimated from here
        self.bar.update(self.task, completed=epoch * self.images + images, note=self.note())

    def validating(self):
        """The steps of an epoch are done, and validation begins."""
        self.bar.update(self.task, note=self.note("validating"))

    def epoch_end(self, epoch, values):
        """Epoch `epoch` (from 0) is done; values holds the history's numbers of this epoch."""
        self.epoch, self.loss = epoch, values["train_loss"]
        self.val_acc.append(values["val_acc"])
        line = (
            f"{self.title}: epoch {epoch + 1}/{self.epochs}  train loss {values['train_loss']:.4f}, "
            f"accuracy {percent(values['train_acc'])}  validation loss {values['val_loss']:.4f}, "
            f"accuracy {percent(values['val_acc'])}  {values['seconds']:.1f} s, "
            f"{per_second(self.images / values['seconds'])}"
        )
        if self.lines:
            say(line)
        else:
            self.bar.update(self.task, completed=(epoch + 1) * self.images, note=self.note())

    def stop(self):
        """Closes the bar; the terminal may be gone."""
        with contextlib.suppress(OSError):
            self.bar.stop()
