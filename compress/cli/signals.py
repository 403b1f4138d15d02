"""Signals that ask a run to end: Ctrl-C, SIGTERM, a closed terminal."""

import contextlib
import math
import os
import signal
import socket
import sys
import threading
import time

from compress.cli import messages
from compress.errors import Stopped

NUMBERS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
PATIENCE = 0.7  # seconds in which a run that saves nothing should end by itself
ECHO = 0.1  # seconds behind a signal in which another is the same: `timeout` and terminals send one twice at times
_listening = set()  # file numbers of ours that signals are written to
_asked = [-math.inf]  # when the last signal was handled that was no echo, by time.monotonic


def _is_echo():
    """Whether the signal that is handled now is a repeat of one that was handled a moment ago."""
    now = time.monotonic()
    echo = now - _asked[0] < ECHO
    _asked[0] = _asked[0] if echo else now
    return echo


@contextlib.contextmanager
def _handling(handler, patience, words):
    """Installs a handler of all three, and a thread that answers; does nothing in a thread, where there are no signals.

    A handler in Python has to wait until the main thread is done with what native code computes for it, which is
    minutes where a large network is compiled. The thread answers meanwhile, and where a second signal (no echo of the
    first) comes and still nothing happens, it ends the process: every file is whole at any moment, as `files.replacing`
    writes it.

    Args:
        handler: function(number, frame).
        patience: seconds from the first signal to the answer.
        words: what is said behind the signal's name.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {}
    try:
        for number in NUMBERS:  # one may come before the last of them is known
            if signal.getsignal(number) is not signal.SIG_IGN:  # nohup
                before[number] = signal.getsignal(number)
                signal.signal(number, handler)
        with _answering(set(before), patience, words):
            yield
    finally:
        time.sleep(max(0.0, _asked[0] + ECHO - time.monotonic()))  # an echo would find nobody to pass over it
        for number, old in before.items():
            signal.signal(number, old)


@contextlib.contextmanager
def _answering(numbers, patience, words):
    """A thread that says `words` when one of the signals comes, and ends the process when another follows."""
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    outer = signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
    if outer not in (-1, *_listening):  # an event loop's, as in a notebook: it has to hear its signals
        signal.set_wakeup_fd(outer)
        ours.close()
        theirs.close()
        yield
        return
    _listening.add(theirs.fileno())
    with _voice() as say:
        thread = threading.Thread(target=_listen, args=(ours, numbers, patience, words, say), daemon=True)
        thread.start()
        try:
            yield
        finally:
            signal.set_wakeup_fd(outer)
            _listening.discard(theirs.fileno())
            theirs.close()
            thread.join()
            ours.close()


def _listen(ours, numbers, patience, words, say):
    """What the thread does: reads signals until the other end is closed, and tells the time of each as it comes."""
    first, again, reported = None, None, False  # (when, number) of the first and of another; whether a line said so
    while True:
        due = first[0] + patience if first and not reported else again[0] + PATIENCE if again else None
        ours.settimeout(None if due is None else max(due - time.monotonic(), 1e-3))
        try:
            received = ours.recv(1)
        except TimeoutError:
            if reported:
                say(f"{signal.Signals(again[1]).name} once more: ended at once")
                os._exit(128 + again[1])
            say(f"{signal.Signals(first[1]).name}: {words}")
            reported = True
            continue
        if not received:
            return
        if received[0] in numbers:
            heard = (time.monotonic(), received[0])
            if first is None:
                first = heard
            elif again is None and heard[0] - first[0] >= ECHO:
                again = heard


@contextlib.contextmanager
def _voice():
    """Yields a function(line) that writes on standard error as that is now, whoever redirects it later."""
    stream = sys.stderr
    try:
        number = os.dup(stream.fileno())
    except (OSError, AttributeError, ValueError):  # a notebook's stream has no file
        yield lambda line: print(line, file=stream, flush=True)
        return

    def say(line):
        with contextlib.suppress(OSError):  # the terminal may be gone
            bar = "\n" if os.isatty(number) else ""  # one stands there
            os.write(number, f"{bar}{messages.wrapped(line, number)}\n".encode())

    try:
        yield say
    finally:
        os.close(number)


def raising():
    """A context manager in which any of the signals raises errors.Stopped at once."""

    def stop(number, frame):
        if not _is_echo():
            raise Stopped(number)

    return _handling(stop, PATIENCE, "ending as soon as what is being computed is done; once more ends at once")


class Deferred:
    """A context manager in which the first signal is only remembered, for the body to end in an orderly way.

    The second one raises errors.Stopped at once.

    Attributes:
        number: of the signal that came, or None.
    """

    def __init__(self):
        self.number = None

    def _remember(self, number, frame):
        if _is_echo():
            return
        if self.number is not None:
            raise Stopped(number)
        self.number = number

    def __enter__(self):
        self._held = _handling(
            self._remember,
            0.0,
            "the state is saved as soon as the step at work is done, then the run ends; once more ends it at once",
        )
        self._held.__enter__()
        return self

    def __exit__(self, *exc):
        return self._held.__exit__(*exc)
