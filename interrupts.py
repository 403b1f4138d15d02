"""Signals that ask a run to end: Ctrl-C, SIGTERM, a closed terminal."""

import contextlib
import signal
import threading

from errors import Stopped

NUMBERS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


@contextlib.contextmanager
def _handling(handler):
    """Installs a handler of all three; does nothing in a thread, where Python takes no signals."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number in NUMBERS
              if signal.getsignal(number) is not signal.SIG_IGN}  # nohup
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)


def raising():
    """A context manager in which any of the signals raises errors.Stopped at once."""
    def stop(number, frame):
        raise Stopped(number)
    return _handling(stop)


class Deferred:
    """A context manager in which the first signal is only remembered, for the body to end in an orderly way.

    The second one raises errors.Stopped at once.

    Attributes:
        number: of the signal that came, or None.
    """

    def __init__(self):
        self.number = None

    def _remember(self, number, frame):
        if self.number is not None:
            raise Stopped(number)
        self.number = number

    def __enter__(self):
        self._held = _handling(self._remember)
        self._held.__enter__()
        return self

    def __exit__(self, *exc):
        return self._held.__exit__(*exc)
