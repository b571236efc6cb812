# SPDX-License-Identifier: MIT
"""Blocks of ggml's quantized types."""
import struct

import numpy as np


def q8_0(values):
    blocks = values.reshape(-1, 32)
    scale = (np.abs(blocks).max(1) / 127).astype("<f2")
    codes = np.round(blocks / np.maximum(scale.astype("<f4"), 1e-30)[:, None]).clip(-127, 127).astype("i1")
    return b"".join(s.tobytes() + c.tobytes() for s, c in zip(scale, codes))


def low_bits(values, bits, asymmetric):
    """Q4_0, Q4_1, Q5_0, Q5_1: a scale, perhaps a minimum, perhaps the fifth bits, two codes to a byte."""
    levels, out = (1 << bits) - 1, []
    for block in values.reshape(-1, 32):
        if asymmetric:
            minimum = np.float16(block.min())
            scale = np.float16((block.max() - block.min()) / levels)
        else:
            largest = block[np.abs(block).argmax()]
            scale = np.float16(largest / -(1 << (bits - 1)))
            minimum = np.float16(0)
        inverse = 1 / np.float32(scale) if scale else np.float32(0)
        shift = 0 if asymmetric else 1 << (bits - 1)
        codes = np.round((block - np.float32(minimum)) * inverse + shift).clip(0, levels).astype(np.uint32)
        head = scale.tobytes() + (minimum.tobytes() if asymmetric else b"")
        if bits == 5:
            head += struct.pack("<I", int(sum(int(code >> 4) << i for i, code in enumerate(codes))))
        low = codes & 15
        out.append(head + (low[:16] | low[16:] << 4).astype(np.uint8).tobytes())
    return b"".join(out)


def k_quant(kind):
    """Blocks of 256 with random sub-scales near one: valid files of a K-quant type, whose values are noise."""
    size = {"Q2_K": 84, "Q3_K": 110, "Q4_K": 144, "Q5_K": 176, "Q6_K": 210}[kind]
    # Offsets of the half-precision scales in a block, see ggml's block structs.
    places = {"Q2_K": [80, 82], "Q3_K": [108], "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208]}[kind]

    def write(values):
        random = np.random.default_rng(values.size)
        blocks = random.integers(0, 256, (values.size // 256, size), dtype=np.uint8)
        for place in places:
            blocks[:, place:place + 2] = np.frombuffer(np.float16(2e-5).tobytes(), np.uint8)
        return blocks.tobytes()
    return write


BLOCKS = {"Q4_0": lambda v: low_bits(v, 4, False), "Q4_1": lambda v: low_bits(v, 4, True),
          "Q5_0": lambda v: low_bits(v, 5, False), "Q5_1": lambda v: low_bits(v, 5, True), "Q8_0": q8_0}
BLOCKS.update({kind: k_quant(kind) for kind in ("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K")})
