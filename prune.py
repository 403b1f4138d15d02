"""APoZ pruning in five functions: which channels of a trained network are idle, and the network without them.

Hu et al. 2016, Network Trimming, arXiv 1607.03250. No files, no prints, no training:

1. Score. A ReLU sets what is negative to zero. A channel that is zero nearly everywhere gives the next layer nearly
   nothing. `compute_apoz` counts its Average Percentage of Zeros over images and positions.
2. Mask. Some layers are idler than others, so a channel is compared with those of its own layer. `create_mask` keeps
   all but those that are far idler than the rest.
3. Trim. A convolution's kernel is (k, k, channels in, channels out). `trim_model` builds a network that lacks the
   masked channels: the layer that makes a channel loses a slice of the last axis, with its bias and its
   batch-normalisation, and each layer that reads it a slice of the third. `apply_mask` only sets the channels to zero:
   the logits of the trimmed network, in the size of before.
4. Count. `compute_sparsity` gives the share of the convolutions' parameters that is gone.

    apoz = compute_apoz(model, images)       # {layer: (channels,) from 0 to 1}
    mask = create_mask(apoz)                 # {layer: (channels,) True = keep}
    small = trim_model(model, mask)          # a smaller keras.Model
    print(compute_sparsity(small, model))    # from 0 to 1

Then the small network is trained for some epochs, since the remaining channels have to make up for what is gone, and
the steps are repeated: little by little costs less accuracy than all at once. `prune_model.py` is that loop, with other
criteria, budgets and files. The functions stand where that loop calls them too.
"""

from compress.pruning.criteria import compute_apoz
from compress.pruning.masks import create_mask
from compress.pruning.removal import apply_mask, compute_sparsity, trim_model

__all__ = ["apply_mask", "compute_apoz", "compute_sparsity", "create_mask", "trim_model"]
