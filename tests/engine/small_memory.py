"""Runs a script in a process whose memory holds 2 kB of images: `python small_memory.py OUT SCRIPT [FLAGS]`.

It takes a folder of one file for a large one, of which answers are kept. Into OUTn.txt it writes what process n does to
the folder of the cache, a line each: 'lock' and its file, 'decode' and an image, 'keep' and an answer.
"""

import importlib
import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[2])]


def listen(out):
    """Writes down from here on what this process does."""
    import filelock

    from compress.cli import configs
    from compress.data import dataset, decoding, known, reading
    from compress.engine import processes
    from compress.storage import records

    reading.HELD, known.MANY = 2048, 1
    assert configs and dataset  # all that holds these functions under their names is imported

    def told(word, function):
        def call(*arguments, **more):
            first = arguments[0].lock_file if word == "lock" else arguments[0]
            if word != "keep" or Path(first).parent.name == known.FOLDER:
                with open(f"{out}{processes.rank()}.txt", "a") as file:
                    file.write(f"{word} {first}\n")
            return function(*arguments, **more)

        return call

    decoding.decode = told("decode", decoding.decode)
    records.write_json = told("keep", records.write_json)
    filelock.FileLock.acquire = told("lock", filelock.FileLock.acquire)


if __name__ == "__main__":
    listen(sys.argv[1])
    script = importlib.import_module(sys.argv[2])
    sys.argv[:3] = [f"{sys.argv[2]}.py"]
    sys.exit(script.main())
