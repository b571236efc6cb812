# SPDX-License-Identifier: MIT
"""RWKV-6 in PyTorch for training on the CPU, with the parts and the recurrence kernel of model.py.

RWKV-6's recurrence is RWKV-7's without removal, read before the token is added:
y_t = S_(t-1) r_t + (u . k_t . r_t) v_t. So the kernel gets the receptance of the token after each, and zeros for a
and b.
"""
import torch
import torch.nn.functional as F
from torch import nn

from model import HEAD, RWKV7, group_norm, linear, low_rank, ranges, uniform, wkv7


class TimeMix6(nn.Module):
    """The attention-free mixer of one layer; `ranks` of the token shift and of the decay."""

    def __init__(self, D, l, L, ranks):
        super().__init__()
        self.heads = D // HEAD
        ramp, _, _, depth, rest = ranges(D, l, L)
        depth = l / max(L - 1, 1)
        shape = lambda x: nn.Parameter(x.reshape(1, 1, D).clone())
        for name, power, less in (("x", 1, 0), ("w", 1, 0), ("k", 1, 0), ("v", 1, 0.3 * depth), ("r", 0.5, 0),
                                  ("g", 0.5, 0)):
            setattr(self, "time_maa_" + name, shape(1 - ramp ** (power * rest) - less))
        self.time_maa_w1 = nn.Parameter(torch.zeros(D, 5 * ranks[0]))
        self.time_maa_w2 = nn.Parameter(torch.empty(5, ranks[0], D).uniform_(-0.01, 0.01))
        place = torch.arange(D) / (D - 1)
        self.time_decay = shape(-6 + 5 * place ** (0.7 + 1.3 * depth))
        self.time_decay_w1, self.time_decay_w2 = low_rank(D, ranks[1])
        zigzag = ((torch.arange(D) + 1) % 3 - 1) * 0.1
        self.time_faaaa = nn.Parameter((depth * (1 - place) + zigzag).reshape(self.heads, HEAD))
        self.receptance, self.key = uniform(D, D, 0.5 / D ** 0.5), uniform(D, D, 0.05 / D ** 0.5)
        self.value, self.output = uniform(D, D, 0.5 / D ** 0.5), uniform(D, D, 0)
        self.gate = uniform(D, D, 0.5 / D ** 0.5)
        self.ln_x = nn.GroupNorm(self.heads, D, eps=64e-5)
        nn.init.constant_(self.ln_x.weight, ((1 + l) / L) ** 0.7)

    def forward(self, x, shift, state, v_first, half):
        """x [B,T,D], shift [B,1,D], state [B,H,64,64] -> the output, the new shift and state, v_first as it came."""
        B, T, D = x.shape
        d = torch.cat((shift, x[:, :-1]), 1) - x
        mix = torch.tanh(linear(x + d * self.time_maa_x, self.time_maa_w1.T, half)).view(B, T, 5, -1)
        mixed = [x + d * (getattr(self, "time_maa_" + name) + linear(mix[:, :, n], self.time_maa_w2[n].T, half))
                 for n, name in enumerate("wkvrg")]
        r, k = linear(mixed[3], self.receptance.weight, half), linear(mixed[1], self.key.weight, half)
        v, g = linear(mixed[2], self.value.weight, half), F.silu(linear(mixed[4], self.gate.weight, half))
        w = self.time_decay + linear(torch.tanh(linear(mixed[0], self.time_decay_w1.T, half)),
                                     self.time_decay_w2.T, half)
        later = torch.cat((r[:, 1:], torch.zeros_like(r[:, :1])), 1)
        none = torch.zeros_like(r)
        y, _, last = wkv7(later, torch.exp(-torch.exp(w)), k, v, none, none, state)
        heads = lambda t: t.view(B, -1, self.heads, HEAD)
        first = torch.einsum("bhj,bhji->bhi", heads(r)[:, 0], state).reshape(B, 1, D)
        bonus = heads(r * k * self.time_faaaa.view(1, 1, D)).sum(-1, keepdim=True)
        y = heads(torch.cat((first, y[:, :-1]), 1)) + bonus * heads(v)
        y = group_norm(y).view(B, T, D) * self.ln_x.weight + self.ln_x.bias
        return linear(y * g, self.output.weight, half), x[:, -1:], last, v_first


class ChannelMix6(nn.Module):
    """The feed-forward part of one layer."""

    def __init__(self, D, l, L):
        super().__init__()
        ramp, *_, rest = ranges(D, l, L)
        for name in "kr":
            setattr(self, "time_maa_" + name, nn.Parameter((1 - ramp ** rest).reshape(1, 1, D)))
        self.key, self.value = uniform(4 * D, D, 0.5 / D ** 0.5), uniform(D, 4 * D, 0)
        self.receptance = uniform(D, D, 0)

    def forward(self, x, shift, half):
        """x [B,T,D], shift [B,1,D] -> the output and the new shift."""
        d = torch.cat((shift, x[:, :-1]), 1) - x
        k = linear(x + d * self.time_maa_k, self.key.weight, half)
        r = torch.sigmoid(linear(x + d * self.time_maa_r, self.receptance.weight, half))
        return r * linear(torch.relu(k) ** 2, self.value.weight, half), x[:, -1:]


class RWKV6(RWKV7):
    """The whole model: `V` tokens, width `D`, `L` layers, ranks of token shift and decay."""

    mixers = TimeMix6, ChannelMix6
