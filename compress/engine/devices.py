"""Several devices, and several processes that share a run, under JAX: who is who, and which rows each of them holds.

A batch is divided among the devices by its rows, and every device has all weights (data parallelism). XLA computes the
batch as a whole: a mean over it, a batch-normalisation's statistics, a count and a gradient are those of all rows, and
every process has them. So all processes run the same program on the same numbers; they differ in the rows that they
feed, and in that the first one alone writes and prints.

With one device and one process each function here is what one would write without it, and JAX isn't touched.
Under TensorFlow there is one device: its strategies normalise by the rows of one device alone, double the loss of a
model with losses of its own, and are broken in Keras 3 for several hosts (keras issue 20585).
"""

import dataclasses
import os
import sys
import typing

from compress.errors import InputError


@dataclasses.dataclass
class _Spread:
    """How arrays lie on several devices.

    Attributes:
        count: devices of all processes.
        rows: the jax.sharding.Sharding that gives each device as many rows.
        whole: the one that gives each device everything.
    """

    count: int
    rows: typing.Any
    whole: typing.Any


_spreads = []  # a _Spread where there are several devices


def _spread():
    """The _Spread that holds now, or None where there is one device."""
    return _spreads[0] if _spreads else None


def count():
    """Devices that a batch is divided among, those of all processes."""
    return _spreads[0].count if _spreads else 1


def described():
    """The devices in words, such as '4 devices of JAX in 2 processes'."""
    import jax

    several = f" in {jax.process_count()} processes" if jax.process_count() > 1 else ""
    return f"{count()} devices of JAX ({jax.devices()[0].device_kind}){several}"


def _backend():
    """The name of Keras' backend, also before it is imported."""
    keras = sys.modules.get("keras")
    return keras.backend.backend() if keras else os.environ.get("KERAS_BACKEND")


def check(config):
    """Raises InputError where more than one device is asked for, or other processes, under another backend than JAX.

    Args:
        config: as of `setup`; KERAS_BACKEND names the backend by now.
    """
    if (backend := _backend()) == "jax":
        return
    for name in ("devices", "coordinator", "num_processes", "process_id", "distributed"):
        value = getattr(config, name)
        if value not in (None, False) and (name, value) != ("devices", 1):
            raise InputError(
                f"`{name}`: received {value} under KERAS_BACKEND={backend}, which runs on one device here; expected "
                "KERAS_BACKEND=jax in the environment for more, or one device"
            )


def setup(config):
    """Divides what is computed from now on among the devices that a config asks for.

    Keras is imported and seeded by now, and no model is made: variables have to lie on all devices from the first.

    Args:
        config: a cli.configs.MachineConfig: `devices` of each process, None for all that there are; `batch_size`, which
            they divide.

    Raises:
        InputError: there are fewer devices, or the batch doesn't divide by them.
    """
    check(config)
    _spreads.clear()
    if _backend() != "jax":
        return
    import keras
    from keras import distribution

    chosen = _chosen(config.devices)
    if len(chosen) == 1:
        if distribution.distribution() is not None:  # of an earlier run in this process
            distribution.set_distribution(None)
        return
    names = [f"{device.platform}:{device.id}" for device in chosen]
    # False: `batches` gives each process its rows, so that Keras has none to divide
    layout = distribution.DataParallel(devices=names, auto_shard_dataset=False)
    distribution.set_distribution(layout)
    mesh = layout.device_mesh
    rows, whole = (
        keras.distribution.TensorLayout(axes, mesh).backend_layout for axes in ((layout.batch_dim_name,), ())
    )
    _spreads.append(_Spread(len(chosen), rows, whole))
    if config.batch_size is not None:
        check_rows(config.batch_size, "batch_size")


def _chosen(wanted):
    """The jax.Devices to compute on: the first so many of each process, those of a process side by side."""
    import jax

    found = [[d for d in jax.devices() if d.process_index == i] for i in range(jax.process_count())]
    least = min(map(len, found))
    if wanted is not None and wanted > least:
        raise InputError(
            f"`devices`: received {wanted}, expected at most {least}, the devices that JAX finds "
            + ("here" if len(found) == 1 else "for each process")
            + f" ({found[0][0].device_kind})"
            + "; docs/how-to/several-devices.md says how one processor is shown as several"
            * (found[0][0].platform == "cpu")
        )
    return [device for devices in found for device in devices[: wanted or least]]


def check_rows(rows, name):
    """Raises InputError where so many rows, of the parameter `name`, don't divide by the devices.

    Processes that feed unequal numbers of rows would compute other weights each, without an error.
    """
    if rows % count():
        near = max(count(), rows - rows % count())
        raise InputError(
            f"`{name}`: received {rows} images a batch, expected a multiple of {count()}, the devices that share it, "
            f"such as {near}"
        )


# ---- rows of a batch ---------------------------------------------------------------------------------------------


def parts(start, stop):
    """The slices in which the rows from start to stop are computed: all that divide by the devices, and the rest.

    For what is summed over rows, or is computed of each alone: the rest is fewer rows than there are devices, and
    every device computes it, see `rows`.

    Returns:
        List of one or two slices.
    """
    middle = stop - (stop - start) % count()
    return [slice(*ends) for ends in ((start, middle), (middle, stop)) if ends[0] < ends[1]]


def rows(array, part):
    """Rows of an array as a tensor on all devices: divided among them, or all on each where they don't divide.

    Args:
        array: (N, ...), the same in all processes; of a process's own rows alone anything is read.
        part: the slice of its rows.
    """
    if not _spreads:
        from keras import ops

        return ops.convert_to_tensor(array[part])
    import jax
    import numpy as np

    start, stop, _ = part.indices(len(array))
    size = stop - start
    dtype = jax.dtypes.canonicalize_dtype(array.dtype)

    def read(index):
        first, last, _ = index[0].indices(size)
        return np.asarray(array[start + first : start + last], dtype)

    layout = _spread().whole if size % count() else _spread().rows
    return jax.make_array_from_callback((size, *array.shape[1:]), layout, read)


def everywhere(array):
    """An array that all processes have, as a tensor that lies whole on every device."""
    if not _spreads:
        from keras import ops

        return ops.convert_to_tensor(array)
    import jax
    import numpy as np

    array = np.asarray(array)
    array = array.astype(jax.dtypes.canonicalize_dtype(array.dtype))
    return jax.make_array_from_callback(array.shape, _spread().whole, lambda index: array[index])


def compiled(function):
    """jax.jit of a function of tensors from `rows` and `everywhere`, whose outputs every process can read."""
    import jax

    return jax.jit(function, out_shardings=_spread().whole) if _spreads else jax.jit(function)


def predictor(model):
    """function(array, part) -> the outputs of a model of one output for those rows, in inference mode, as numpy.

    Args:
        model: a keras.Model; what is compiled for it is kept with it.
    """
    if not _spreads:
        return lambda array, part: model.predict_on_batch(array[part])
    import numpy as np

    if not hasattr(model, "_predict_on_devices"):

        def predict(trained, fixed, images):
            return model.stateless_call(trained, fixed, images, training=False)[0]

        model._predict_on_devices = compiled(predict)

    def outputs(array, part):
        variables = ([v.value for v in found] for found in (model.trainable_variables, model.non_trainable_variables))
        return np.asarray(model._predict_on_devices(*variables, rows(array, part)))

    return outputs
