"""The command line: flags, what a person sees, how a run begins and ends."""

import os
import signal
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.realpath(__file__))))


def _without_traceback(kind, error, trace, other=sys.excepthook):
    """Python's last word on an exception: one line for Ctrl-C, whatever it was before for all else."""
    if not issubclass(kind, KeyboardInterrupt):
        other(kind, error, trace)
    elif sys.stderr is not None:
        number = getattr(error, "number", signal.SIGINT)  # of an errors.Stopped
        print(f"{os.path.basename(sys.argv[0])}: stopped by {signal.Signals(number).name}", file=sys.stderr)


# A script needs a moment for its own imports, before `signals.raising` can answer a Ctrl-C. This package is the first
# that it imports. Programs of others keep their tracebacks.
if os.path.dirname(os.path.realpath(getattr(sys.modules["__main__"], "__file__", None) or "")) == ROOT:
    sys.excepthook = _without_traceback
