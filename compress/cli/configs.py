"""What the flags say, in parts that travel together: a script makes them of its namespace, which goes no further.

Each is frozen: what a run is to do does not change while it runs. Fields are called as the flags are.
"""

import dataclasses

from compress.errors import InputError

# what can be done without CIFAR
INSTEAD = "digits need no download: `dataset=digits`, or make demo, which trains models of them"


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
        hflip: probability with which a training image is mirrored left to right; None for `values.usual_hflip`.
        augment: how training images are varied, one of values.AUGMENTATIONS.
        cache_dir: where decoded images are kept that memory doesn't hold.
        cache: False to decode such images each time that they are needed.
        verbose: 0 for no lines.
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
    hflip: float | None = None
    augment: str = "shift"
    cache_dir: str = "./data/cache"
    cache: bool = True
    verbose: int = 1
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
        devices: of each process, that share a batch; None for all that there are.
        coordinator: 'host:port' of process 0, where several processes compute a run; None for one process.
        num_processes: how many these are.
        process_id: the number of this one, from 0.
        distributed: whether the three are what the job's manager announces.
        batch_size: images a step, which the devices divide; None where a script has none.
        argv: the command line, for a message.
    """

    gpu: bool = True
    seed: int = 826
    deterministic: bool = False
    verbose: int = 1
    tensorboard: str | None = None
    devices: int | None = 1
    coordinator: str | None = None
    num_processes: int | None = None
    process_id: int | None = None
    distributed: bool = False
    batch_size: int | None = None
    argv: tuple = ()

    @property
    def alone(self):
        """This config for what one device of one process computes, whatever was asked for."""
        one = {"devices": 1, "coordinator": None, "num_processes": None, "process_id": None, "distributed": False}
        return dataclasses.replace(self, **one)


@dataclasses.dataclass(frozen=True)
class PredictConfig(Config):
    """How a model is shown photographs.

    Attributes:
        preprocessing: what a model file from elsewhere was trained with, one of flags.PREPROCESSING.
        image_size: side in pixels, for a model that takes any; None for the photographs' own.
        batch_size: images a pass.
        precision: dtype policy of the arithmetic.
        verbose: 0 for no bars.
    """

    preprocessing: str = "auto"
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
        cache_dir: where decoded images are kept that memory doesn't hold.
        cache: False to decode such images each time that they are needed.
        batch_size: images a pass.
        precision: dtype policy of the arithmetic.
        verbose: 0 for no bars.
    """

    dataset: str | None = None
    data_dir: str = "./data"
    cache_dir: str = "./data/cache"
    cache: bool = True
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
        home: folder of all that belongs to the run, which its events are named after: an iteration of a pruning and a
            row of an ablation are trained in folders of their own. None where the training has no other.
    """

    resume: str = "auto"
    save_minutes: float = 10.0
    tensorboard: str | None = None
    verbose: int = 1
    home: str | None = None


@dataclasses.dataclass(frozen=True)
class CriterionConfig(Config):
    """How channels are scored and measured.

    Attributes:
        criterion: one of flags.CRITERIA.
        scope: which groups may lose channels, 'inner' or 'all', see `pruning.scope`.
        apoz_images: validation images that the criterion looks at; None for all.
        round_to: channels left are a multiple of this.
        batch_size: images a pass.
        precision: dtype policy of the arithmetic.
        seed: of the random criterion.
        verbose: 0 for no bars.
    """

    criterion: str = "apoz"
    scope: str = "inner"
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
        target_latency: (number, whether it is a share of the base's) of the latency of one image at the end, else in
            ms; None for no such.
        latency_format: of `cli.formats`, whose runtime that latency is timed in.
        max_accuracy_drop: points of validation accuracy that the fine-tuned network may lose against the base; an
            iteration that loses more is discarded and tried again with half its step. None for no bound.
        allocation: how a target is spread over the layers, 'threshold' or 'sensitivity'; None while that is not
            decided, see `with_allocation`.
        sensitivity_images: validation images on which that is measured.
        recalibrate_images: training images for recalibration; 0 for none.
        resume: 'auto' goes on where a run with the same flags stopped, 'never' starts over.
    """

    root_folder: str = "./model/pruned_model"
    prune_iter: int = 16
    prune_ratio: float | None = None
    target_compression: float | None = None
    target_macs: tuple | None = None
    target_latency: tuple | None = None
    latency_format: str = "litert"
    max_accuracy_drop: float | None = None
    allocation: str | None = None
    sensitivity_images: int = 1000
    recalibrate_images: int = 2048
    resume: str = "auto"

    @property
    def targeted(self):
        """Whether a cost is named that shall be left."""
        return {self.target_compression, self.target_macs, self.target_latency} != {None}

    @property
    def budgeted(self):
        """Whether each iteration has a cost to reach; else a rule within each layer says what goes."""
        return self.targeted or (self.max_accuracy_drop is not None and self.prune_ratio is None)

    def with_allocation(self):
        """This config with the allocation that holds where none was given.

        Raises:
            InputError: there is nothing to be spread over the layers.
        """
        if self.allocation == "sensitivity" and not self.budgeted:
            raise InputError(
                "`allocation`: received sensitivity without a budget, expected `target_compression`, "
                "`target_macs`, `target_latency` or `max_accuracy_drop` beside it"
            )
        usual = "sensitivity" if self.budgeted else "threshold"
        return dataclasses.replace(self, allocation=self.allocation or usual)


@dataclasses.dataclass(frozen=True)
class DistilConfig(Config):
    """By which losses a student is trained.

    Attributes:
        lambda1: weight of the teacher's soft labels.
        lambda2: weight of its feature maps.
        lambda3: weight of the adversarial loss.
        hard_label_weight: weight of the cross-entropy with the true labels.
        temperature: softening of the soft labels, above 0.
        label_smoothing: share of each true label spread over all classes.
        mirror_teacher: whether the teacher's logits are the mean of those of an image and of its mirror image.
        teacher_annealing: whether the three lambdas fall to 0 over the training steps.
        regressor_name: 'conv1x1' or 'constant', see `distillation.regressors.build_regressors`.
        discriminator_learning_rate: of the discriminator's Adam.
        precision: dtype policy of the arithmetic.
    """

    lambda1: float = 0.5
    lambda2: float = 0.0
    lambda3: float = 0.0
    hard_label_weight: float = 0.6
    temperature: float = 4.0
    label_smoothing: float = 0.0
    mirror_teacher: bool = False
    teacher_annealing: bool = False
    regressor_name: str = "conv1x1"
    discriminator_learning_rate: float = 0.0001
    precision: str = "float32"

    @property
    def taught(self):
        """Whether a teacher has a part in it."""
        return bool(self.lambda1 or self.lambda2 or self.lambda3)


# the student's size where no flag says any: parameters of the original suite's student, and a reduction of MACs
STUDENT_COMPRESSION, STUDENT_MACS, STUDENT_TILT = 12.82, (8.0, True), 0.7


@dataclasses.dataclass(frozen=True)
class StudentConfig(Config):
    """What a student looks like before its first step.

    Attributes:
        stream_divisor: the stream widths are divided by this and the inner widths stay; None for the targets below.
        target_compression: parameters of the teacher's network unpruned / the student's, at least; None leaves them
            free.
        target_macs: (number, whether it is a reduction) of multiply-accumulates at most; None leaves them free.
        stage_tilt: width factor of a stage / that of the stage before.
        round_to: widths under targets are multiples of this.
        student_stem: of `architectures.STEMS`; None for the teacher's.
        student_blocks: how many residual blocks of each stage stay; None for the teacher's.
        student_init: 'inherit' for the teacher's most important channels, or 'random'.
        student_path: file of a student of another architecture; None for one that is made from the teacher.
        student_architecture: name of an architecture that the student has instead, with random weights; None likewise.
        preprocessing: what a student's file from elsewhere was trained with.
        recalibrate_images: training images for recalibration where channels went; 0 for none.
        batch_size: images a pass of that.
        seed: of random weights.
        verbose: 0 for no bars.
    """

    stream_divisor: int | None = None
    target_compression: float | None = None
    target_macs: tuple | None = None
    stage_tilt: float | None = None
    round_to: int = 16
    student_stem: str | None = None
    student_blocks: list | None = None
    student_init: str = "inherit"
    student_path: str | None = None
    student_architecture: str | None = None
    preprocessing: str = "auto"
    recalibrate_images: int = 2048
    batch_size: int = 128
    seed: int = 826
    verbose: int = 1

    @property
    def origin(self):
        """Which student it is, for a record: {"from": 'teacher', a file or an architecture}; 'teacher' has "init"."""
        other = self.student_path or self.student_architecture
        return {"from": other} if other else {"from": "teacher", "init": self.student_init}

    @property
    def is_other(self):
        """Whether the student isn't made from its teacher."""
        return bool(self.student_path or self.student_architecture)

    @property
    def by_default(self):
        """Whether both targets are the ones that hold where none was given."""
        return (self.target_compression, self.target_macs) == (STUDENT_COMPRESSION, STUDENT_MACS)

    def with_targets(self):
        """This config with the targets that hold where none was given.

        Raises:
            InputError: a target stands beside the divisor, which fixes all widths, or what shapes a student that is
                made from its teacher beside a student that isn't.
        """
        if given := next((name for name in ("student_path", "student_architecture") if getattr(self, name)), None):
            self._check_apart(given)
            return self
        if self.stream_divisor:
            for name in ("target_macs", "stage_tilt"):
                if getattr(self, name):
                    raise InputError(
                        f"`{name}`: received it beside `stream_divisor={self.stream_divisor}`, which "
                        "fixes all widths; expected one of them"
                    )
            return self
        # either alone leaves the other free
        free = not (self.target_compression or self.target_macs)
        macs = STUDENT_MACS if free else self.target_macs
        return dataclasses.replace(
            self,
            target_compression=STUDENT_COMPRESSION if free else self.target_compression,
            target_macs=macs,
            stage_tilt=self.stage_tilt or (STUDENT_TILT if macs else 1.0),
        )

    def _check_apart(self, given):
        """Raises InputError where something shapes a student that has a shape of its own, by the parameter given."""
        sizes = ("stream_divisor", "target_compression", "target_macs", "stage_tilt")
        for name in (*sizes, "student_stem", "student_blocks"):
            if getattr(self, name):
                raise InputError(
                    f"`{name}`: received it beside `{given}={getattr(self, given)}`, a network that has its shape; "
                    "expected one of them"
                )
        if self.student_path and (self.student_architecture or self.student_init == "random"):
            name = "student_architecture" if self.student_architecture else "student_init"
            raise InputError(
                f"`{name}`: received {getattr(self, name)} beside `student_path={self.student_path}`, whose weights "
                "the student starts from; expected one of them"
            )
