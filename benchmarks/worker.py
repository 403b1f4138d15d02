"""The process of one contestant: it prepares its work, prints "ready", then repeats the work on request and times it.

    python benchmarks/worker.py step --library suite --precision mixed_bfloat16

Each contestant has a process of its own, since thread pools and memory of two libraries in one process disturb each
other. The process reads a number of repetitions from standard input and prints the seconds that they took. It waits for
the next number without using the processor.
"""

import argparse
import json
import os
import resource
import shutil
import sys
import tempfile
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent.parent), str(Path(__file__).parent)]
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")  # the figures are of the processor

import loading  # noqa: E402
import peers  # noqa: E402
from peers import BATCH, CLASSES, SHAPE, pixels  # noqa: E402

from compress.cli import native  # noqa: E402


class Orders:
    """The requests of benchmarks/contest.py on standard input, and the answers to them on standard output."""

    def next(self):
        """Waits for a number of repetitions and starts the clock. At the end of the input it ends the process."""
        line = sys.stdin.readline()
        if not line:
            os._exit(0)  # at once
        self.start = time.perf_counter()
        return int(line)

    def done(self):
        """Stops the clock; prints the seconds and the peak memory in bytes as JSON."""
        seconds = time.perf_counter() - self.start
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        print(json.dumps({"seconds": seconds, "peak_bytes": peak}), flush=True)


def deterministic_step(args):
    """A training step of this suite under --deterministic."""
    import tensorflow as tf

    tf.config.experimental.enable_op_determinism()  # before the first operation
    import keras

    keras.utils.set_random_seed(1)
    return train_step(args)


def compiled_step(trainer):
    """`train_step` of a compiled trainer on one batch, as a TensorFlow graph and without `fit` around it."""
    import tensorflow as tf

    batch, step = tuple(tf.constant(part) for part in pixels()), tf.function(trainer.train_step)
    return lambda: step(batch)


STEPS = 351  # of an epoch of CIFAR-10: 45,000 images in batches of 128
FAMILIES = ("MobileNetV2", "EfficientNetB0", "resnet56")


def network(kind):
    """A network with random weights.

    Args:
        kind: of ResNet50 'base', the unpruned network; 'teacher', with 0.6 of the channels in the inner layers;
            'student', made from the teacher with 12.82 times fewer parameters than ResNet50. Or one of FAMILIES.
    """
    import numpy as np

    import model
    from compress.distillation import student
    from compress.graph.network import Graph

    net = model.build_model(kind if kind in FAMILIES else "ResNet50", CLASSES, SHAPE)
    if kind in FAMILIES:
        return net
    if kind != "base":
        graph = Graph(net)
        inner = {name: group.width for name, group in graph.groups.items() if group.inner}
        net = graph.trimmed({name: np.arange(width) < round(0.6 * width) for name, width in inner.items()})
    if kind == "student":
        pattern = student.Pattern(net, student.whole_of(net, model.unpruned(net)))
        widths = student.student_widths(
            pattern.layout,
            pattern.cost,
            (pattern.whole.parameters / 12.82, np.inf),
            16,
        )
        net = student.inherit_student(pattern.graph, widths)
    # A new network has gammas of 0 at the ends of its blocks. Folded, they give kernels of zeros, which a runtime may
    # leave out: the measured times would not be those of a trained network.
    for layer in net.layers:
        if layer.name.endswith("_bn"):
            layer.gamma.assign([1.0] * layer.gamma.shape[0])
            layer.moving_mean.assign([0.1] * layer.gamma.shape[0])
    return net


def train_step(args):
    """A training step of Keras' own layers (library keras) or of this suite (library suite), on one batch."""
    import keras

    from compress.engine import twin
    from compress.training import recipe as recipes

    if args.library == "keras":
        keras.config.set_dtype_policy(args.precision)
    net = network(args.net)
    trainer = net if args.library == "keras" else twin.Twin(net, args.precision)
    recipe = recipes.Recipe(1, BATCH, 1e-3, precision=args.precision)
    recipes.compile_classifier(trainer, recipe, 10**6)
    if args.library == "keras":  # Keras' own optimiser in place of the suite's, with the same settings
        optimizer = keras.optimizers.SGD(1e-3, momentum=0.9, nesterov=True, weight_decay=recipe.weight_decay)
        optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
        trainer.compile(optimizer, loss=trainer.loss)
    return compiled_step(trainer)


def distillation_step(args):
    """A step of distillation with all losses, from a pruned teacher to a student 12.82 times smaller than ResNet50."""
    import knowledge_distillation
    from compress.cli.configs import DistilConfig
    from compress.distillation.distiller import Distiller, optimizer_for
    from compress.training import recipe as recipes

    recipe = recipes.Recipe(1, BATCH, 1e-3, precision=args.precision)
    config = DistilConfig(
        lambda1=0.7,
        lambda2=0.3,
        lambda3=0.2,
        hard_label_weight=0.3,
        regressor_name=args.regressor_name,
        precision=args.precision,
    )
    teacher, student = network("teacher"), network("student")
    losses = knowledge_distillation.losses_of(config, teacher, student, 10**6)
    distiller = Distiller(teacher, student, losses, config.precision)
    recipes.compile_trainer(
        distiller, optimizer_for(losses, recipes.optimizer_of(recipe, 10**6, distiller.network)), recipe
    )
    return compiled_step(distiller)


def inference(args):
    """A forward pass of the folded network on one batch in memory."""
    import tensorflow as tf

    from compress.engine import folding

    images = tf.constant(pixels()[0])
    function = tf.function(folding.FoldedModel(network(args.net), args.precision))
    return lambda: function(images).numpy()


def predict(args):
    """Plain Keras' `predict` on `--images` images."""
    net, (images, _) = network("base"), pixels(args.images)
    return lambda: net.predict(images, batch_size=BATCH, verbose=0)


def apoz(args):
    """The APoZ pass on `--images` images."""
    import prune

    net, (images, _) = network("base"), pixels(args.images)
    return lambda: prune.compute_apoz(net, images, BATCH)


def latency(args):
    """One call of the compiled folded network on `--images` images, after `--trims` prunings by the default rule."""
    import prune
    from compress.engine import folding, recalibration

    net, (images, _) = network("base"), pixels(256)
    if args.library == "keras":
        return lambda: net.predict_on_batch(images[: args.images])
    # BN recalibration first: the moving statistics of a new network normalise nothing, and APoZ would measure that.
    recalibration.recalibrate_bn(net, images)
    for _ in range(args.trims):
        net = prune.trim_model(net, prune.create_mask(prune.compute_apoz(net, images), None, args.round_to))
        recalibration.recalibrate_bn(net, images)
    function = folding.freeze(net, args.precision)
    from compress import metrics

    print(json.dumps({"macs": metrics.count_macs(net), "parameters": net.count_params()}), flush=True)
    return lambda: function(images[: args.images])


def whole_epochs(args):
    """Prints the seconds of whole epochs of train_base_model.py on CIFAR-10, and of as many training steps alone.

    Both are in one process, `--steps` of the one behind as many of the other: how pages lie in memory makes one process
    up to a tenth faster than its like. The first epoch compiles and isn't timed.
    """
    import keras
    import tensorflow as tf

    import train_base_model
    from compress.data import batches
    from compress.training import callbacks

    class Clock(keras.callbacks.Callback):
        """The last of the callbacks: stops the epoch's clock, takes steps alone, and starts it again."""

        def on_train_begin(self, logs=None):
            self.alone, self.times = tf.function(self.model.train_step), []
            [self.alone(batch) for batch in given[:3]]  # the first calls trace, compile and allocate

        def on_epoch_begin(self, epoch, logs=None):
            self.epoch, self.start, self.sums = epoch, time.perf_counter(), [0.0, 0.0]

        def on_train_batch_end(self, batch, logs=None):
            if self.epoch and (batch + 1) % args.steps == 0 and batch + 1 < STEPS:
                self.turn()

        def on_epoch_end(self, epoch, logs=None):
            if epoch == 0:
                return
            self.turn()
            self.times.append(self.sums)
            if epoch == args.epochs:
                peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
                facts = {"times": self.times, "steps": len(given), "peak_bytes": peak}
                print(json.dumps(facts), "ready", sep="\n", flush=True)
                shutil.rmtree(folder)
                os._exit(0)

        def turn(self):
            passed = time.perf_counter()
            self.sums[0] += passed - self.start
            for batch in given:
                self.alone(batch)
            self.start = time.perf_counter()
            self.sums[1] += self.start - passed

    given, pipeline, of_run = [], batches.pipeline, callbacks.of_run

    def watched(source):
        given.extend(tuple(map(tf.constant, source[i])) for i in range(args.steps))
        return pipeline(source)

    batches.pipeline, callbacks.of_run = watched, lambda *run: [*of_run(*run), Clock()]
    with tempfile.TemporaryDirectory() as folder:
        words = ["--data_dir", args.data_dir, "--precision", args.precision, "--verbose", "0", "--save_folder", folder]
        return train_base_model.main([*words, "--epoch_num", "1000"])


def between_iterations(args):
    """Prints the seconds from the end of one iteration's fine-tuning to the first step of the next, on CIFAR-10."""
    import prune_model
    from compress.cli import display

    # The script is run as a user runs it, but for its progress bar, which starts and stops the clock: its stop is the
    # end of the fine-tuning, its first step the beginning of the next.
    class Bar(display.EpochBar):
        ended = None

        def step(self, epoch, images, logs=None):
            if Bar.ended is not None:
                shutil.rmtree(folder)
                print(json.dumps({"between": time.perf_counter() - Bar.ended}), "ready", sep="\n", flush=True)
                os._exit(0)

        def stop(self):
            super().stop()
            Bar.ended = time.perf_counter()

    display.EpochBar = Bar
    with tempfile.TemporaryDirectory() as folder:
        network("base").save(f"{folder}/base.h5")
        return prune_model.main(
            [
                "--data_dir",
                args.data_dir,
                "--precision",
                args.precision,
                "--verbose",
                "0",
                "--root_folder",
                folder,
                "--base_model_path",
                f"{folder}/base.h5",
                "--prune_iter",
                "2",
                "--epoch_num",
                "1",
            ]
        )


def reading(args):
    """Reading the graph of ResNet50, which every pruning begins with."""
    from compress.graph.network import Graph

    net = network(args.net)
    return lambda: Graph(net)


def trimming(args):
    """Making a new ResNet50 of half the inner channels."""
    import numpy as np

    from compress.graph.network import Graph

    graph = Graph(network(args.net))
    masks = {name: np.arange(group.width) % 2 == 0 for name, group in graph.groups.items() if group.inner}
    return lambda: graph.trimmed(masks)


WORKS = {
    "reading": reading,
    "trimming": trimming,
    "step": train_step,
    "deterministic": deterministic_step,
    "distil": distillation_step,
    "inference": inference,
    "predict": predict,
    "apoz": apoz,
    "latency": latency,
}


def build_parser():
    """The flags of a worker."""
    parser = argparse.ArgumentParser()
    parser.add_argument("work", choices=[*WORKS, "load", "fed", "epoch", "between"])
    parser.add_argument("--library", choices=["suite", "keras", "torch", "onnxruntime", "litert"], default="suite")
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--net", choices=["base", "teacher", "student", *FAMILIES], default="base")
    parser.add_argument("--regressor_name", default="conv1x1")
    parser.add_argument("--images", type=int, default=BATCH)
    parser.add_argument("--steps", type=int, default=39, help="of an epoch between two turns of steps alone")
    parser.add_argument("--epochs", type=int, default=2, help="that are timed")
    parser.add_argument("--trims", type=int, default=0)
    parser.add_argument("--round_to", type=int, default=1)
    parser.add_argument("--data_dir", default="./data")
    parser.add_argument("--photos", default="./data/photographs")
    parser.add_argument("--side", type=int, default=96)
    parser.add_argument("--kept", choices=loading.KEPT, default="cache")
    parser.add_argument("--turns", type=int, default=3, help="of steps that are fed")
    parser.add_argument("--cores", type=int, default=1)
    return parser


def main():
    """Command line; serves requests until standard input ends."""
    args, orders = build_parser().parse_args(), Orders()
    if args.library == "suite":  # the others run as their users find them
        native.prepare()
    if args.work == "epoch":
        sys.exit(whole_epochs(args))
    if args.work == "between":
        sys.exit(between_iterations(args))
    if args.work == "fed":
        sys.exit(loading.fed(args))
    if args.work == "load":
        work = loading.load
    else:
        work = WORKS[args.work] if args.library in ("suite", "keras") else peers.WORKS[args.library, args.work]
    repeat = work(args)
    for _ in range(3):  # the first calls trace, compile and allocate
        repeat()
    print("ready", flush=True)
    while True:
        for _ in range(orders.next()):
            repeat()
        orders.done()


if __name__ == "__main__":
    main()
