# SPDX-License-Identifier: MIT
"""Reads .rwkv files; written from rwkv-v1.md alone. Needs numpy and zstandard.
read_model.py MODEL                               lists metadata and tensors
read_model.py MODEL --tensor NAME --out FILE.npy  writes the values of a tensor (format bytes: the bytes)
"""
import argparse
import os
import struct
import sys

import numpy as np
import zstandard

FORMATS = {0: "bytes", 1: "F32", 2: "F16", 3: "BF16", 4: "INT4", 5: "INT5", 8: "INT8"}
T4 = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113]
T5 = [-116, -99, -83, -71, -62, -54, -47, -40, -34, -28, -23, -17, -12, -7, -2, 3,
      8, 12, 17, 23, 28, 34, 40, 46, 53, 61, 71, 82, 97, 112, 121, 127]


def check(holds, what):
    if not holds:
        sys.exit(f"damaged: {what}")


def xxh64(data):
    mask, p1, p2 = (1 << 64) - 1, 0x9E3779B185EBCA87, 0xC2B2AE3D27D4EB4F
    p3, p4, p5 = 0x165667B19E3779F9, 0x85EBCA77C2B2AE63, 0x27D4EB2F165667C5

    def rotate(x, n):
        return (x << n | x >> (64 - n)) & mask
    def mix(lane, word):
        return rotate((lane + word * p2) & mask, 31) * p1 & mask
    stripes, h = len(data) // 32, p5
    if stripes:
        a, b, c, d = (p1 + p2) & mask, p2, 0, -p1 & mask
        for w0, w1, w2, w3 in struct.iter_unpack("<4Q", data[:stripes * 32]):
            a, b, c, d = mix(a, w0), mix(b, w1), mix(c, w2), mix(d, w3)
        h = rotate(a, 1) + rotate(b, 7) + rotate(c, 12) + rotate(d, 18)
        for lane in (a, b, c, d):
            h = ((h ^ mix(0, lane)) * p1 + p4) & mask
    h = (h + len(data)) & mask
    words, fours = len(data) & 24, len(data) & 4
    tail = data[stripes * 32:]
    for (word,) in struct.iter_unpack("<Q", tail[:words]):
        h = (rotate(h ^ mix(0, word), 27) * p1 + p4) & mask
    for (word,) in struct.iter_unpack("<I", tail[words:words + fours]):
        h = (rotate(h ^ (word * p1 & mask), 23) * p2 + p3) & mask
    for byte in tail[words + fours:]:
        h = rotate(h ^ (byte * p5 & mask), 11) * p1 & mask
    h = (h ^ h >> 33) * p2 & mask
    h = (h ^ h >> 29) * p3 & mask
    return h ^ h >> 32


def up(n, step):
    return -(-n // step) * step


def runs(kind, columns, rows_per_record):
    """The record's stream as (class, bytes); classes: 0 d, 1 scales, 2 low bits, 3 codes or values."""
    if kind == 0:
        return [(3, 1)]
    k = up(columns, 32)
    if kind <= 3:
        return [(3, k * rows_per_record * (4 if kind == 1 else 2))]
    if rows_per_record == 1:
        return [(0, up(up(k, 256) // 128, 16)), (1, up(k // (32 if kind == 8 else 16), 16)),
                (2, up(k // 8, 16) if kind == 5 else 0), (3, k if kind == 8 else k // 2)]
    stream, span = [], 128 if kind == 8 else 64
    for column in range(0, k, span):
        width = min(span, k - column)
        stream += [(0, 64)] if column % 512 == 0 else []
        stream += [(1, 64), (2, 2 * width if kind == 5 else 0), (3, width * (16 if kind == 8 else 8))]
    return stream


class Tensor:
    def __init__(self, record, name):
        (self.kind, self.rows_per_record, self.rows, self.columns, self.per_chunk, self.first_chunk, self.chunks,
         self.flags, self.hash, self.raw_bytes) = struct.unpack("<6xBB5IB3x2Q", record)
        check(self.kind in FORMATS, f"{name}: format {self.kind}")
        self.name, self.records = name, -(-self.rows // self.rows_per_record)
        self.runs = runs(self.kind, self.columns, self.rows_per_record)
        self.record_bytes = sum(n for _, n in self.runs)
        check(self.records * self.record_bytes == self.raw_bytes, name)

    def positions(self):
        """Where the bytes of each class stand in a record."""
        classes = np.concatenate([np.full(n, c, np.uint8) for c, n in self.runs])
        return [np.flatnonzero(classes == c) for c in range(4)]

    def merge(self, split):
        n, at = len(split) // self.record_bytes, 0
        records = np.empty((n, self.record_bytes), np.uint8)
        for c, positions in enumerate(self.positions()):
            size = n * len(positions)
            width = [2, 1, 1, {1: 4, 2: 2, 3: 2}.get(self.kind, 1)][c]
            records[:, positions] = split[at:at + size].reshape(width, -1).T.reshape(n, -1)
            at += size
        return records

    def values(self, records):
        n, k, panel = len(records), up(self.columns, 32), self.rows_per_record == 16
        d, scales, low, codes = (np.ascontiguousarray(records[:, p]) for p in self.positions())
        if self.kind == 0:
            return codes[:, 0]
        if self.kind <= 3:
            v = codes.view({1: "<f4", 2: "<f2", 3: "<u2"}[self.kind])
            v = (v.astype(np.uint32) << 16).view(np.float32) if self.kind == 3 else v.astype(np.float32)
            v = v.reshape(n, k, 16).transpose(0, 2, 1) if panel else v
            return v.reshape(-1, k)[:self.rows, :self.columns]
        if panel:
            d, scales = (x.reshape(n, -1, 16).transpose(0, 2, 1) for x in (d.view("<f2"), scales))
            c = codes.reshape(n, -1, 16, 4)  # line, row, i
            if self.kind != 8:
                c = np.stack([c & 15, c >> 4], 3)  # line, row, half, i
            if self.kind == 5:
                bits = np.unpackbits(low, bitorder="little").reshape(n, -1, 2, 16, 4)  # line, half, row, i
                c = 2 * c + bits.transpose(0, 1, 3, 2, 4)
            c = np.moveaxis(c, 2, 1)
        else:
            d, c = d.view("<f2"), codes
            if self.kind != 8:
                c = codes.reshape(n, -1, 16)
                c = np.stack([c & 15, c >> 4], 2).reshape(n, -1)
            if self.kind == 5:
                c = 2 * c + np.unpackbits(low, axis=1, bitorder="little")[:, :k]
        c = c.reshape(-1, k)
        d = np.repeat(d.reshape(len(c), -1), 256, 1)[:, :k].astype(np.float32) / 4096
        b = np.repeat(scales.reshape(len(c), -1), 32 if self.kind == 8 else 16, 1)[:, :k].astype(np.int32)
        if self.kind == 4:
            s, level = (b & 63 ^ 32) - 32, np.array(T4)[c] + np.array([-4, 0, 4, 8])[b >> 6]
        elif self.kind == 5:
            s, level = (b & 127 ^ 64) - 64, np.array(T5)[c] + np.array([0, 4])[b >> 7]
        else:
            s, level = b, c.astype(np.int32) - 128
        return (d * s.astype(np.float32) * level.astype(np.float32))[:self.rows, :self.columns]


class Model:
    def __init__(self, path):
        self.file = open(path, "rb")
        head = os.pread(self.file.fileno(), 64, 0)
        check(len(head) == 64 and head[:8] == b"\x89RWKV\r\n\x1a", "magic")
        version, required, tensors, chunks, metadata, names, size, index_hash, head_hash = struct.unpack(
            "<8xH2xI4x4I4x3Q", head)
        check(version == 1 and required <= 3 and xxh64(head[:56]) == head_hash, "header, or a newer version")
        check(os.path.getsize(path) == size, "size of the file")
        index = os.pread(self.file.fileno(), metadata + 48 * tensors + 24 * chunks + names, 64)
        check(xxh64(index) == index_hash, "index")
        self.metadata, at = dict(self.entries(index[:metadata])), metadata + 48 * tensors
        self.chunks = list(struct.iter_unpack("<QQIB3x", index[at:at + 24 * chunks]))
        self.tensors = {}
        for i in range(tensors):
            record = index[metadata + 48 * i:][:48]
            start, length = struct.unpack_from("<IH", record)
            name = index[at + 24 * chunks + start:][:length].decode()
            self.tensors[name] = Tensor(record, name)

    @staticmethod
    def entries(section):
        at = 4
        for _ in range(int.from_bytes(section[:4], "little")):
            n = section[at]
            key, kind = section[at + 1:at + 1 + n].decode(), section[at + 1 + n]
            at += n + 2
            count, at = (1, at) if kind < 3 else (struct.unpack_from("<I", section, at)[0], at + 4)
            code = ("?", "q", "d", f"{count}s", f"{count}q")[kind]
            value = struct.unpack_from("<" + code, section, at)
            at += struct.calcsize("<" + code)
            yield key, value[0].decode() if kind == 3 else list(value) if kind == 4 else value[0]
        check(at == len(section), "metadata")

    def read(self, tensor):
        records = []
        for i, (offset, checksum, length, codec) in enumerate(self.chunks[tensor.first_chunk:][:tensor.chunks]):
            data = os.pread(self.file.fileno(), length, offset)
            check(xxh64(data) == checksum, f"{tensor.name}, chunk {i}")
            n = min(tensor.per_chunk, tensor.records - i * tensor.per_chunk)
            if codec == 1:
                data = zstandard.ZstdDecompressor().decompress(data, max_output_size=n * tensor.record_bytes)
            data = np.frombuffer(data, np.uint8).reshape(n, tensor.record_bytes)
            records.append(tensor.merge(data.reshape(-1)) if codec == 1 else data)
        return tensor.values(np.concatenate(records))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Lists a .rwkv file or extracts a tensor.")
    parser.add_argument("model")
    parser.add_argument("--tensor", help="extract this one")
    parser.add_argument("--out", help="to this .npy file", default="tensor.npy")
    options = parser.parse_args()
    model = Model(options.model)
    if options.tensor:
        sys.exit(np.save(options.out, model.read(model.tensors[options.tensor])))
    for key, value in model.metadata.items():
        print(f"{key} = {value!r}")
    for t in model.tensors.values():
        print(f"{t.name}  {FORMATS[t.kind]} {t.rows} x {t.columns}  {t.rows_per_record} per record"
              f"{', transposed' if t.flags & 1 else ''}  {t.raw_bytes} bytes")
