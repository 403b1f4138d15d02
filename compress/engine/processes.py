"""Several processes that compute one run together, on one host or on many, by jax.distributed.

Each of them runs the same command on its own devices and holds the same weights. Process 0 coordinates: it alone locks
the run's folder, writes and prints. All others must be at the same place of the program, since what one computes waits
for its part of the numbers of all.

A process that dies would leave the others waiting. The coordinator hears of it by a missing heartbeat and ends them
all, from native code, where no Python runs any more. So that a person is told how to go on nevertheless, each process
has a small watcher beside it, which prints a line when the process ends without having said that it is done.
"""

import atexit
import contextlib
import hashlib
import ipaddress
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time

from compress.errors import InputError, one_line

HEARTBEAT = 20  # seconds without a sign of life behind which a process counts as dead
PATIENCE = 120  # seconds in which all processes have to come
SHUTDOWN = 300  # seconds in which all of them have to be done, behind the first that is
PULSE = 3  # seconds from one word to the next of a process that the others wait for
LEAVING = 3  # seconds in which the others end, before process 0 does: its end would end them from native code
WAITING, AT_WORK, DONE, NOTHING, FAILED = range(5)  # what a process says; from DONE on it has ended its turn

# Waits for the end of its standard input, which the process that started it holds: it ends with that process, however
# that ends. A word on it says that all is well.
WATCHER = """
import signal, sys
for name in ("SIGINT", "SIGTERM", "SIGHUP"):
    signal.signal(getattr(signal, name), signal.SIG_IGN)
if not sys.stdin.buffer.read():
    sys.stderr.write(sys.argv[1] + "\\n")
"""

_team = [0, 1]  # the number of this process, from 0, and how many there are
_joined = []  # True behind `join`: there may be one process in all
_watcher = []


def rank():
    """The number of this process, from 0."""
    return _team[0]


def count():
    """How many processes compute the run."""
    return _team[1]


def has_joined():
    """Whether `join` has found the other processes of the run, which may be none."""
    return bool(_joined)


def is_main():
    """Whether this process is the one that writes and prints."""
    return _team[0] == 0


def asked(config):
    """Whether a config asks for several processes.

    Args:
        config: a cli.configs.MachineConfig.

    Raises:
        InputError: it says only half of what that takes.
    """
    given = {name: getattr(config, name) for name in ("coordinator", "num_processes", "process_id")}
    missing = [name for name, value in given.items() if value is None]
    if config.distributed and len(missing) < len(given):
        name = next(name for name in given if name not in missing)
        raise InputError(
            f"`{name}`: received {given[name]} beside `distributed`, which finds all that out; expected one of them"
        )
    if len(missing) == len(given):
        return config.distributed
    if missing:
        there = next(name for name in given if name not in missing)
        raise InputError(
            f"`{missing[0]}`: not given beside `{there}={given[there]}`; expected `coordinator`, `num_processes` and "
            "`process_id` together"
        )
    if not 0 <= config.process_id < config.num_processes:
        raise InputError(
            f"`process_id`: received {config.process_id}, expected 0 to {config.num_processes - 1}, as there are "
            f"`num_processes={config.num_processes}`"
        )
    return True


def join(config):
    """Joins the other processes of a run, where a config asks for several; once in a process.

    JAX is imported here and no array made yet: the devices of all processes are known behind it.

    Args:
        config: a cli.configs.MachineConfig.

    Raises:
        InputError: the coordinator can't be reached, not all processes came, or nothing announces any.
    """
    if not asked(config) or _joined:
        return
    # Python calls what was registered first last: a process may be lost while JAX waits for the others at the end
    atexit.register(done)
    import jax

    if config.coordinator:
        _check_address(config.coordinator, config.process_id)
    jax.config.update("jax_enable_preemption_service", False)  # it would take SIGTERM, which the run answers itself
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    failed = []

    def initialize():
        try:
            jax.distributed.initialize(
                config.coordinator,
                config.num_processes,
                config.process_id,
                initialization_timeout=PATIENCE,
                heartbeat_timeout_seconds=HEARTBEAT,
                shutdown_timeout_seconds=SHUTDOWN,
                coordinator_bind_address=_bound(config.coordinator),
            )
        except BaseException as error:  # of several kinds
            failed.append(error)

    # native code waits for the others; a signal reaches Python's main thread only where that one doesn't
    thread = threading.Thread(target=initialize, daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(0.2)
    if failed:
        raise _not_joined(config, failed[0]) from None
    _team[:] = jax.process_index(), jax.process_count()
    _joined.append(True)


def _check_address(address, process_id):
    """Raises InputError where the coordinator's address can't be had: JAX would end the process from native code."""
    host, port = address.rsplit(":", 1)
    host, due = host.strip("[]"), time.monotonic() + PATIENCE
    if process_id == 0:
        try:
            family = socket.getaddrinfo(host, int(port), type=socket.SOCK_STREAM)[0][0]
            with socket.socket(family, socket.SOCK_STREAM) as trial:
                trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                trial.bind(("", int(port)))
        except OSError as error:
            raise InputError(
                f"`coordinator`: received {address}, where process 0 can't listen ({error.strerror or error}); "
                "expected an address of this host and a free port"
            ) from None
        return
    while True:
        try:
            socket.create_connection((host, int(port)), timeout=5).close()
            return
        except OSError as error:
            if time.monotonic() > due:
                raise InputError(
                    f"`coordinator`: received {address}, where nothing answered in {PATIENCE} s "
                    f"({error.strerror or error}); expected the address of process 0, and that process at work"
                ) from None
        time.sleep(0.2)


def _bound(address):
    """Where process 0 listens: at a loopback address at that alone, else, as JAX does, at all of its addresses."""
    if address is None:
        return None
    host = address.rsplit(":", 1)[0].strip("[]")
    with contextlib.suppress(ValueError):
        return address if ipaddress.ip_address(host).is_loopback else None
    return None


def _not_joined(config, error):
    """What to say where jax.distributed.initialize failed."""
    import jax

    if config.distributed and isinstance(error, (ValueError, KeyError)):
        return InputError(
            f"`distributed`: nothing here announces the processes of a run ({one_line(error):.100}); expected a job of "
            "Slurm, Open MPI, or Kubernetes with the package kubernetes, or `coordinator`, `num_processes` and "
            "`process_id`"
        )
    # JAX's own kind of error is a team that didn't meet; of any other kind are the answers of a cluster that it asks
    if config.distributed and not isinstance(error, jax.errors.JaxRuntimeError):
        return InputError(
            f"`distributed`: received no word of which processes this job has ({one_line(error):.100}); expected, in "
            'Kubernetes, a Job with `completionMode: "Indexed"`, a headless service as its subdomain, and an account '
            "that may read pods, jobs and services, or `coordinator`, `num_processes` and `process_id`"
        )
    return InputError(absent(config, f" ({one_line(error):.200})"))


def absent(config, why=""):
    """What to say where not all processes of a MachineConfig came in time."""
    name = "distributed" if config.distributed else "num_processes"
    of_all = f"received {config.num_processes}, but " if config.num_processes else ""
    return (
        f"`{name}`: {of_all}not all processes came within {PATIENCE} s{why}; expected each of them started with the "
        "same command but its own number"
    )


# ---- what the processes say to each other ------------------------------------------------------------------------


def meet(name):
    """Waits until all processes are here."""
    if _team[1] > 1:
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices(name)


class _Talk(threading.Thread):
    """Tells the others every PULSE seconds what this process is at, until all have ended their turns or one has failed.

    Then a process that is still at work is interrupted, as by Ctrl-C. A single operation in which all waited for the
    slowest would fail behind a time of its own, and no signal could end it.

    Attributes:
        first: an Event: process 0 has ended its turn, or `said` is the last word.
        said: list of what each process said last.
        error: what ended it where another process is lost, or None.
    """

    def __init__(self):
        super().__init__(daemon=True)
        self.first, self.said, self.error = threading.Event(), [WAITING] * count(), None
        self._word, self._ended = AT_WORK if is_main() else WAITING, threading.Event()

    def run(self):
        import numpy as np

        try:
            # all have the same words, and so all of them stop behind the same round
            while min(self.said) < DONE and FAILED not in self.said:
                if self._word == AT_WORK:
                    self._ended.wait(PULSE)
                self.said = gathered(np.int32(self._word)).tolist()
                if self.said[0] >= DONE:
                    self.first.set()
        except Exception as error:  # another process is lost
            self.error = error
        finally:
            self.first.set()
            if FAILED in self.said and self._word == AT_WORK:
                signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    def say(self, word):
        """What this process is at from now on; behind the end of its turn, waits for the others."""
        self._word = word
        if word >= DONE:
            self._ended.set()
            self.join()


def in_turn(function):
    """function() in process 0, and behind its end in the others, which then find the files that it has written.

    Where it gives None in process 0 the others don't call it, and have None too. It talks to no other process. It may
    take as long as it likes, and all go on together.

    Returns:
        What it gives in this process.

    Raises:
        InputError: it failed in another process, which says why.
    """
    if _team[1] == 1:
        return function()
    talk, found = _Talk(), None
    talk.start()
    try:
        if not is_main():
            talk.first.wait()
        if is_main() or talk.said[0] == DONE:
            talk.say(AT_WORK)
            found = function()
        talk.say(NOTHING if found is None else DONE)
    except BaseException:
        talk.say(FAILED)
        _end_turns(talk)
        raise
    if talk.error:
        raise talk.error
    _end_turns(talk)
    return found


def _end_turns(talk):
    """Raises InputError where another process has failed; process 0 leaves last."""
    if FAILED in talk.said:
        if is_main():
            time.sleep(LEAVING)
        if talk.said[rank()] != FAILED:
            raise InputError(
                f"process {talk.said.index(FAILED)} of this run has failed or was stopped, and says why; expected all "
                "of them started again when that is set right"
            )


def gathered(array):
    """An array of each process, of equal shapes, as one array (processes, ...) that all of them have.

    As bytes: JAX would make 32 bits of 64.
    """
    import numpy as np

    array = np.asarray(array)
    if _team[1] == 1:
        return array[None]
    from jax.experimental import multihost_utils

    found = multihost_utils.process_allgather(np.frombuffer(array.tobytes(), np.uint8))
    return np.frombuffer(np.asarray(found, np.uint8).tobytes(), array.dtype).reshape(_team[1], *array.shape)


def summed(array):
    """The sum of an array of each process; of whole numbers exact."""
    return gathered(array).sum(0)


def of_main(value):
    """What process 0 has for a value that JSON can hold: what follows from it is then the same in all processes.

    Logits are equal to the last bit, and arithmetic on them is on equal processors; a choice must not hang on that.
    """
    if _team[1] == 1:
        return value
    import numpy as np

    text = json.dumps(value).encode() if is_main() else b""
    length = int(summed(np.int64(len(text))))
    return json.loads(gathered(np.frombuffer(text.ljust(length), np.uint8))[0].tobytes())


def check_same(value, text):
    """Raises InputError, in all processes, where a value that JSON can hold isn't the same in all of them.

    Args:
        value: anything that `json.dumps` takes.
        text: of the error.
    """
    if _team[1] == 1:
        return
    import numpy as np

    digest = hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).digest()
    digests = gathered(np.frombuffer(digest, np.uint8))
    odd = [i for i in range(1, _team[1]) if (digests[i] != digests[0]).any()]
    if odd:
        raise InputError(f"{text} (process {odd[0]} has others than process 0)")


def is_loss(error):
    """Whether an exception says that another process can't be reached any more.

    JAX has no class for it: what the libraries of collectives say comes as an error of the runtime, or of a value.
    """
    words = ("gloo", "nccl", "connection", "socket", "unavailable", "coordination")
    while error is not None:
        kind, text = type(error).__name__, str(error).lower()
        if kind in ("JaxRuntimeError", "XlaRuntimeError") and "resource_exhausted" not in text:
            return True
        if kind in ("ValueError", "RuntimeError") and any(word in text for word in words):
            return True
        error = error.__cause__ or error.__context__
    return False


# ---- the end -----------------------------------------------------------------------------------------------------


def watch(lost):
    """Starts the watcher.

    Args:
        lost: the line that it prints where this process ends without `done`.
    """
    process = subprocess.Popen([sys.executable, "-c", WATCHER, lost], stdin=subprocess.PIPE, start_new_session=True)
    _watcher.append(process)


def done():
    """Tells the watcher that this process ends as it should."""
    while _watcher:
        with contextlib.suppress(OSError, ValueError, subprocess.TimeoutExpired):
            _watcher.pop().communicate(b"done", timeout=5)


def leave(status):
    """Ends this process at once, with no word to the others: they would be waited for, and wait themselves.

    They end by its missing heartbeat.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    done()
    os._exit(status)
