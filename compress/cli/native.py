"""What native libraries are told before anything imports them. Imports no Keras."""

import contextlib
import ctypes
import os
import platform
import sys

# glibc's mallopt(3): the numbers of two settings, and the variables by which a user sets the like
M_TOP_PAD, M_MMAP_MAX = -2, -4
MALLOC_VARIABLES = (
    "MALLOC_TOP_PAD_",
    "MALLOC_TRIM_THRESHOLD_",
    "MALLOC_MMAP_MAX_",
    "MALLOC_MMAP_THRESHOLD_",
    "GLIBC_TUNABLES",
)
TOP_PAD = 256 * 2**20  # bytes


def prepare(gpu=True):
    """Sets the environment of TensorFlow and JAX in this process, and how it keeps memory; what the user has set stays,
    but for `gpu`.

    oneDNN is asked for on every x86 processor: TensorFlow's own default turns it on only where there are instructions
    for neural networks (AVX-512 VNNI or better), and trains half as fast elsewhere; benchmarks/README.md.

    Args:
        gpu: False hides every accelerator.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    if platform.machine() in ("x86_64", "AMD64"):
        os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    if not gpu:
        os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
        os.environ["JAX_PLATFORMS"] = "cpu"
    keep_freed_memory()


def keep_freed_memory():
    """Has glibc keep the memory that a step frees for the next one, rather than give it back to the system.

    By itself glibc learns to, from blocks of at most 32 MiB that were freed before. But as Keras' `fit` begins,
    TensorFlow's generator of batches calls mallopt(M_TRIM_THRESHOLD, 128 KiB), against a leak of its own, and glibc
    learns no more. Where no large block was freed by then, every step asks the system anew for the memory of all its
    maps, page by page, and a step of MobileNetV2 takes twice as long; benchmarks/README.md. TensorFlow leaves alone
    what is set here: that no block is mapped by itself, and how much stays free behind the last one. Elsewhere than
    with glibc nothing happens.
    """
    if sys.platform == "linux" and not any(name in os.environ for name in MALLOC_VARIABLES):
        with contextlib.suppress(AttributeError):  # another library of C, which has no mallopt
            mallopt = ctypes.CDLL(None).mallopt
            mallopt(M_MMAP_MAX, 0)
            mallopt(M_TOP_PAD, TOP_PAD)
