# SPDX-License-Identifier: MIT
"""The importance of columns as llama-imatrix measures it: the mean square of what they are multiplied by on a text."""
import torch
from safetensors.torch import load_file

import model


@torch.no_grad()
def importance(path, text):
    """A dictionary from names of matrices of an RWKV-7 checkpoint with byte vocabulary to arrays of their columns."""
    tensors = {name: values.float() for name, values in load_file(path).items()}
    ranks = [tensors[f"blocks.1.att.{letter}1"].shape[1] for letter in "wavg"]
    V, D = tensors["emb.weight"].shape
    net = model.RWKV7(V, D, 1 + max(int(name.split(".")[1]) for name in tensors if name.startswith("blocks.")), ranks)
    net.load_state_dict(tensors)
    names, found = {p.data_ptr(): name for name, p in net.named_parameters()}, {}
    linear = model.linear

    def watching(x, weight, half):
        found[names[weight.data_ptr()]] = x.square().flatten(0, -2).mean(0).numpy()
        return linear(x, weight, half)

    model.linear = watching
    try:
        net(torch.tensor([[0, *text]]), net.fresh(1))
    finally:
        model.linear = linear
    return found
