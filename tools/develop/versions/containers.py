# SPDX-License-Identifier: MIT
"""Writes one model in every form that people publish: names, containers and what their converters do to values.

A model is a dictionary of BlinkDL names to float32 arrays in BlinkDL's shapes. Needs numpy alone. Used by
make_table.py and by tools/fuzz/seeds.py; made for small models, which it holds in memory.
"""
import io
import json
import pathlib
import pickle
import struct
import zipfile

import numpy as np

from ggml_blocks import BLOCKS

# ---- values -----------------------------------------------------------------------------------------------


def to_bf16(values):
    bits = np.ascontiguousarray(values, "<f4").view("<u4")
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2")


def encode(values, kind):
    """The bytes of an array as F32, F16 or BF16."""
    if kind == "BF16":
        return to_bf16(values).tobytes()
    return np.ascontiguousarray(values, {"F32": "<f4", "F16": "<f2"}[kind]).tobytes()


def decode(data, kind, shape):
    if kind == "BF16":
        bits = np.frombuffer(data, "<u2").astype("<u4") << 16
        return bits.view("<f4").reshape(shape)
    return np.frombuffer(data, {"F32": "<f4", "F16": "<f2"}[kind]).astype("<f4").reshape(shape)


# ---- reading the goldens ----------------------------------------------------------------------------------


def read_safetensors(path):
    data = pathlib.Path(path).read_bytes()
    (length,) = struct.unpack_from("<Q", data)
    tensors, start = {}, 8 + length
    for name, entry in json.loads(data[8:start]).items():
        if name != "__metadata__":
            begin, end = entry["data_offsets"]
            tensors[name] = decode(data[start + begin:start + end], entry["dtype"], entry["shape"])
    return tensors


def read_pth(path):
    """A torch checkpoint without torch: storages and tensors become arrays."""
    archive = zipfile.ZipFile(path)
    prefix = archive.namelist()[0].split("/")[0]
    kinds = {"FloatStorage": "F32", "HalfStorage": "F16", "BFloat16Storage": "BF16"}

    class Reader(pickle.Unpickler):
        def find_class(self, module, name):
            if name in kinds:
                return kinds[name]
            return {"OrderedDict": dict, "_rebuild_tensor_v2": rebuild}[name]

        def persistent_load(self, key):
            _, kind, number, _, count = key
            return decode(archive.read(f"{prefix}/data/{number}"), kind, [count])

    def rebuild(storage, offset, shape, strides, *_):
        strides = [4 * stride for stride in strides]
        return np.lib.stride_tricks.as_strided(storage[offset:], shape, strides).copy()

    return Reader(io.BytesIO(archive.read(f"{prefix}/data.pkl"))).load()


def read_model(folder):
    """The model of a golden case under BlinkDL names."""
    folder = pathlib.Path(folder)
    files = sorted(folder.glob("model*.safetensors"))
    tensors = {}
    for file in files:
        tensors.update(read_safetensors(file))
    if not files:
        tensors = read_pth(folder / "model.pth")
    if any(name.startswith("moba.") for name in tensors):  # RWKV-X: "rwkv." before the names of version 7
        return {name.removeprefix("rwkv."): value for name, value in tensors.items()}
    return dict(from_huggingface(name, value) for name, value in tensors.items())


FLA = [
    ("model.embeddings.", "emb."), ("model.norm.", "ln_out."), ("lm_head.", "head."), ("model.layers.", "blocks."),
    (".pre_norm.", ".ln0."), (".attn_norm.", ".ln1."), (".ffn_norm.", ".ln2."), (".attn.", ".att."),
    (".g_norm.", ".ln_x."), (".r_proj.", ".receptance."), (".k_proj.", ".key."), (".v_proj.", ".value."),
    (".o_proj.", ".output."),
] + [(f".{x}_lora.lora.{there}", f".{x}{here}") for x in "wavg" for there, here in
     (("0.weight", "1"), ("2.weight", "2"), ("2.bias", "0"))]
HUGGING_FACE = [
    ("rwkv.embeddings.", "emb."), ("rwkv.ln_out.", "ln_out."), ("rwkv.blocks.", "blocks."), (".pre_ln.", ".ln0."),
    (".attention.", ".att."), (".feed_forward.", ".ffn."), ("time_mix_key", "time_mix_k"),
    ("time_mix_value", "time_mix_v"), ("time_mix_receptance", "time_mix_r"), ("time_mix_gate", "time_mix_g"),
]


def from_huggingface(name, value):
    if name.startswith(("model.", "lm_head.")):
        if "_lora.lora." in name and name.endswith(".weight"):
            value = value.T
        name = rename(name, FLA)
    elif name.startswith("rwkv."):
        name = rename(name, HUGGING_FACE)
    return name, np.ascontiguousarray(value, "<f4")


def rename(name, pairs):
    for old, new in pairs:
        name = name.replace(old, new)
    return name


# ---- what a model is --------------------------------------------------------------------------------------


def version(model):
    if any("moba." in name for name in model):
        return "x"
    if "blocks.0.ffn.s_emb.weight" in model:
        return "7b" if "blocks.0.qkv.qq.weight" in model else "7a"
    if "blocks.0.att.r_k" in model:
        return "7"
    if "blocks.0.att.time_maa_x" in model:
        return "6"
    if "blocks.0.att.ln_x.weight" not in model:
        return "4"
    if "blocks.0.att.gate.weight" not in model:
        return "5.0"
    return "5.2" if model["blocks.0.att.time_decay"].ndim == 2 else "5.1"


def layers(model):
    return 1 + max(int(name.split(".")[1]) for name in model if name.startswith("blocks."))


def width(model):
    return model["ln_out.weight"].size


def leaf(name):
    return name.split(".")[-1]


# ---- names ------------------------------------------------------------------------------------------------


def published(model):
    """BlinkDL's names as they stand in checkpoints."""
    if version(model) != "x":
        return model
    return {name if name.startswith("moba.") else "rwkv." + name: value for name, value in model.items()}


def to_huggingface(model):
    """Names of transformers (version 4), of the published v5 and v6 repositories, of fla (version 7)."""
    if version(model) == "7":
        return dict(to_fla(name, value) for name, value in model.items())
    back = [(new, old) for old, new in HUGGING_FACE]
    if version(model) == "6":
        back = back[:6]
    return {rename(name, back): value for name, value in model.items()}


def to_fla(name, value):
    part = leaf(name)
    if ".att." in name and len(part) == 2 and part[0] in "wavg" and part[1] in "012":
        stem = name[:-2] + part[0] + "_lora.lora."
        name = stem + {"0": "2.bias", "1": "0.weight", "2": "2.weight"}[part[1]]
        value = value.reshape(-1) if part[1] == "0" else value.T
    elif part in ("k_k", "k_a") or ".ffn.x_k" in name:
        value = value.reshape(-1)
    pairs = [(new, old) for old, new in FLA if "_lora" not in old]
    # FFN matrices keep BlinkDL's names.
    if ".ffn." in name or not name.startswith("blocks."):
        pairs = [pair for pair in pairs if "_proj" not in pair[1]]
    return rename(name, pairs), value


def config(model):
    heads = {"4": None, "7": width(model)}.get(version(model), None)
    result = {"model_type": {"4": "rwkv", "6": "rwkv6", "7": "rwkv7"}.get(version(model), "rwkv5"),
              "hidden_size": width(model), "num_hidden_layers": layers(model),
              "vocab_size": len(model["emb.weight"])}
    if heads:
        result["head_dim"] = model["blocks.0.att.r_k"].shape[1]
        result["norm_eps"] = 1e-5
    return json.dumps(result).encode()


# ---- containers -------------------------------------------------------------------------------------------


def safetensors(model, kind="F32"):
    header, data = {"__metadata__": {"format": "pt"}}, b""
    for name, value in model.items():
        bytes_ = encode(value, kind)
        header[name] = {"dtype": kind, "shape": list(value.shape), "data_offsets": [len(data), len(data) + len(bytes_)]}
        data += bytes_
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + data


STORAGES = {"F32": "FloatStorage", "F16": "HalfStorage", "BF16": "BFloat16Storage"}


def pickled(value):
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def state_dict(model, kind):
    """The part of a pickle that is a dictionary of tensors; their storages are numbered."""
    out = bytearray(b"}(")

    def numbers(values):
        out.extend(b"(" + b"".join(b"J" + struct.pack("<i", value) for value in values) + b"t")

    for key, (name, value) in enumerate(model.items()):
        out.extend(pickled(name) + b"ctorch._utils\n_rebuild_tensor_v2\n((" + pickled("storage"))
        out.extend(b"ctorch\n" + STORAGES[kind].encode() + b"\n" + pickled(str(key)) + pickled("cpu"))
        out.extend(b"J" + struct.pack("<i", value.size) + b"tQJ" + struct.pack("<i", 0))
        numbers(value.shape)
        numbers([int(np.prod(value.shape[axis + 1:])) for axis in range(value.ndim)])
        out.extend(b"\x89ccollections\nOrderedDict\n)RtR")
    return bytes(out) + b"u"


def archive(model, kind, description):
    """As torch.save writes it: a stored ZIP with one pickle and a file per storage."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        def add(name, data):
            archive.writestr(zipfile.ZipInfo("archive/" + name, (1980, 1, 1, 0, 0, 0)), data)
        add("data.pkl", b"\x80\x02" + description + b".")
        add("byteorder", b"little")
        for key, value in enumerate(model.values()):
            add(f"data/{key}", encode(value, kind))
        add("version", b"3\n")
    return file.getvalue()


def pth(model, kind="F32"):
    return archive(model, kind, state_dict(model, kind))


def lightning(model, kind="F32"):
    """As PyTorch Lightning's trainer: the weights are one entry of several."""
    model = {"model." + name: value for name, value in model.items()}
    return archive(model, kind, b"}(" + pickled("epoch") + b"K\x03" + pickled("state_dict") + state_dict(model, kind)
                   + pickled("optimizer_states") + b"]u")


def deepspeed(model, kind="F32"):
    """As DeepSpeed's mp_rank_00_model_states.pt."""
    model = {"_forward_module." + name: value for name, value in model.items()}
    return archive(model, kind, b"}(" + pickled("module") + state_dict(model, kind)
                   + pickled("sparse_tensor_module_names") + b"c__builtin__\nset\n]\x85R"
                   + pickled("optimizer") + b"Nu")


def old_pth(model, kind="F32"):
    """As torch.save before version 1.6: pickles, then the storages."""
    out = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19." + b"\x80\x02M\xe9\x03."
    out += b"\x80\x02}" + pickled("little_endian") + b"\x88s." + b"\x80\x02" + state_dict(model, kind) + b"."
    out += b"\x80\x02](" + b"".join(pickled(str(key)) for key in range(len(model))) + b"e."
    for value in model.values():
        out += struct.pack("<Q", value.size) + encode(value, kind)
    return out


def st(model):
    """As the Python converter to .st of web-rwkv, Ai00 and RWKV-Runner; version 5.0 cannot be told apart there."""
    exchanged = [
        "time_mix_w1", "time_mix_w2", "time_decay_w1", "time_decay_w2", "w1", "w2", "a1", "a2", "g1", "g2", "v1", "v2"]
    result, size = {}, width(model)
    for name, value in model.items():
        if version(model) == "5.1" and leaf(name) in ("time_decay", "time_faaaa"):
            value = np.repeat(value.reshape(-1, 1), size // value.size, 1)
        name = name.replace("time_faaaa", "time_first").replace("time_maa", "time_mix")
        result[name] = value.swapaxes(-1, -2) if any(part in name for part in exchanged) else value
    return safetensors({name: np.ascontiguousarray(value) for name, value in result.items()}, "F16")


TRANSFORMERS_RWKV = [
    ("emb.", "model.embed_tokens."), ("head.", "lm_head."), ("ln_out.", "model.norm."),
    ("blocks.0.ln0.", "model.embedding_norm."), ("blocks.", "model.layers."), (".ln1.", ".input_layernorm."),
    (".ln2.", ".post_attention_layernorm."), (".att.", ".linear_attn."), (".ffn.", ".mlp."), (".ln_x.", ".g_norm."),
    ("linear_attn.receptance", "linear_attn.r_proj"), ("linear_attn.key", "linear_attn.k_proj"),
    ("linear_attn.value", "linear_attn.v_proj"), ("linear_attn.output", "linear_attn.o_proj"),
]


def to_transformers(model):
    """transformers' own rwkv7."""
    return {name if name.startswith("head.") else "rwkv7." + name: value for name, value in model.items()}


def to_transformers_rwkv(model):
    """transformers-rwkv: vectors without axes of size one, no v0 v1 v2 in the first block."""
    names = (name for name in model if not name.startswith(("blocks.0.att.v0", "blocks.0.att.v1", "blocks.0.att.v2")))
    return {rename(name, TRANSFORMERS_RWKV): model[name].reshape(-1) if model[name].ndim == 3 else model[name]
            for name in names}


def adapter(model, folder, rank=4, alpha=8):
    """A PEFT folder, and the model without what it adds."""
    base, tensors = dict(model), {}
    random = np.random.default_rng(1)
    for name in [f"blocks.{layer}.{part}" for layer in range(layers(model)) for part in ("att.key", "ffn.value")]:
        outputs, inputs = model[name + ".weight"].shape
        a, b = (random.integers(-8, 9, shape).astype("<f4") / 64 for shape in ((rank, inputs), (outputs, rank)))
        base[name + ".weight"] = model[name + ".weight"] - alpha / rank * b @ a
        tensors[f"base_model.model.{name}.lora_A.weight"] = a
        tensors[f"base_model.model.{name}.lora_B.weight"] = b
    (folder / "adapter_model.safetensors").write_bytes(safetensors(tensors))
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": rank, "lora_alpha": alpha}))
    return base


def sharded(model, folder, write, name, count=2):
    """An index and `count` shards under Hugging Face's file names."""
    stem, extension = name.rsplit(".", 1)
    names, weight_map = list(model), {}
    for shard in range(count):
        file = f"{stem}-{shard + 1:05}-of-{count:05}.{extension}"
        part = names[shard::count]
        weight_map.update({tensor: file for tensor in part})
        (folder / file).write_bytes(write({tensor: model[tensor] for tensor in part}))
    index = {"metadata": {"total_size": 4 * sum(value.size for value in model.values())}, "weight_map": weight_map}
    (folder / (name + ".index.json")).write_text(json.dumps(index))


# ---- rwkv.cpp and GGUF ------------------------------------------------------------------------------------


def is_large(name, value, block):
    """Which tensors converters quantize: the matrices but embedding and head."""
    return value.ndim == 2 and name.endswith(".weight") and value.shape[1] % block == 0 and not any(
        part in name for part in ("emb", "embd", "head", "output.weight", "ln"))


# ---- rwkv.cpp ---------------------------------------------------------------------------------------------

CPP_TYPES = {"F32": 0, "F16": 1, "Q4_0": 2, "Q4_1": 3, "Q5_0": 7, "Q5_1": 8, "Q8_0": 9}
LOW_RANK = {"7": ["w1", "w2", "a1", "a2", "v1", "v2", "g1", "g2"],
            "6": ["time_maa_w1", "time_decay_w1", "time_decay_w2"]}


def rwkv_cpp(model, kind="F32"):
    """As its convert_pytorch_to_ggml.py, and quantize.py where `kind` is a quantized type."""
    kind_of, number = version(model), CPP_TYPES[kind]
    tensors = stack(model, "att.x_rwkvag", "att.x_", "rwkvag", (6, 1, width(model))) if kind_of == "7" else model
    out = bytearray(struct.pack("<6I", 0x67676D66, 101, len(model["emb.weight"]), width(model), layers(model), number))
    for name, value in tensors.items():
        part = leaf(name)
        if ".time_" in name:
            value = value.squeeze()
        if part == "time_maa_w2":
            value = value.swapaxes(1, 2)
        elif part in LOW_RANK.get(kind_of, []):
            value = value.T
        elif part == "time_decay" and kind_of != "6":
            value = -np.exp(value) if kind_of == "4" else np.exp(-np.exp(value))
        elif part == "time_first" and kind_of.startswith("5"):
            value = np.exp(value)
        if kind_of[0] in "56" and part in ("time_decay", "time_faaaa", "time_first"):
            has_channels = value.ndim == 2 or kind_of != "5.0"
            value = value.reshape(value.shape + (1,)) if has_channels else value.reshape(-1, 1, 1)
        stored = "F32"
        if kind in BLOCKS and is_large(name, value, 32):
            stored = kind
        elif kind != "F32" and value.ndim == 2 and name.endswith(".weight"):
            stored = "F16"
        data = BLOCKS[stored](value) if stored in BLOCKS else encode(value, stored)
        out += struct.pack("<3I", value.ndim, len(name), CPP_TYPES[stored])
        out += struct.pack(f"<{value.ndim}I", *reversed(value.shape)) + name.encode() + data
    return bytes(out)


def stack(model, fused, prefix, letters, shape):
    """Vectors `prefix` + letter of each block as one tensor `fused`."""
    result = dict(model)
    for layer in range(layers(model)):
        names = [f"blocks.{layer}.{prefix}{letter}" for letter in letters]
        result[f"blocks.{layer}.{fused}"] = np.stack([result.pop(name).reshape(-1) for name in names]).reshape(shape)
    return result


# ---- GGUF -------------------------------------------------------------------------------------------------

GGUF_TYPES = {"F32": 0, "F16": 1, "Q4_0": 2, "Q4_1": 3, "Q5_0": 6, "Q5_1": 7, "Q8_0": 8, "Q2_K": 10, "Q3_K": 11,
              "Q4_K": 12, "Q5_K": 13, "Q6_K": 14, "BF16": 30}
GGUF_NAMES = [
    ("emb.", "token_embd."), ("ln_out.", "output_norm."), ("blocks.0.ln0.", "token_embd_norm."), ("blocks.", "blk."),
    ("ln1.", "attn_norm."), ("ln2.", "attn_norm_2."), ("att.ln_x.", "time_mix_ln."), ("att.time_maa_w1", "time_mix_w1"),
    ("att.time_maa_w2", "time_mix_w2"), ("time_faaaa", "first"), ("time_decay", "decay"), ("time_maa_", "lerp_"),
    ("ffn.x_k", "ffn.lerp_k"), ("att.", "time_mix_"), ("ffn.", "channel_mix_"),
]


def gguf(model, kind="F32", rescale=2):
    """As llama.cpp's converter for rwkv6 and rwkv7."""
    return gguf_parts(model, kind, rescale, 1)[0]


def gguf_parts(model, kind="F32", rescale=2, count=2):
    """The same in `count` files, of which the first describes the model."""
    kind_of = version(model)
    architecture = "rwkv" + kind_of
    if kind_of == "7":
        tensors = stack(model, "att.lerp_fused", "att.x_", "rwkvag", (6, 1, 1, width(model)))
    else:
        tensors = stack(model, "att.time_maa_fused", "att.time_maa_", "wkvrg", (5, 1, 1, width(model)))

    def text(value):
        return struct.pack("<Q", len(value)) + value.encode()

    def number(key, value):
        return text(key) + struct.pack("<II", 4, value)

    head_size = model["blocks.0.att.r_k" if kind_of == "7" else "blocks.0.att.time_faaaa"].shape[1]
    metadata = [
        text("general.architecture") + struct.pack("<I", 8) + text(architecture),
        number(architecture + ".embedding_length", width(model)), number(architecture + ".block_count", layers(model)),
        number(architecture + ".wkv.head_size", head_size),
        text(architecture + ".attention.layer_norm_epsilon") + struct.pack("<If", 6, 1e-5),
        text("tokenizer.ggml.tokens") + struct.pack("<IIQ", 9, 8, 2) + text("a") + text("b"),
    ]
    if kind_of == "6":
        metadata.append(number("rwkv6.rescale_every_n_layers", rescale))
    parts = []
    for part in range(count):
        split = [text("split.no") + struct.pack("<IH", 2, part), text("split.count") + struct.pack("<IH", 2, count),
                 text("split.tensors.count") + struct.pack("<Ii", 5, len(tensors))]
        described = (metadata if part == 0 else []) + (split if count > 1 else [])
        directory, data = b"", b""
        names = list(tensors)[part::count]
        for own in names:
            name, value = gguf_tensor(own, tensors[own], kind_of, rescale)
            block = 256 if kind.endswith("_K") else 32
            stored = "F32"
            if kind in BLOCKS and is_large(name, value, block):
                stored = kind
            elif kind not in BLOCKS and value.ndim == 2 and leaf(own) == "weight":
                stored = kind
            directory += text(name) + struct.pack("<I", value.ndim)
            directory += struct.pack(f"<{value.ndim}Q", *reversed(value.shape))
            directory += struct.pack("<IQ", GGUF_TYPES[stored], len(data))
            data += BLOCKS[stored](np.ascontiguousarray(value)) if stored in BLOCKS else encode(value, stored)
            data += bytes(-len(data) % 32)
        header = b"GGUF" + struct.pack("<IQQ", 3, len(names), len(described)) + b"".join(described) + directory
        parts.append(header + bytes(-len(header) % 32) + data)
    return parts


def gguf_tensor(name, value, kind_of, rescale):
    """llama.cpp's name of a tensor, and what it makes of the values."""
    part = leaf(name)
    if part == "time_maa_w2":
        value = value.swapaxes(1, 2)
    elif part in LOW_RANK[kind_of]:
        value = value.T
    elif part == "r_k" or value.shape[:2] == (1, 1):
        value = value.reshape(-1)
    if kind_of == "6" and name.endswith(("att.output.weight", "ffn.value.weight")):
        value = value / np.float32(1 << (int(name.split(".")[1]) // rescale))
    if not name.startswith("head."):
        name = rename(name, GGUF_NAMES)
    name = rename(name, [("head.", "output.")])
    return name + ("" if name.endswith((".weight", ".bias")) else ".weight"), value
