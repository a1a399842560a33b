"""Decodes what `halfbyte export` wrote in FP4 as its readers do, and compares it with the weights of training.

    pip install torch safetensors numpy gguf
    npx halfbyte export <run> --to compressed-tensors --out <ct>        likewise modelopt and gguf
    node scripts/write-reference.mjs images <run> <images.safetensors>
    python scripts/verify_packed.py <images.safetensors> <ct> <modelopt> <file.gguf>      any of the three, in any order

For each layer: codes and block scales must be those of training to the byte; decoded values must be the values that training multiplies with,
up to the rounding of the outer scale, which readers multiply or divide by and training folds in otherwise: 2^-22 of the value.

The rules are those of compressed_tensors' NVFP4 and MXFP4 compressors (w = code * (scale / global_scale)), of ModelOpt's
NVFP4QTensor (w = code * (scale * scale_2)), and of the `gguf` package's own dequantiser times the tensor beside it.
"""

import json
import os
import sys

import numpy as np
import torch
from safetensors.torch import load_file

E2M1 = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6])
TOLERANCE = 2.0**-22

images = load_file(sys.argv[1])
layers = sorted({name.rsplit(".", 1)[0] for name in images})


def parts(layer):
    """The layer's tensors outside: q, k and v are rows of one."""
    return [layer.replace("qkv_proj", f"{p}_proj") for p in "qkv"] if "qkv_proj" in layer else [layer]


def elements(packed):
    return E2M1[torch.stack([packed & 15, packed >> 4], dim=-1).reshape(packed.shape[0], -1).long()]


def spread(scale, size):
    return scale.repeat_interleave(size, dim=1)


def load_folder(folder):
    tensors = {}
    for name in sorted(os.listdir(folder)):
        if name.endswith(".safetensors"):
            tensors.update(load_file(os.path.join(folder, name)))
    with open(os.path.join(folder, "config.json")) as file:
        return tensors, json.load(file)


def rename(config, layer):
    """Of halfbyte's name of a part, as in this architecture."""
    if config["model_type"] != "arcee":
        return f"backbone.{layer}"
    _, block, _, rest = layer.split(".")
    return f"model.layers.{int(block) // 2}.{'mlp' if int(block) % 2 else 'self_attn'}.{rest}"


def compressed_tensors(tensors, name):
    packed, scale = tensors[f"{name}.weight_packed"], tensors[f"{name}.weight_scale"]
    if scale.dtype == torch.uint8:
        return packed, scale, elements(packed) * spread(torch.exp2(scale.float() - 127), 32)
    factor = scale.float() / tensors[f"{name}.weight_global_scale"]
    return packed, scale.view(torch.uint8), elements(packed) * spread(factor, 16)


def modelopt(tensors, name):
    packed, scale = tensors[f"{name}.weight"], tensors[f"{name}.weight_scale"]
    factor = scale.float() * tensors[f"{name}.weight_scale_2"]
    return packed, scale.view(torch.uint8), elements(packed) * spread(factor, 16)


def compare(layer, codes, scales, values, report):
    wanted = images[f"{layer}.values"]
    report["layers"] += 1
    report["codes_equal"] &= torch.equal(codes, images[f"{layer}.codes"])
    report["scales_equal"] &= torch.equal(scales, images[f"{layer}.scales"])
    difference = (values - wanted).abs()
    report["values_equal_to_the_bit"] += (difference == 0).float().mean().item()
    report["max_relative_difference"] = max(
        report["max_relative_difference"], (difference / wanted.abs().clamp_min(1e-30)).max().item()
    )


def new_report(kind, path):
    return {
        "what": kind,
        "path": os.path.basename(path),
        "layers": 0,
        "floats": 0,
        "codes_equal": True,
        "scales_equal": True,
        "values_equal_to_the_bit": 0.0,
        "max_relative_difference": 0.0,
    }


def check_folder(path):
    tensors, config = load_folder(path)
    method = config["quantization_config"]["quant_method"]
    decode = {"compressed-tensors": compressed_tensors, "modelopt": modelopt}[method]
    report = new_report(method, path)
    for layer in layers:
        names = [rename(config, part) for part in parts(layer)]
        found = [decode(tensors, name) for name in names]
        compare(layer, *(torch.cat(piece) for piece in zip(*found)), report)
    return report


def check_gguf(path):
    from gguf import GGMLQuantizationType, GGUFReader, quants

    reader = GGUFReader(path)
    arch = reader.get_field("general.architecture").contents()
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    report = new_report("gguf", path)
    names = {"in_proj": "ssm_in", "out_proj": "ssm_out", "o_proj": "attn_output", "up_proj": "ffn_up", "down_proj": "ffn_down"}
    names |= {f"{p}_proj": f"attn_{p}" for p in "qkv"}
    for layer in layers:
        found = []
        for part in parts(layer):
            _, block, _, rest = part.split(".")
            name = f"blk.{int(block) // 2 if arch == 'arcee' else block}.{names[rest]}"
            tensor = tensors[f"{name}.weight"]
            kind = GGMLQuantizationType(tensor.tensor_type)
            if kind not in (GGMLQuantizationType.NVFP4, GGMLQuantizationType.MXFP4):
                break
            raw = np.asarray(tensor.data)
            rows = raw.shape[0]
            values = torch.from_numpy(quants.dequantize(raw, kind)).reshape(rows, -1)
            scales, each = (4, 16) if kind == GGMLQuantizationType.NVFP4 else (1, 32)
            blocks = torch.from_numpy(raw.copy()).reshape(rows, -1, scales + scales * each // 2)
            halves = blocks[..., scales:].reshape(rows, -1, each // 2)
            nibbles = torch.cat([halves & 15, halves >> 4], dim=-1).reshape(rows, -1)
            pieces = [nibbles[:, 0::2] | (nibbles[:, 1::2] << 4), blocks[..., :scales].reshape(rows, -1), values]
            if f"{name}.scale" in tensors:
                pieces[2] = pieces[2] * float(np.asarray(tensors[f"{name}.scale"].data)[0])
            if arch == "arcee" and rest in ("q_proj", "k_proj"):
                size = reader.get_field("arcee.attention.key_length").contents()
                order = torch.arange(rows).reshape(-1, size // 2, 2).transpose(1, 2).reshape(-1)
                pieces = [piece[order] for piece in pieces]
            found.append(pieces)
        if not found:
            report["floats"] += 1
            continue
        compare(layer, *(torch.cat(piece) for piece in zip(*found)), report)
    return report


good = True
for path in sys.argv[2:]:
    report = check_folder(path) if os.path.isdir(path) else check_gguf(path)
    report["values_equal_to_the_bit"] = round(report["values_equal_to_the_bit"] / max(1, report["layers"]), 4)
    good &= report["codes_equal"] and report["scales_equal"] and report["max_relative_difference"] <= TOLERANCE
    print(json.dumps(report))
sys.exit(0 if good and layers else 1)
