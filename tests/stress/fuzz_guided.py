"""Coverage-guided hostile files (atheris) for the readers that are Python all through: pickled CIFAR and histories.

    python tests/stress/fuzz_guided.py {pickle,history} SEED_FOLDER -runs=20000

`make torture` runs it. atheris writes what it found interesting into the seed folder, and a crash beside it.
"""

import sys
import tempfile
from pathlib import Path

import atheris

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT)]
with atheris.instrument_imports(include=["pickle", "stock", "records", "json"]):
    from compress.data import stock
    from compress.errors import InputError
    from compress.storage import records

FOLDER = Path(tempfile.mkdtemp(prefix="guided-"))


def read_pickle(data):
    """stock.read_batch."""
    path = FOLDER / "data_batch_1"
    path.write_bytes(data)
    stock.read_batch(path, b"labels", 10)


def read_history(data):
    """records.read_history."""
    path = FOLDER / "history.json"
    path.write_bytes(data)
    records.read_history(path)


READERS = {"pickle": read_pickle, "history": read_history}


def main():
    """Hands one reader to atheris, which ends the process."""
    read = READERS[sys.argv.pop(1)]

    def once(data):
        before = len(list(FOLDER.iterdir()))
        try:
            read(data)
        except InputError as error:
            assert "\n" not in str(error)
        assert len(list(FOLDER.iterdir())) in (before, 1), "a file was written"

    atheris.Setup(sys.argv, once)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
