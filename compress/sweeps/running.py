"""The runs of a sweep as processes of this machine: some at a time, one's failure not another's. Imports no Keras."""

import contextlib
import ctypes
import dataclasses
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from compress.errors import InputError
from compress.storage import files, records
from compress.sweeps.specs import BESIDE, LOGS, TRAINS

ROOT = Path(__file__).resolve().parents[2]  # where the scripts lie
PAUSE = 0.05  # seconds between two looks at the processes
PR_SET_PDEATHSIG = 1  # of Linux' prctl: the signal that a process gets at its parent's end
_system = ctypes.CDLL(None) if sys.platform == "linux" else None  # loaded here: a forked child may load nothing


@dataclasses.dataclass
class Job:
    """A run that is at work.

    Attributes:
        run: a plans.Run.
        process: a subprocess.Popen.
        log: path of what it prints, or None where it prints here.
        slot: its number among those at work, from 0.
        began: by time.monotonic.
        lock: of `take`, which is let go behind the process; None where the caller holds it.
    """

    run: object
    process: subprocess.Popen
    log: Path | None
    slot: int
    began: float
    lock: object = None


def is_finished(run):
    """Whether a run's record says that this very command made it, and nothing that it starts from is newer.

    Where that is in doubt its script decides, which says in half a second whether it is finished: it compares the
    checksums of models, and flags by what they mean.
    """
    try:
        found = records.read_json(run.record)
        made = run.record.stat().st_mtime_ns
        older = all(other.record.stat().st_mtime_ns <= made for other in run.before.values())
    except (InputError, OSError):
        return False
    record = found.get("run")
    return (
        isinstance(record, dict)
        and record.get("argv") == [run.script, *run.words]
        and found.get("finished") is not False
        and not (run.script in TRAINS and (Path(run.folder) / records.STATE).exists())
        and older
    )


def take(run):
    """Takes a run for this process, so that no other sweep or process of a search makes it.

    Args:
        run: a plans.Run.

    Returns:
        A lock, which ends with this process, or None where another process is at work on the run.
    """
    import filelock

    path = lock_of(run)
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(path, blocking=False)
    try:
        lock.acquire()
    except filelock.Timeout:
        return None
    if files.is_held(run.folder):  # by a run that was started by hand, or whose sweep was killed and that still saves
        lock.release()
        return None
    return lock


def _end_with(parent):
    """A function for a new child: on Linux it gets SIGTERM as `parent`, which starts it, ends, however that ends."""

    def bind():
        _system.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # it ended before
            os._exit(128 + signal.SIGTERM)

    return bind if _system else None


def start(run, log=None, slot=0):
    """Starts a run, which saves and ends where this process does.

    Args:
        run: a plans.Run.
        log: path of a file for what it prints, or None to print here.
        slot: its number among those at work at a time: of several accelerators that CUDA_VISIBLE_DEVICES lists each
            takes one.

    Returns:
        A Job.
    """
    environment, devices = dict(os.environ), os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    if log and len(devices) > 1:  # one run at a time may have them all
        environment["CUDA_VISIBLE_DEVICES"] = devices[slot % len(devices)]
    with contextlib.ExitStack() as stack:
        output = None
        if log:
            log = Path(log)
            log.parent.mkdir(parents=True, exist_ok=True)
            output = stack.enter_context(open(log, "ab"))
        process = subprocess.Popen(
            [sys.executable, str(ROOT / run.script), *run.words],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT if log else None,
            env=environment,
            process_group=0,  # of its own: Ctrl-C reaches it once, from `stop`, and not from the terminal as well
            preexec_fn=_end_with(os.getpid()),  # noqa: PLW1509 - two system calls, which take no lock of a thread
        )
    return Job(run, process, log, slot, time.monotonic())


def stop(jobs):
    """Asks runs to end, each of which saves its state, and waits for them; another signal meanwhile ends them at once.

    Args:
        jobs: list of Job.
    """
    try:
        for job in jobs:
            job.process.terminate()
        for job in jobs:
            job.process.wait()
    except KeyboardInterrupt:
        for job in jobs:
            job.process.kill()  # every file is whole at any moment
            job.process.wait()
        raise
    finally:
        for lock in [job.lock for job in jobs if job.lock]:
            lock.release()


def last_line(log):
    """The last line of a log that isn't empty, or ''."""
    with contextlib.suppress(OSError):
        lines = [line for line in Path(log).read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
        return lines[-1] if lines else ""
    return ""


def why_failed(job):
    """Why a run that has ended is not finished, as one line; '' where it is, None where it has said so itself."""
    status, record = job.process.returncode, job.run.record
    if status < 0:
        name = signal.Signals(-status).name if -status in {*signal.Signals} else f"signal {-status}"
        return f"ended by {name}{', as where memory runs out' if name == 'SIGKILL' else ''}"
    if status == 0:
        return "" if record.exists() else f"ended with status 0 and left no {record}; expected one"
    return (last_line(job.log) or f"status {status}") if job.log else None


def is_refused(job):
    """Whether a run that failed was refused as its folder holds another one: the same command would fail again.

    That is a finished one, of other flags or from another model, or an unfinished one of another command.
    """
    run = job.run
    if job.process.returncode != 2 or run.script not in TRAINS:
        return False
    for name in ("result.json", "history.json"):
        with contextlib.suppress(InputError, OSError):
            found = records.read_json(Path(run.folder) / name)
            made = found.get("run")
            whole = name == "result.json" and found.get("finished") is not False
            if whole and not (Path(run.folder) / records.STATE).exists():
                return True
            if isinstance(made, dict) and made.get("argv") != [run.script, *run.words]:
                return True
    return False


def lock_of(run):
    """Path of a run's lock: beside its folder, where every sweep finds it that the run belongs to."""
    folder = Path(run.folder)
    return folder.parent / f".{folder.name}.lock"


def log_of(run, folder):
    """Path of a run's log in the folder of a sweep: apart from its own, where it looks for what it saved."""
    first, *rest = os.path.relpath(run.folder, folder).split(os.sep)
    path = Path(folder, LOGS, BESIDE if first == os.pardir else first, *rest)
    return path.with_name(f"{path.name}.log")


def make(runs, count, folder, tell, logged=True):
    """Makes all runs that aren't finished, each when those that it starts from are.

    One that another process is at work on is waited for, and then made further where that left it unfinished.

    Args:
        runs: list of plans.Run, each behind those that it starts from; of others it is taken that they are finished.
        count: how many are at work at a time.
        folder: of the sweep, see `log_of`.
        tell: function(run, state, seconds, line): called as a run reaches the state 'started', 'busy' (of another
            process), 'there' (finished before), 'finished', 'failed', 'refused' (likewise, see `is_refused`) or
            'left out' (what it starts from failed); `line` says why it failed, unless it has printed that here.
        logged: whether what they print is kept in logs; else it is printed here, one at a time.

    Returns:
        {folder of a run: its last state}.
    """
    states, waiting, jobs = {}, list(runs), []
    mine = {run.folder for run in runs}

    def reach(run, state, seconds=0.0, line=""):
        states[run.folder] = state
        tell(run, state, seconds, line)

    def begin(run):
        if is_finished(run):
            return reach(run, "there")
        lock = take(run)
        if lock is None:
            return states.get(run.folder) == "busy" or reach(run, "busy")
        if is_finished(run):  # by another process, since the first look
            lock.release()
            return reach(run, "there")
        reach(run, "started")
        slot = min({*range(count)} - {job.slot for job in jobs})
        jobs.append(start(run, log_of(run, folder) if logged else None, slot))
        jobs[-1].lock = lock

    try:
        while waiting or jobs:
            for run in list(waiting):
                needs = {states.get(other.folder) for other in run.before.values() if other.folder in mine}
                if needs & {"failed", "refused", "left out"}:
                    reach(run, "left out")
                elif needs <= {"finished", "there"} and len(jobs) < count:
                    begin(run)
            waiting = [run for run in waiting if states.get(run.folder, "busy") == "busy"]
            for job in [job for job in jobs if job.process.poll() is not None]:
                jobs.remove(job)
                job.lock.release()
                why = why_failed(job)
                state = "finished" if why == "" else "refused" if is_refused(job) else "failed"
                reach(job.run, state, time.monotonic() - job.began, why or "")
            time.sleep(PAUSE if jobs or "busy" in states.values() else 0)
    finally:
        stop(jobs)  # none is left but where a signal or a defect ended the loop
    return states
