# SPDX-License-Identifier: MIT
"""The importance of columns as llama-imatrix measures it: the mean square of what they are multiplied by on a text."""
import torch
from safetensors.torch import load_file

import model
import model6


def empty(tensors):
    """A model of a checkpoint's version and shape."""
    V, D = tensors["emb.weight"].shape
    layers = 1 + max(int(name.split(".")[1]) for name in tensors if name.startswith("blocks."))
    att = {name.split(".")[-1]: values.shape for name, values in tensors.items() if name.startswith("blocks.1.att.")}
    if "time_maa_x" in att:
        return model6.RWKV6(V, D, layers, (att["time_maa_w1"][1] // 5, att["time_decay_w1"][1]))
    return model.RWKV7(V, D, layers, [att[letter + "1"][1] for letter in "wavg"])


@torch.no_grad()
def importance(path, text):
    """The importance of the columns of each matrix of an RWKV-7 or 6 checkpoint with byte vocabulary, by its name."""
    tensors = {name: values.float() for name, values in load_file(path).items()}
    net = empty(tensors)
    net.load_state_dict(tensors)
    names, found = {p.data_ptr(): name for name, p in net.named_parameters()}, {}
    linear = model.linear

    def watching(x, weight, half):
        # Parts of a parameter, like RWKV-6's five of its token shift, have no name of their own.
        if name := names.get(weight.data_ptr()):
            found[name] = x.square().flatten(0, -2).mean(0).numpy()
        return linear(x, weight, half)

    model.linear = model6.linear = watching
    try:
        net(torch.tensor([[0, *text]]), net.fresh(1))
    finally:
        model.linear = model6.linear = linear
    return found
