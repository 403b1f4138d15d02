"""The runs of a sweep as processes of this machine: some at a time, one's failure not another's. Imports no Keras."""

import contextlib
import dataclasses
import os
import subprocess
import sys
import time
from pathlib import Path

from compress.errors import InputError
from compress.storage import records
from compress.sweeps.specs import TRAINS

ROOT = Path(__file__).resolve().parents[2]  # where the scripts lie
PAUSE = 0.05  # seconds between two looks at the processes


@dataclasses.dataclass
class Job:
    """A run that is at work.

    Attributes:
        run: a plans.Run.
        process: a subprocess.Popen.
        log: path of what it prints, or None where it prints here.
        slot: its number among those at work, from 0.
        began: by time.monotonic.
    """

    run: object
    process: subprocess.Popen
    log: Path | None
    slot: int
    began: float


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


def start(run, log=None, slot=0):
    """Starts a run.

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


def last_line(log):
    """The last line of a log that isn't empty, or ''."""
    with contextlib.suppress(OSError):
        lines = [line for line in Path(log).read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
        return lines[-1] if lines else ""
    return ""


def log_of(run, folder):
    """Path of a run's log in the folder of a sweep: apart from its own, where it looks for what it saved."""
    name = os.path.relpath(run.folder, folder).replace(f"..{os.sep}", "").replace(os.sep, "_")
    return Path(folder) / "logs" / f"{name}.log"


def make(runs, count, logs, tell):
    """Makes all runs that aren't finished, each when those that it starts from are.

    Args:
        runs: list of plans.Run, each behind those that it starts from; of others it is taken that they are finished.
        count: how many are at work at a time.
        logs: folder of a sweep, below which what they print is kept; None to print here, one at a time.
        tell: function(run, state, seconds, line): called as a run reaches the state 'started', 'there' (finished
            before), 'finished', 'failed' or 'left out' (what it starts from failed); `line` is the last one of its log.

    Returns:
        {folder of a run: its last state}.
    """
    states, waiting, jobs = {}, list(runs), []
    mine = {run.folder for run in runs}

    def reach(run, state, seconds=0.0, line=""):
        states[run.folder] = state
        tell(run, state, seconds, line)

    try:
        while waiting or jobs:
            for run in list(waiting):
                needs = {states.get(other.folder) for other in run.before.values() if other.folder in mine}
                if needs & {"failed", "left out"}:
                    waiting.remove(run)
                    reach(run, "left out")
                elif needs <= {"finished", "there"} and len(jobs) < count:
                    waiting.remove(run)
                    if is_finished(run):
                        reach(run, "there")
                        continue
                    reach(run, "started")
                    slot = min({*range(count)} - {job.slot for job in jobs})
                    jobs.append(start(run, log_of(run, logs) if logs else None, slot))
            for job in [job for job in jobs if job.process.poll() is not None]:
                jobs.remove(job)
                state = "failed" if job.process.returncode else "finished"
                reach(job.run, state, time.monotonic() - job.began, last_line(job.log) if job.log else "")
            time.sleep(PAUSE if jobs else 0)
    finally:
        stop(jobs)  # none is left but where a signal or a defect ended the loop
    return states
