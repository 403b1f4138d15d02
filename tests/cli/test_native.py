"""cli/native.py: what glibc does with freed memory, in a process of its own."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from compress.cli import native

ROOT = Path(__file__).parents[2]
# A block as large as a map is taken, written to and freed again and again, as the steps of a training do.
STEPS = """
import ctypes, resource
from compress.cli import native

native.prepare()
libc, size = ctypes.CDLL(None), 64 * 2**20
libc.mallopt(-1, 128 * 1024)  # M_TRIM_THRESHOLD, as TensorFlow's generator of batches sets it
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
for _ in range(3):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    block = libc.malloc(size)
    ctypes.memset(block, 1, size)
    libc.free(block)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the setting is glibc's")
@pytest.mark.parametrize("of_the_user, kept", [({}, True), ({"MALLOC_TOP_PAD_": "131072"}, False)])
def test_a_step_takes_its_memory_from_the_step_before(of_the_user, kept):
    environment = {name: value for name, value in os.environ.items() if name not in native.MALLOC_VARIABLES}
    environment |= of_the_user
    command = [sys.executable, "-c", STEPS]
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    assert not run.stderr
    first, *later = map(int, run.stdout.split())
    assert first > 1000  # of 16,384 pages, or fewer and larger ones
    assert all((pages < 100) is kept for pages in later)
