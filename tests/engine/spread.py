"""What tests compute on one device, on two of one process, and in two processes: `python spread.py OUT.npz [FLAGS]`.

Process 0 writes into OUT.npz what training steps, scores, statistics and logits are there. FLAGS are those of
`flags.add_device_flags`.
"""

import dataclasses
import signal
import sys
import threading
import time
from pathlib import Path

import numpy as np

sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parents[1])]
BATCH, STEPS = 16, 6
SECOND = "process 1 of this run has failed or was stopped, and says why; expected all of them started again when that "
SECOND += "is set right"


def network(keras, side=16):
    """Two convolutions with batch-norm and ReLU, and a classifier."""
    layers = keras.layers
    inputs = keras.Input((side, side, 3))
    x = layers.Rescaling(1 / 255)(inputs)
    for i, width in enumerate((8, 12)):
        x = layers.Conv2D(width, 3, padding="same", name=f"conv{i}")(x)
        x = layers.BatchNormalization(name=f"bn{i}")(x)
        x = layers.ReLU(name=f"relu{i}")(x)
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Dense(10, name="logits")(x), name="small")


def pictures():
    """A dataset.Split of 71 images of noise with a sign of their class in it: no number of devices divides 71."""
    from compress.data import dataset
    from compress.data.augmentation import Augmentation

    rng = np.random.default_rng(3)
    labels = rng.integers(0, 10, 71)
    images = rng.integers(0, 128, (71, 16, 16, 3))
    images[np.arange(71), labels] += 100
    return dataset.Split(images.astype("uint8"), labels, "train", Augmentation(2, 0.5))


def weights(model, prefix):
    """{name: array} of all variables."""
    return {f"{prefix}/{i:02}": np.asarray(v) for i, v in enumerate(model.variables)}


def trained(model, split, steps):
    """The logs of so many steps of the suite's own fit."""
    from compress.data import batches
    from compress.engine import processes

    source = batches.batches(split, BATCH, 5, True, 0, 0, (processes.rank(), processes.count()))
    log = model.fit(source, steps_per_epoch=steps, epochs=1, shuffle=False, verbose=0)
    return {name: np.float64(values[-1]) for name, values in log.history.items()}


def classifier(model, steps):
    """The training twin of a network, compiled."""
    from compress.engine import twin
    from compress.training import fit, recipe

    trainer = twin.Twin(model)
    recipe.compile_classifier(trainer, recipe.Recipe(1, BATCH, 0.05, warmup=0.0), steps)
    fit.build(trainer, 10)
    return trainer


def distiller(teacher, student, steps):
    """A Distiller by soft labels, feature maps and a discriminator with an optimiser of its own."""
    import knowledge_distillation
    from compress.cli import configs
    from compress.distillation.distiller import Distiller, optimizer_for
    from compress.training import fit, recipe

    config = configs.DistilConfig(lambda1=0.5, lambda2=0.3, lambda3=0.2, mirror_teacher=True)
    losses = knowledge_distillation.losses_of(config, teacher, student, steps)
    model = Distiller(teacher, student, losses, mirror=True)
    plan = recipe.Recipe(1, BATCH, 0.05, warmup=0.0)
    recipe.compile_trainer(model, optimizer_for(losses, recipe.optimizer_of(plan, steps, student)), plan)
    fit.build(model, 10)
    return model


def scores(model, split):
    """What is measured on images, by name."""
    from compress import metrics
    from compress.cli import configs
    from compress.engine import devices, folding, recalibration
    from compress.pruning import allocation, criteria

    images, labels = split.images, split.labels
    folded = folding.FoldedModel(model)
    found = {f"apoz/{name}": value for name, value in criteria.compute_apoz(model, images, BATCH).items()}
    taylor = criteria.compute_taylor(model, images, labels, BATCH)
    found |= {f"taylor/{name}": value for name, value in taylor.items()}
    found["logits"] = metrics.predict_logits(folded, images, BATCH)
    found["odd_logits"] = metrics.predict_logits(folded, images[:1], BATCH)
    config = configs.CriterionConfig(batch_size=BATCH)
    whole, curves = allocation.measure_curves(model, taylor, (images, labels), (0.25, 0.5), config)
    found["sensitivity"] = np.array([whole["loss"], *(value for curve in curves.values() for value in curve["loss"])])
    recalibration.recalibrate_bn(model, images, BATCH)
    found |= weights(model, "recalibrated")
    found["devices"] = np.array(devices.count())
    return found


def take_turns():
    """Process 0 comes first, however long it takes; the others have what it gives where it gives nothing."""
    from compress.engine import processes

    processes.PULSE = 0.1  # so that the others are told several times that it is at work

    def at_work():
        begun = time.time()
        time.sleep(1)
        return begun, time.time()

    turns = processes.gathered(np.array(processes.in_turn(at_work)))
    assert (turns[1:, 0] >= turns[0, 1]).all()
    after = processes.gathered(np.array(time.time()))
    assert (after >= turns[:, 1].max()).all()  # all go on together
    assert processes.in_turn(lambda: None if processes.is_main() else "never") is None
    if processes.count() > 1:
        fail_in_turn(processes)


def fail_in_turn(processes):
    """What fails in one process ends the turns of all: behind that of process 0, and in the midst of it."""
    from compress.errors import InputError

    processes.LEAVING = 0  # here both go on

    def second_fails():
        if not processes.is_main():
            raise OSError("no room")

    def ending(function):
        try:
            processes.in_turn(function)
        except (InputError, OSError, KeyboardInterrupt) as error:
            return type(error).__name__, str(error)

    assert ending(second_fails if not processes.is_main() else lambda: 1) == (
        ("InputError", SECOND) if processes.is_main() else ("OSError", "no room")
    )
    if not processes.is_main():  # stopped while it waits for its turn
        threading.Timer(0.5, signal.pthread_kill, (threading.main_thread().ident, signal.SIGINT)).start()
    begun = time.time()
    name, text = ending(lambda: time.sleep(30))
    assert (name, text) == (("InputError", SECOND) if processes.is_main() else ("KeyboardInterrupt", ""))
    assert time.time() - begun < 10
    processes.LEAVING = 3


def main(argv):
    """Computes it all, in the order of a run."""
    from compress.cli import app, configs
    from compress.cli.flags import Parser, add_device_flags, add_machine_flags
    from compress.engine import processes

    parser = Parser("spread.py")
    parser.add_argument("out")
    parser.add_argument("--batch_size", type=int, default=BATCH)
    add_machine_flags(parser)
    add_device_flags(parser)
    args = parser.parse_args(argv)
    app.start_keras(dataclasses.replace(configs.MachineConfig.of(args), verbose=0))
    import keras

    take_turns()
    split, found = pictures(), {}
    model = network(keras)
    found |= scores(model, split)
    for name, steps in (("step", 1), ("steps", STEPS)):
        keras.utils.set_random_seed(4)
        model = network(keras)
        found |= {f"{name}/{k}": v for k, v in trained(classifier(model, steps), split, steps).items()}
        found |= weights(model, name)
    keras.utils.set_random_seed(4)
    student = network(keras)
    found |= {f"distil/{k}": v for k, v in trained(distiller(model, student, 1), split, 1).items()}
    found |= weights(student, "distil")
    if processes.is_main():
        np.savez(args.out, **found)


if __name__ == "__main__":
    main(sys.argv[1:])
