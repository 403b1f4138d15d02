"""Lets contestants of `worker.py` take turns, so that a machine whose speed drifts is as fair to each."""

import json
import statistics
import subprocess
import sys
from pathlib import Path

WORKER = Path(__file__).parent / "worker.py"


class Contestant:
    """A worker process.

    Args:
        words: its command line, such as ['step', '--library', 'torch'].
    """

    def __init__(self, words):
        self.process = subprocess.Popen([sys.executable, str(WORKER), *words], stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, text=True)
        self.seconds, self.peak_bytes, self.facts = [], 0, {}
        while (line := self._line()) != "ready":
            self.facts |= json.loads(line)  # what it has to say of itself

    def _line(self):
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{' '.join(self.process.args[1:])} ended with status {self.process.wait()}")
        return line.strip()

    def turn(self, repeats):
        """Lets it work; keeps the seconds of one repetition."""
        self.process.stdin.write(f"{repeats}\n")
        self.process.stdin.flush()
        answer = json.loads(self._line())
        self.seconds.append(answer["seconds"] / repeats)
        self.peak_bytes = answer["peak_bytes"]

    def stop(self):
        """Ends the process."""
        self.process.stdin.close()
        self.process.wait()

    @property
    def median(self):
        """Median seconds of a repetition over the turns."""
        return statistics.median(self.seconds)


def contest(entries, repeats, turns):
    """Runs contestants in alternating turns.

    Args:
        entries: {name: words}.
        repeats: repetitions a turn.
        turns: of each.

    Returns:
        {name: Contestant}, all stopped.
    """
    contestants = {name: Contestant(words) for name, words in entries.items()}
    for i in range(turns):  # every second round backwards: nobody always runs behind the same neighbour
        for contestant in list(contestants.values())[::1 if i % 2 == 0 else -1]:
            contestant.turn(repeats)
    for contestant in contestants.values():
        contestant.stop()
    return contestants
