# SPDX-License-Identifier: MIT
"""RWKV-7 in PyTorch for training on the CPU: the model, its initial values and the recurrence kernel.

Tensor names are BlinkDL's, so `export` writes a checkpoint any RWKV-7 loader reads. Shapes in the comments: B rows,
T tokens, D width, H heads of 64, F = 4 D, and R a low rank.
"""
import ctypes
import math
import os
import subprocess

import torch
import torch.nn.functional as F
from torch import nn

HEAD = 64
DECAY = math.exp(-0.5)


def kernel():
    """The compiled recurrence (wkv7.cpp), built beside its source when missing or out of date."""
    here = os.path.dirname(os.path.abspath(__file__))
    source, library = os.path.join(here, "wkv7.cpp"), os.path.join(here, "wkv7.so")
    if not os.path.exists(library) or os.path.getmtime(library) < os.path.getmtime(source):
        subprocess.run(["g++", "-O3", "-march=native", "-mprefer-vector-width=512", "-ffast-math", "-fopenmp",
                        "-shared", "-fPIC", source, "-o", library], check=True)
    return ctypes.CDLL(library)


LIBRARY = kernel()


def pointers(*tensors):
    """The addresses of contiguous float32 tensors, as the kernel takes them."""
    for tensor in tensors:
        assert tensor.is_contiguous() and tensor.dtype == torch.float32
    return [ctypes.c_void_p(tensor.data_ptr()) for tensor in tensors]


@torch.library.custom_op("rwkv::wkv7", mutates_args=())
def wkv7(r: torch.Tensor, w: torch.Tensor, k: torch.Tensor, v: torch.Tensor, a: torch.Tensor, b: torch.Tensor,
         state: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """r, w, k, v, a, b [B,T,D] and the state [B,H,64 keys,64 values] -> y [B,T,D], kept states, last state."""
    B, T, D = r.shape
    y = torch.empty_like(r)
    kept = r.new_empty(B, D // HEAD, (T + 15) // 16, HEAD, HEAD)
    last = torch.empty_like(state)
    LIBRARY.wkv7_forward(B, T, D // HEAD, *pointers(r, w, k, v, a, b, state, y, kept, last))
    return y, kept, last


@wkv7.register_fake
def _(r, w, k, v, a, b, state):
    B, T, D = r.shape
    return torch.empty_like(r), r.new_empty(B, D // HEAD, (T + 15) // 16, HEAD, HEAD), torch.empty_like(state)


@torch.library.custom_op("rwkv::wkv7_back", mutates_args=())
def wkv7_back(r: torch.Tensor, w: torch.Tensor, k: torch.Tensor, v: torch.Tensor, a: torch.Tensor, b: torch.Tensor,
              kept: torch.Tensor, dy: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor,
                                                             torch.Tensor, torch.Tensor]:
    """The gradients of r, w, k, v, a, b for the gradient dy [B,T,D] of y; none flows into the incoming state."""
    B, T, D = r.shape
    out = tuple(torch.empty_like(r) for _ in range(6))
    LIBRARY.wkv7_backward(B, T, D // HEAD, *pointers(r, w, k, v, a, b, kept, dy, *out))
    return out


@wkv7_back.register_fake
def _(r, w, k, v, a, b, kept, dy):
    return tuple(torch.empty_like(r) for _ in range(6))


def _save(ctx, inputs, output):
    ctx.save_for_backward(*inputs[:6], output[1])


def _backward(ctx, dy, dkept, dlast):
    return (*wkv7_back(*ctx.saved_tensors, dy.contiguous()), None)


wkv7.register_autograd(_backward, setup_context=_save)


def linear(x, weight, half):
    """x [..,in] times weight [out,in], in bfloat16 with float32 sums when `half`; the result is float32."""
    if half:
        return F.linear(x.bfloat16(), weight.bfloat16()).float()
    return F.linear(x, weight)


def ranges(D, l, L):
    """Building blocks of the initial values: channel/D, centred ramp, signed square zigzag within heads, depths."""
    n = torch.arange(D, dtype=torch.float32)
    zigzag = ((n % HEAD) - (HEAD - 1) / 2) / ((HEAD - 1) / 2)
    return n / D, n / (D - 1) - 0.5, zigzag * zigzag.abs(), l / max(L - 1, 1), 1 - l / L


def low_rank(D, R):
    """A pair of low-rank factors: zeros [D,R] and scaled orthogonal rows [R,D]."""
    return nn.Parameter(torch.zeros(D, R)), nn.Parameter(nn.init.orthogonal_(torch.empty(R, D), gain=0.1))


def uniform(rows, columns, scale):
    """A bias-free linear layer's weight [rows,columns], uniform in +-scale."""
    layer = nn.Linear(columns, rows, bias=False)
    nn.init.uniform_(layer.weight, -scale, scale) if scale else nn.init.zeros_(layer.weight)
    return layer


class TimeMix(nn.Module):
    """The attention-free mixer of one layer."""

    def __init__(self, D, l, L, ranks):
        super().__init__()
        self.layer, self.heads = l, D // HEAD
        ramp, line, zigzag, depth, rest = ranges(D, l, L)
        shape = lambda x: nn.Parameter(x.reshape(1, 1, D).clone())
        for name, power in (("r", 0.2), ("w", 0.9), ("k", 0.7), ("v", 0.7), ("a", 0.9), ("g", 0.2)):
            setattr(self, "x_" + name, shape(1 - ramp ** (power * rest)))
        decay = -6 + 6 * (torch.arange(D) / (D - 1)) ** (1 + depth ** 0.3)
        self.w0 = shape(decay + 0.5 + zigzag * 2.5)
        self.w1, self.w2 = low_rank(D, ranks[0])
        self.a0 = shape(-0.19 + zigzag * 0.3 + line * 0.4)
        self.a1, self.a2 = low_rank(D, ranks[1])
        if l > 0:
            self.v0 = shape(0.73 - line * 0.4)
            self.v1, self.v2 = low_rank(D, ranks[2])
        self.g1, self.g2 = low_rank(D, ranks[3])
        self.k_k, self.k_a = shape(0.71 - line * 0.1), shape(torch.full((D,), 1.02))
        self.r_k = nn.Parameter(torch.full((self.heads, HEAD), -0.04))
        self.receptance, self.key = uniform(D, D, 0.5 / D ** 0.5), uniform(D, D, 0.05 / D ** 0.5)
        self.value, self.output = uniform(D, D, 0.5 / D ** 0.5), uniform(D, D, 0)
        self.ln_x = nn.GroupNorm(self.heads, D, eps=64e-5)
        nn.init.constant_(self.ln_x.weight, ((1 + l) / L) ** 0.7)

    def forward(self, x, shift, state, v_first, half):
        """x [B,T,D], shift [B,1,D], state [B,H,64,64] -> the output, the new shift and state, v of layer 0."""
        B, T, D = x.shape
        d = torch.cat((shift, x[:, :-1]), 1) - x
        r = linear(x + d * self.x_r, self.receptance.weight, half)
        k = linear(x + d * self.x_k, self.key.weight, half)
        x_v = x + d * self.x_v
        v = linear(x_v, self.value.weight, half)
        w = linear(torch.tanh(linear(x + d * self.x_w, self.w1.T, half)), self.w2.T, half)
        w = torch.exp(-DECAY * torch.sigmoid(self.w0 + w))
        a = torch.sigmoid(self.a0 + linear(linear(x + d * self.x_a, self.a1.T, half), self.a2.T, half))
        g = linear(torch.sigmoid(linear(x + d * self.x_g, self.g1.T, half)), self.g2.T, half)
        if self.layer == 0:
            v_first = v
        else:
            v = v + (v_first - v) * torch.sigmoid(self.v0 + linear(linear(x_v, self.v1.T, half), self.v2.T, half))
        kk = F.normalize((k * self.k_k).view(B, T, self.heads, HEAD), dim=-1).view(B, T, D)
        k = k * (1 + (a - 1) * self.k_a)
        y, _, last = wkv7(*(t.contiguous() for t in (r, w, k, v, -kk, kk * a)), state)
        y = group_norm(y.view(B, T, self.heads, HEAD)).view(B, T, D) * self.ln_x.weight + self.ln_x.bias
        bonus = (r * k * self.r_k.view(1, 1, D)).view(B, T, self.heads, HEAD).sum(-1, keepdim=True)
        y = y + (bonus * v.view(B, T, self.heads, HEAD)).view(B, T, D)
        return linear(y * g, self.output.weight, half), x[:, -1:], last, v_first


def group_norm(y, eps=64e-5):
    """y [..,64] with mean 0 and variance 1 on its last axis."""
    y = y - y.mean(-1, keepdim=True)
    return y * torch.rsqrt((y * y).mean(-1, keepdim=True) + eps)


class ChannelMix(nn.Module):
    """The feed-forward part of one layer."""

    def __init__(self, D, l, L):
        super().__init__()
        ramp, *_, rest = ranges(D, l, L)
        self.x_k = nn.Parameter((1 - ramp ** (rest ** 4)).reshape(1, 1, D))
        self.key, self.value = uniform(4 * D, D, 0.5 / D ** 0.5), uniform(D, 4 * D, 0)

    def forward(self, x, shift, half):
        """x [B,T,D], shift [B,1,D] -> the output and the new shift."""
        d = torch.cat((shift, x[:, :-1]), 1) - x
        k = linear(x + d * self.x_k, self.key.weight, half)
        return linear(torch.relu(k) ** 2, self.value.weight, half), x[:, -1:]


class Block(nn.Module):
    """One layer: both mixers with their norms; layer 0 also normalises the embedding."""

    def __init__(self, D, l, L, ranks, mixers):
        super().__init__()
        if l == 0:
            self.ln0 = nn.LayerNorm(D)
        self.first = l == 0
        self.ln1, self.ln2 = nn.LayerNorm(D), nn.LayerNorm(D)
        self.att, self.ffn = mixers[0](D, l, L, ranks), mixers[1](D, l, L)

    def forward(self, x, state, v_first, half):
        """x [B,T,D] and the layer's state (shift, wkv, shift) -> x, the new state, v of layer 0."""
        if self.first:
            x = self.ln0(x)
        y, shift, wkv, v_first = self.att(self.ln1(x), state[0], state[1], v_first, half)
        x = x + y
        y, shift2 = self.ffn(self.ln2(x), state[2], half)
        return x + y, (shift.detach(), wkv.detach(), shift2.detach()), v_first


class RWKV7(nn.Module):
    """The whole model: `V` tokens, width `D`, `L` layers, ranks of w, a, v, g."""

    mixers = TimeMix, ChannelMix

    def __init__(self, V=256, D=256, L=6, ranks=(32, 32, 32, 64)):
        super().__init__()
        self.emb = nn.Embedding(V, D)
        nn.init.uniform_(self.emb.weight, -1e-4, 1e-4)
        self.blocks = nn.ModuleList(Block(D, l, L, ranks, self.mixers) for l in range(L))
        self.ln_out = nn.LayerNorm(D)
        self.head = nn.Linear(D, V, bias=False)
        nn.init.orthogonal_(self.head.weight, gain=0.5)

    def fresh(self, B):
        """A zero state for B rows: per layer shift [B,1,D], wkv [B,H,64,64], shift [B,1,D]."""
        D = self.emb.weight.shape[1]
        zero = lambda: torch.zeros(B, 1, D)
        return [(zero(), torch.zeros(B, D // HEAD, HEAD, HEAD), zero()) for _ in self.blocks]

    def forward(self, tokens, state, half=False):
        """tokens [B,T] -> logits [B,T,V] and the state after them (without gradient)."""
        x, v_first, after = self.emb(tokens), torch.zeros(1), []
        for block, own in zip(self.blocks, state):
            x, own, v_first = block(x, own, v_first, half)
            after.append(own)
        return linear(self.ln_out(x), self.head.weight, half), after


class AttentionBlock(nn.Module):
    """RWKV-X's sparse attention, by the rule of decoding (9.2 of the reference's package): chunks of `chunk` tokens, of
    which a token attends to the best `top`, to the tokens after the last whole chunk and to itself."""

    def __init__(self, D, chunk, top):
        super().__init__()
        self.chunk, self.top, self.heads = chunk, top, D // HEAD
        self.ln1, self.ln2 = nn.LayerNorm(D), nn.LayerNorm(D)
        self.att, self.ffn = nn.Module(), ChannelMix(D, 0, 1)
        for name in ("receptance", "key", "value", "output"):
            setattr(self.att, name, uniform(D, D, 0 if name == "output" else 0.5 / D ** 0.5))

    def forward(self, x, rows):
        """x [B,T,D] of all tokens, rows [B,R] > 0 -> x [B,R,D] of these rows, their chunks' scores [B,R,T/chunk]
        (-inf: not to be chosen) and their attention's logits [B,H,R,T]."""
        pairs = torch.cat((rows - 1, rows), 1)
        take = lambda t: t.gather(1, pairs[..., None].expand(-1, -1, t.shape[-1]))
        h = self.ln1(x)
        q, k, v = self.att.receptance(take(h)), self.att.key(h), self.att.value(h)
        chosen, scores = self.choose(q, k, pairs)
        split = lambda t: t.unflatten(-1, (self.heads, HEAD)).transpose(1, 2)
        logits = split(q) @ split(k).mT / HEAD ** 0.5
        y = torch.softmax(logits.masked_fill(~chosen[:, None], -math.inf), -1) @ split(v)
        z = take(x) + self.att.output(y.transpose(1, 2).flatten(2))
        before, now = self.ln2(z).chunk(2, 1)
        k = F.linear(now + (before - now) * self.ffn.x_k, self.ffn.key.weight)
        R = rows.shape[1]
        return z[:, R:] + F.linear(torch.relu(k) ** 2, self.ffn.value.weight), scores[:, R:], logits[:, :, R:]

    def choose(self, q, k, rows):
        """q [B,R,D] of the rows [B,R], k [B,T,D] -> what each attends to [B,R,T], scores of the chunks [B,R,C]."""
        (B, T, D), c = k.shape, self.chunk
        chunks = max(T // c, self.top)
        means = F.pad(k[:, :T // c * c].reshape(B, T // c, c, D).mean(2), (0, 0, 0, chunks - T // c))
        whole = rows[..., None] // c
        scores = (q @ means.mT).masked_fill(torch.arange(chunks) >= whole, -math.inf)
        best = torch.zeros(scores.shape, dtype=torch.bool).scatter_(2, scores.topk(self.top, -1).indices, True)
        place = torch.arange(T)
        picked = best.gather(2, (place // c).clamp(max=chunks - 1).expand(*rows.shape, T)) & (place < whole * c)
        near = (place >= whole * c) | (rows[..., None] <= c * self.top)
        return (picked | near) & (place <= rows[..., None]), scores


class RWKVX(RWKV7):
    """`L` blocks of RWKV-7 and one of sparse attention behind them, evaluated only where something is asked."""

    def __init__(self, V, D, L, ranks, chunk, top):
        super().__init__(V, D, L, ranks)
        self.moba = nn.ModuleList([AttentionBlock(D, chunk, top)])

    def forward(self, tokens, rows, pieces=1):
        """tokens [B,T] and rows [B,R] -> logits [B,R,V] at these rows, and what AttentionBlock returns beside. The
        recurrent state is lost between `pieces` of equal length."""
        (B, T), v_first = tokens.shape, torch.zeros(1)
        x = self.emb(tokens.reshape(B * pieces, T // pieces))
        for block, own in zip(self.blocks, self.fresh(B * pieces)):
            x, _, v_first = block(x, own, v_first, False)
        x, scores, logits = self.moba[0](x.reshape(B, T, -1), rows)
        return self.head(self.ln_out(x)), scores, logits


def export(model, path, dtype=torch.bfloat16):
    """Writes the parameters as a safetensors checkpoint, rounded to `dtype`; RWKV-X's under its authors' names."""
    from safetensors.torch import save_file
    prefix = "rwkv." if isinstance(model, RWKVX) else ""
    save_file({name if name.startswith("moba.") else prefix + name: p.detach().to(dtype).contiguous()
               for name, p in model.state_dict().items()}, path)
