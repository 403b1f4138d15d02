"""The environment variables of native libraries, set before anything imports them. Imports no Keras."""

import os
import platform


def prepare(gpu=True):
    """Sets the environment of TensorFlow and JAX in this process; what the user has set stays, but for `gpu`.

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
