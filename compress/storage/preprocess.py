"""What pixels go through in front of a network: decided in one place, from its file and what is asked for."""

import dataclasses

from compress.errors import InputError

# The RGB means that keras.applications subtracts ("caffe" mode), from 0 to 255
MEAN = (123.68, 116.779, 103.939)
# (mean, standard deviation) of R, G and B in the other modes of keras.applications' preprocess_input, and two more
PREPROCESSING = {
    "tf": ((127.5,) * 3, (127.5,) * 3),
    "torch": ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375)),
    "unit": ((0.0,) * 3, (255.0,) * 3),
    "none": ((0.0,) * 3, (1.0,) * 3),
}
STATISTICS = ("BatchNormalization", "SyncBatchNormalization", "Normalization")


@dataclasses.dataclass
class Pixels:
    """What happens to pixels in front of a network.

    Attributes:
        mode: of flags.PREPROCESSING, but not 'auto': what happens outside the file; 'none' where it is in the file.
        summary: what to say of it, after the file's name and a colon; parameters between backticks.
    """

    mode: str
    summary: str


def decide(path, layers, unread, asked, otherwise="caffe", why="as keras.applications' ResNets expect them"):
    """The Pixels of a model file.

    Args:
        path: the file, for the message.
        layers: its own layers and operations that act on each channel, 'rescaling (Rescaling)', in their order.
        unread: a layer among them that can't be read, or None.
        asked: what the user says of it, of flags.PREPROCESSING.
        otherwise: the mode of 'auto' for a file that holds nothing of the kind.
        why: says so.

    Raises:
        InputError: only the user can know.
    """
    # A file's own layers come first: what they do to pixels can't be done twice without an error. Where they can't be
    # read, or there are none, the user decides, or the habit of keras.applications.
    own = ", ".join(layers[:3]) + (f" and {len(layers) - 3} more" if len(layers) > 3 else "")
    if unread and asked == "auto":
        bare = unread.endswith("(Rescaling)")
        raise InputError(
            f"{path} has a layer {unread}"
            + (
                ", whose numbers no file of weights alone holds; expected the whole model, as "
                "model.save('model.keras') writes it, or"
                if bare
                else " that is not read; expected"
            )
            + " `preprocessing` with what the network is "
            f"to be given{' in its place' * bare}",
            path,
        )
    if unread:
        return Pixels(asked, f"pixels by `preprocessing={asked}`, in place of {unread}, which is not read")
    if not layers:
        if asked == "auto":
            return Pixels(otherwise, f"pixels by `preprocessing={otherwise}`, {why}")
        return Pixels(asked, f"pixels by `preprocessing={asked}`")
    if asked == "auto":
        return Pixels("none", f"pixels 0 to 255 through the file's own {own}")
    if all(layer.split(" (")[-1].rstrip(")") in STATISTICS for layer in layers):
        return Pixels(asked, f"pixels by `preprocessing={asked}`, then through the file's own {own}")
    return Pixels("none", f"pixels 0 to 255 through the file's own {own}, without `preprocessing={asked}` on top")
