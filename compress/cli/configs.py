"""What the flags say, in parts that travel together: a script makes them of its namespace, which goes no further.

Each is frozen: what a run is to do does not change while it runs. Fields are called as the flags are.
"""

import dataclasses


class Config:
    """Base of all: `of` picks from a namespace what the dataclass has fields for."""

    @classmethod
    def of(cls, args, **more):
        """A config of a script's flags.

        Args:
            args: the script's namespace; what it lacks keeps its default.
            more: fields that are decided elsewhere.
        """
        names = {field.name for field in dataclasses.fields(cls)}
        return cls(**{name: value for name, value in vars(args).items() if name in names} | more)


@dataclasses.dataclass(frozen=True)
class DataConfig(Config):
    """Which images there are, how they are split and read.

    Attributes:
        dataset: 'cifar10', 'cifar100', 'digits' or a folder.
        data_dir: where CIFAR lies.
        val_split: share of the training images that is held out for every choice, above 0, at most 0.5.
        subset: training and validation images in all; None for all that there are.
        image_size: side in pixels to which a folder's images are resized; None for the model's or their own.
        class_num: number of classes that there must be; None for any.
        num_worker: threads that decode a folder's images; 0 for one a core.
        crop_padding: pixels by which training images are shifted at most; None for a part of their side.
        instead: what can be done without CIFAR, for the error where it can't be downloaded.
    """

    dataset: str = "cifar10"
    data_dir: str = "./data"
    val_split: float = 0.1
    subset: int | None = None
    image_size: int | None = None
    class_num: int | None = None
    num_worker: int = 0
    crop_padding: int | None = None
    instead: str = ""


@dataclasses.dataclass(frozen=True)
class MachineConfig(Config):
    """What computes, and how.

    Attributes:
        gpu: False hides every accelerator.
        seed: of weights, order and augmentation.
        deterministic: same seed, same bits.
        verbose: 0 for no bars.
        tensorboard: where a script that trains writes events; None for nowhere.
    """

    gpu: bool = True
    seed: int = 826
    deterministic: bool = False
    verbose: int = 1
    tensorboard: str | None = None


@dataclasses.dataclass(frozen=True)
class PredictConfig(Config):
    """How a model is shown photographs.

    Attributes:
        preprocessing: what a model file from elsewhere was trained with, one of flags.PREPROCESSING.
        verify_model: compare a file that others wrote with plain Keras' reading of it.
        image_size: side in pixels, for a model that takes any; None for the photographs' own.
        batch_size: images a pass.
        precision: dtype policy of the arithmetic.
        verbose: 0 for no bars.
    """

    preprocessing: str = "auto"
    verify_model: bool = True
    image_size: int | None = None
    batch_size: int = 128
    precision: str = "float32"
    verbose: int = 1


@dataclasses.dataclass(frozen=True)
class ExportConfig(Config):
    """How exported files are measured.

    Attributes:
        model_path: of the model that they are made from.
        latency_runs: timed passes of one image with each number of threads; 0 for none.
        batch_size: images a pass.
        precision: dtype policy of the model's own arithmetic.
        verbose: 0 for no bars.
    """

    model_path: str
    latency_runs: int = 100
    batch_size: int = 128
    precision: str = "float32"
    verbose: int = 1


@dataclasses.dataclass(frozen=True)
class ReportConfig(Config):
    """Where a report finds the images of runs, and how it runs models on them.

    Attributes:
        dataset: folder of the images of runs on a folder; None for none.
        data_dir: where CIFAR lies.
        batch_size: images a pass.
        precision: dtype policy of the arithmetic.
        verbose: 0 for no bars.
    """

    dataset: str | None = None
    data_dir: str = "./data"
    batch_size: int = 128
    precision: str = "float32"
    verbose: int = 1


@dataclasses.dataclass(frozen=True)
class RunConfig(Config):
    """How a training is kept and shown, which leaves its result alone.

    Attributes:
        resume: 'auto' goes on where a run with the same flags stopped, 'never' starts over.
        save_minutes: between two states within an epoch.
        tensorboard: folder of event files, or None.
        verbose: 0 for nothing, 1 for bars, 2 for a line an epoch.
    """

    resume: str = "auto"
    save_minutes: float = 10.0
    tensorboard: str | None = None
    verbose: int = 1


@dataclasses.dataclass(frozen=True)
class CriterionConfig(Config):
    """How channels are scored and measured.

    Attributes:
        criterion: one of flags.CRITERIA.
        apoz_images: validation images that the criterion looks at; None for all.
        round_to: channels left are a multiple of this.
        batch_size: images a pass.
        precision: dtype policy of the arithmetic.
        seed: of the random criterion.
        verbose: 0 for no bars.
    """

    criterion: str = "apoz"
    apoz_images: int | None = None
    round_to: int = 1
    batch_size: int = 128
    precision: str = "float32"
    seed: int = 826
    verbose: int = 1


@dataclasses.dataclass(frozen=True)
class PruneConfig(CriterionConfig):
    """How a network is pruned in iterations.

    Attributes:
        root_folder: where iter1, iter2, ... go.
        prune_iter: iterations in all.
        prune_ratio: share of every layer's channels that an iteration removes; None for mean + 1 standard deviation.
        target_compression: base parameters / parameters left at the end; None for no such target.
        target_macs: (number, whether it is a reduction) of multiply-accumulates left at the end; None for no such.
        allocation: 'threshold' or 'sensitivity', how a target is spread over the layers.
        sensitivity_images: validation images on which that is measured.
        recalibrate_images: training images on which batch-norm is measured again; 0 for none.
    """

    root_folder: str = "./model/pruned_model"
    prune_iter: int = 16
    prune_ratio: float | None = None
    target_compression: float | None = None
    target_macs: tuple | None = None
    allocation: str = "threshold"
    sensitivity_images: int = 1000
    recalibrate_images: int = 2048

    @property
    def targeted(self):
        """Whether there is a budget."""
        return self.target_compression is not None or self.target_macs is not None
