"""What a person sees in the terminal: progress bars and tables, by rich. Imports no Keras."""

import contextlib
import os
import shutil
import sys
import time

import tables


def _redraws():
    """Whether standard output is a terminal that can draw a line anew; TERM=dumb says that one can't."""
    return sys.stdout.isatty() and os.environ.get("TERM", "").lower() not in ("dumb", "unknown")


def _console():
    from rich.console import Console

    if _redraws():
        return Console(highlight=False)
    # a file or a pipe has no width of its own: give tables the room they need; rich takes any dumb terminal for 80
    # wide, unless it is told both sides
    return Console(highlight=False, width=shutil.get_terminal_size().columns if sys.stdout.isatty() else 200, height=25)


def progress_bar(shown=True, transient=False):
    """A rich progress bar with images/s and time left; invisible where standard output is no terminal.

    Use it as a context manager; give its tasks a total in images, and the field `note` for what else is to be said.
    """
    from rich import progress

    class Speed(progress.ProgressColumn):
        def render(self, task):
            return f"{task.speed:,.0f} images/s" if task.speed else "  - images/s"

    return progress.Progress(
        progress.TextColumn("{task.description}", markup=False), progress.BarColumn(bar_width=None),
        progress.TaskProgressColumn(), Speed(), progress.TimeRemainingColumn(),
        progress.TextColumn("{task.fields[note]}"), console=_console(), disable=not (shown and _redraws()),
        speed_estimate_period=10, transient=transient)


def waiting(title, verbose=1):
    """A context manager that shows a turning wheel in a terminal, for a wait whose length nobody knows."""
    if verbose != 1 or not _redraws():
        return contextlib.nullcontext()
    return _console().status(title)


def track(title, verbose=1):
    """A wrapper for a range of batch starts that shows a bar while one walks through it.

    Args:
        title: what is being done.
        verbose: 0 for no bar.

    Returns:
        function(range) -> generator of the range's numbers.
    """
    def walk(starts):
        with progress_bar(verbose > 0, transient=True) as bar:
            task = bar.add_task(title, total=starts.stop, note="")
            for start in starts:
                yield start
                bar.update(task, completed=min(start + starts.step, starts.stop))
    return walk


def encodable(text):
    """Text with what standard output can't encode written as escapes: a folder may have any name."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)


def say(text, verbose=1):
    """Prints a line, unless verbose is 0."""
    if verbose:
        print(encodable(text), flush=True)


def warn(text):
    """Prints a line on standard error, whatever --verbose is: a number may be wrong, or not what it seems."""
    print(f"warning: {text}", file=sys.stderr, flush=True)


def print_table(title, columns, rows, verbose=1):
    """Prints a table, in the form of `tables.layout` that fits the terminal.

    Args:
        title: shown above.
        columns: list of (heading, function of `tables` that turns the column's values into a unit and text); the first
            is set left, the others right.
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
    for line in lines:
        console.print(line, soft_wrap=True)


def millions(number):
    """A count in millions with at least four significant digits, such as '23.61 M' or '0.6047 M'."""
    return f"{number / 1e6:,.2f} M" if number >= 1e7 else f"{tables.significant(number / 1e6)} M"


def percent(share):
    """A share of 1 as per cent with two decimals, or '-' for None."""
    return "-" if share is None else f"{100 * share:.2f} %"


class EpochBar:
    """Progress of one fit: a bar over all epochs in a terminal, else a plain line an epoch.

    Args:
        title: what is being trained.
        images: training images an epoch.
        epochs: epochs in all.
        verbose: 0 nothing, 1 a bar in a terminal, 2 lines.
    """

    def __init__(self, title, images, epochs, verbose=1):
        self.title, self.images, self.epochs, self.verbose = title, images, epochs, verbose
        self.bar, self.task, self.drawn = progress_bar(verbose == 1), None, 0.0
        self.lines = verbose == 2 or (verbose == 1 and not _redraws())

    def start(self, epoch):
        """Opens the bar with `epoch` epochs behind it."""
        self.bar.start()
        self.task = self.bar.add_task(self.title, total=self.epochs * self.images, completed=epoch * self.images,
                                      note="")

    def step(self, epoch, images, logs):
        """`images` of an epoch (from 0) are done; logs holds Keras' running loss and accuracy."""
        now = time.monotonic()
        if now - self.drawn < 0.25 or self.bar.disable:  # reading the running loss makes the device wait
            return
        self.drawn = now
        note = f"epoch {epoch + 1}/{self.epochs}  loss {float(logs['loss']):.4f}"
        self.bar.update(self.task, completed=epoch * self.images + images, note=note)

    def epoch_end(self, epoch, values):
        """Epoch `epoch` (from 0) is done; values holds the history's numbers of this epoch."""
        line = (f"{self.title}: epoch {epoch + 1}/{self.epochs}  train loss {values['train_loss']:.4f}, "
                f"accuracy {percent(values['train_acc'])}  validation loss {values['val_loss']:.4f}, "
                f"accuracy {percent(values['val_acc'])}  {values['seconds']:.1f} s, "
                f"{self.images / values['seconds']:,.0f} images/s")
        if self.lines:
            print(line, flush=True)
        else:
            self.bar.update(self.task, completed=(epoch + 1) * self.images)

    def stop(self):
        """Closes the bar; the terminal may be gone."""
        with contextlib.suppress(OSError):
            self.bar.stop()
