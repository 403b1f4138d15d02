#!/usr/bin/env python3
"""The long tests of `make torture`: real processes killed at random moments, hostile files by the ten thousand.

It prints what it counted, and ends with status 1 where anything was lost or anything but a plain refusal happened.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
DIGITS = [
    "--dataset",
    "digits",
    "--subset",
    "120",
    "--val_split",
    "0.2",
    "--batch_size",
    "16",
    "--deterministic",
    "--save_minutes",
    "0",
    "--verbose",
    "2",
]
# script: its flags, the flag of the folder that it writes to
SCRIPTS = {
    "train_base_model": (["--model_path", "{base}", "--epoch_num", "6"], "--save_folder"),
    "prune_model": (
        ["--base_model_path", "{base}", "--prune_iter", "4", "--prune_ratio", "0.1", "--epoch_num", "1"],
        "--root_folder",
    ),
    "knowledge_distillation": (
        ["--root_folder", "{base}", "--stream_divisor", "2", "--epoch_num", "4", "--regressor_name", "conv1x1"],
        "--save_folder",
    ),
}


def command(script, folder, base):
    """The words that run a script on a few of scikit-learn's digits, from a narrow network, into `folder`."""
    words, flag = SCRIPTS[script]
    return [
        sys.executable,
        str(ROOT / f"{script}.py"),
        *[word.format(base=base) for word in words],
        *DIGITS,
        flag,
        str(folder),
    ]


def write_base(path):
    """A narrow ResNet50 with random weights."""
    import resnets
    from conftest import narrow_widths

    from compress.storage import checkpoints

    checkpoints.save_model(resnets.build_resnet(widths=narrow_widths(20, 24, 8)), path)


def without_times(value):
    """A record without what differs between two equal runs: times, paths and commands."""
    if isinstance(value, dict):
        return {
            key: without_times(v)
            for key, v in value.items()
            if key not in ("seconds", "run", "sha256", "bytes", "checkpoint")
        }
    return value


def contents(folder):
    """{name: what must be equal} of all files of a finished run."""
    import h5py

    found = {}
    for path in sorted(p for p in Path(folder).rglob("*") if p.is_file()):
        name = str(path.relative_to(folder))
        if path.suffix == ".h5":
            found[name], arrays = {}, found.setdefault(name, {})
            with h5py.File(path) as file:
                file["model_weights"].visititems(
                    lambda key, item, arrays=arrays: (
                        arrays.update({key: np.asarray(item).tobytes()}) if isinstance(item, h5py.Dataset) else None
                    )
                )
            found[name] = arrays
        elif path.suffix == ".npz":
            with np.load(path) as arrays:
                found[name] = {key: arrays[key].tobytes() for key in arrays}
        elif path.suffix == ".json":
            found[name] = without_times(json.loads(path.read_text(encoding="utf-8")))
        else:
            found[name] = path.stat().st_size > 0  # a figure
    return found


def readable(folder):
    """Opens every file that a killed run left under its final name; returns how many there were."""
    from compress.storage import opening, records

    count = 0
    for path in Path(folder).rglob("*"):
        if path.name.startswith((".partial-", ".lock", ".next")) or not path.is_file():
            continue
        count += 1
        if path.suffix == ".h5":
            opening.load_network(path)
        elif path.suffix == ".json":
            records.read_json(path)
        elif path.suffix == ".npz":
            with np.load(path) as arrays:
                assert all(arrays[key] is not None for key in arrays)
    return count


def killed_once(words, folder, rng, log):
    """Starts a run and kills it at a random moment; returns whether it ended before that."""
    before = time.time()
    process = subprocess.Popen(words, stdout=log, stderr=log, start_new_session=True)
    if rng.random() < 0.8:  # most of a short run is its start: wait for its first new file
        while process.poll() is None and not any(
            p.is_file() and p.stat().st_mtime > before and p.name != ".lock" for p in _walk(folder)
        ):
            time.sleep(0.01)
        delay = rng.exponential(1.5)
    else:
        delay = rng.uniform(0, 12)
    try:
        process.wait(delay)
        return True
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return False


def _walk(folder):
    for parent, _, names in os.walk(folder):
        for name in names:
            path = Path(parent, name)
            if path.exists():
                yield path


def kill(args, folder):
    """Kills each script `args.kills` times in runs that then go on; compares with a run that nobody killed.

    Returns:
        (kills survived, bytes of files that differ).
    """
    rng, survived, lost = np.random.default_rng(args.seed), 0, 0
    base, log = folder / "base.h5", open(folder / "log", "ab")  # noqa: SIM115 (open as long as the processes)
    write_base(base)
    for script in args.scripts:
        whole = folder / script / "whole"
        subprocess.run(command(script, whole, base), check=True, stdout=log, stderr=log)
        wanted, kills, runs, files = contents(whole), 0, 0, 0
        while kills < args.kills:
            parts, runs = folder / script / f"parts{runs}", runs + 1
            while kills < args.kills and not killed_once(command(script, parts, base), parts, rng, log):
                kills, files = kills + 1, files + readable(parts)
            subprocess.run(command(script, parts, base), check=True, stdout=log, stderr=log)  # nothing, if finished
            found = contents(parts)
            different = sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name))
            for name in different:
                print(f"{script}: {name} differs between {whole} and {parts}")
                lost += (whole / name if (whole / name).exists() else parts / name).stat().st_size
        survived += kills
        print(
            f"{script}.py: {kills} kills in {runs} runs survived, {files} files opened after them, "
            f"{len(wanted)} files of each run compared with those of a run that nobody killed",
            flush=True,
        )
    return survived, lost


def main():
    """Runs the parts that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", default=["kill", "fuzz"], help="kill, fuzz (default: both)")
    parser.add_argument("--kills", type=int, default=20, help="of each script (default: %(default)s)")
    parser.add_argument("--scripts", nargs="*", default=list(SCRIPTS), help="to kill (default: all three)")
    parser.add_argument("--inputs", type=int, default=100_000, help="hostile files in all (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of moments and files (default: %(default)s)")
    args = parser.parse_args()
    folder, kills, lost, inputs, bad = Path(tempfile.mkdtemp(prefix="torture-")), 0, 0, 0, 0
    if "kill" in args.parts:
        kills, lost = kill(args, folder)
    if "fuzz" in args.parts:
        import fuzz

        for count, wrong in (
            fuzz.run(args.inputs, args.seed, folder),
            fuzz.run_guided(args.inputs // 5, args.seed, folder),
        ):
            inputs, bad = inputs + count, bad + wrong
    print(f"kills survived: {kills}, bytes lost: {lost}; inputs tried: {inputs:,}, wrong: {bad}")
    if not (bad or lost):
        shutil.rmtree(folder)
    return 1 if bad or lost else 0


if __name__ == "__main__":
    sys.exit(main())
