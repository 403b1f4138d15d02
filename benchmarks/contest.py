"""Runs the processes of `worker.py` in alternating turns, so that drifts in the machine's speed affect all alike."""

import json
import os
import signal
import statistics
import subprocess
import sys
from pathlib import Path

WORKER = Path(__file__).parent / "worker.py"


class Contestant:
    """A process of `worker.py`, stopped but for its own turns: some libraries read ahead of what they are asked for.

    Args:
        words: its command line, such as ['step', '--library', 'torch'].

    Attributes:
        seconds: of one repetition, a number for each turn.
        peak_bytes: most memory that the process has used.
        facts: dict of other numbers that it printed before it was ready.
    """

    def __init__(self, words):
        # a group of its own, so that the processes that it starts are stopped with it
        self.process = subprocess.Popen(
            [sys.executable, str(WORKER), *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            process_group=0,
        )
        self.seconds, self.peak_bytes, self.facts = [], 0, {}
        while (line := self._line()) != "ready":
            self.facts |= json.loads(line)
        self._signal(signal.SIGSTOP)

    def _signal(self, number):
        os.killpg(self.process.pid, number)  # there until it is waited for, whether it has ended or not

    def _line(self):
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{' '.join(self.process.args[1:])} ended with status {self.process.wait()}")
        return line.strip()

    def turn(self, repeats):
        """Has the process repeat its work, and keeps the mean seconds of one repetition."""
        self._signal(signal.SIGCONT)
        self.process.stdin.write(f"{repeats}\n")
        self.process.stdin.flush()
        answer = json.loads(self._line())
        self._signal(signal.SIGSTOP)
        self.seconds.append(answer["seconds"] / repeats)
        self.peak_bytes = answer["peak_bytes"]

    def stop(self):
        """Ends the process."""
        self._signal(signal.SIGCONT)
        with self.process:  # closes its standard input, which ends it, and waits
            pass

    @property
    def median(self):
        """Median over the turns of the seconds of one repetition."""
        return statistics.median(self.seconds)


def contest(entries, repeats, turns):
    """Runs contestants in alternating turns.

    Args:
        entries: {name: command line of worker.py, a list of words}.
        repeats: repetitions in a turn.
        turns: number of turns of each contestant.

    Returns:
        {name: Contestant}, all stopped.
    """
    contestants = {name: Contestant(words) for name, words in entries.items()}
    # Every second round runs backwards. A contestant would otherwise always find the cache and the temperature that the
    # same neighbour leaves.
    for i in range(turns):
        for contestant in list(contestants.values())[:: 1 if i % 2 == 0 else -1]:
            contestant.turn(repeats)
    for contestant in contestants.values():
        contestant.stop()
    return contestants
