"""Reading photographs from a folder: by this suite, by Keras and by PyTorch; and training that is fed by it."""

import json
import os
import sys
import time

SIDES = (96, 224)
BATCH = 32
FED = 8  # images of a step that is fed: a ResNet50's step at 224x224 takes seconds
TURN = 24  # steps of each kind in a turn
KEPT = ("memory", "cache", "files")


def of_suite(args, batch=None):
    """A function that gives the next batch of this suite, shuffled and shifted: args.kept 'cache', 'files' or 'memory'.

    From 'memory' comes one batch again and again: what a training is fed with that never waits.
    """
    from compress.cli.configs import DataConfig
    from compress.data import batches, dataset, reading

    reading.HELD = 0  # of however few photographs: as of more than memory holds
    config = DataConfig(
        dataset=args.photos,
        image_size=args.side,
        subset=args.images,
        cache_dir=os.path.join(args.data_dir, "cache"),
        cache=args.kept != "files",
        verbose=0,
    )
    source = batches.batches(dataset.load_data(config, needs=("train",)).train, batch or BATCH, 1)
    numbers = iter(range(sys.maxsize))
    first = source[next(numbers)]
    return (lambda: first) if args.kept == "memory" else lambda: source[next(numbers)]


def of_keras(args):
    """The same of keras.utils.image_dataset_from_directory, as its documentation shows it, repeated."""
    import keras

    found = keras.utils.image_dataset_from_directory(
        os.path.join(args.photos, "train"), image_size=(args.side,) * 2, batch_size=BATCH, verbose=False
    )
    source = iter(found.repeat().prefetch(2))
    return lambda: next(source)


def of_torch(args):
    """The same of torchvision's ImageFolder and PyTorch's DataLoader, with a process a core."""
    from torch.utils.data import DataLoader
    from torchvision import datasets, transforms

    cores = len(os.sched_getaffinity(0))
    varied = transforms.Compose(
        [transforms.Resize((args.side,) * 2), transforms.RandomHorizontalFlip(), transforms.ToTensor()]
    )
    folder = datasets.ImageFolder(os.path.join(args.photos, "train"), varied)

    def forever():
        while True:
            yield from DataLoader(folder, BATCH, shuffle=True, num_workers=cores, drop_last=True)

    source = forever()
    return lambda: next(source)


def load(args):
    """The next batch of args.library, on args.cores cores."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: args.cores])  # before any thread is started
    return {"suite": of_suite, "keras": of_keras, "torch": of_torch}[args.library](args)


def fed(args):
    """Prints the seconds of training steps of ResNet50 on batches of args.side pixels, and those of waiting for them.

    A turn is 24 steps on one batch in memory, 24 on batches from the cache's file, 24 on batches from the JPEGs; all in
    one process, as in worker.whole_epochs. While others have their turn, up to five of the 24 batches are read ahead.
    """
    import tensorflow as tf

    import model
    from compress.engine import twin
    from compress.training import recipe as recipes

    net = model.build_model("ResNet50", 100, (args.side, args.side, 3))
    trainer = twin.Twin(net, args.precision)
    recipes.compile_classifier(trainer, recipes.Recipe(1, FED, 1e-3, precision=args.precision), 10**6)
    step, sources = tf.function(trainer.train_step), {}
    for kept in KEPT:
        args.kept = kept
        sources[kept] = of_suite(args, FED)

    def seconds(batch, steps=TURN):
        start, waited = time.perf_counter(), 0.0
        for _ in range(steps):
            asked = time.perf_counter()
            given = batch()
            waited += time.perf_counter() - asked
            step(tuple(map(tf.constant, given)))
        return time.perf_counter() - start, waited

    seconds(sources["memory"], 3)  # the first calls trace, compile and allocate
    times = [[seconds(sources[kept]) for kept in KEPT] for _ in range(args.turns)]
    print(json.dumps({"fed": times}), "ready", sep="\n", flush=True)
