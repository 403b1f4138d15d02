"""What a flag's value may be: types for argparse's add_argument. Imports no Keras."""

import argparse
import contextlib
import math
import os

PRECISIONS = ("auto", "float32", "mixed_bfloat16", "mixed_float16")


def _number(text, convert, wanted, low, high, strict):
    try:
        value = convert(text.strip().removesuffix(","))  # the original's README separates flags by commas
    except ValueError:
        value = math.nan
    inside = (low < value if strict else low <= value) and value <= high
    if not inside or not math.isfinite(value):  # nan compares false, so it ends here too
        raise argparse.ArgumentTypeError(f"received {text!r}, expected {wanted}")
    return value


def whole(low=0, high=10**9):
    """A type for add_argument: a whole number from low to high; one trailing comma is forgiven."""
    wanted = f"a whole number from {low} to {high}" if high < 10**9 else f"a whole number of at least {low}"
    return lambda text: _number(text, int, wanted, low, high, strict=False)


def real(low=0.0, high=1e9, strict=False):
    """A type for add_argument: a number from low (above low, if strict) to high; a trailing comma is forgiven."""
    start = f"above {low:g}" if strict else f"of at least {low:g}"
    wanted = f"a number {start} and at most {high:g}"
    return lambda text: _number(text, float, wanted, low, high, strict)


def precision(text, cpuinfo="/proc/cpuinfo"):
    """A type for add_argument: a dtype policy; 'auto' is the faster one on this processor.

    bfloat16 under TensorFlow where the processor multiplies it (AVX-512 BF16, AMX), else float32: emulated it is slow,
    and no other backend was measured.
    """
    if text not in PRECISIONS:
        raise argparse.ArgumentTypeError(f"received {text!r}, expected one of {', '.join(PRECISIONS)}")
    if text != "auto":
        return text
    if os.environ.get("KERAS_BACKEND", "tensorflow") != "tensorflow":
        return "float32"
    with contextlib.suppress(OSError), open(cpuinfo, encoding="utf-8", errors="replace") as file:
        for line in file:
            if line.startswith("flags"):
                return "mixed_bfloat16" if {"avx512_bf16", "amx_bf16"} & set(line.split()) else "float32"
    return "float32"
