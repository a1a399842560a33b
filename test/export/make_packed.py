"""Makes packed.json: a small weight, and what its layers are in each quantised layout, computed here without halfbyte.

    pip install numpy gguf
    python test/export/make_packed.py

The weight has 24 rows, so that the lower 16x16 and 32x32 tiles are short. Quantisation follows docs/numerics.md in numpy's FP32; layouts
follow compressed-tensors, ModelOpt and ggml. The blocks for GGUF are decoded with the `gguf` package and must give code times scale back.
"""

import json
import os

import numpy as np
from gguf import GGMLQuantizationType, quants

F = np.float32
ROWS, COLS = 24, 128
E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6], F)


def e4m3_values():
    codes = np.arange(127)
    exponent, mantissa = codes >> 3, codes & 7
    return np.where(exponent > 0, 2.0 ** (exponent - 7.0) * (1 + mantissa / 8), 2.0**-6 * mantissa / 8).astype(F)


E4M3 = e4m3_values()


def nearest(table, values):
    """Code of the nearest magnitude, ties to the even code, saturating."""
    high = np.clip(np.searchsorted(table, values), 1, len(table) - 1)
    below, above = values - table[high - 1], table[high] - values
    up = (above < below) | ((above == below) & (high % 2 == 0))
    return np.where(up, high, high - 1).astype(np.uint8)


def encode(y):
    return nearest(E2M1, np.minimum(np.abs(y), F(6))) | (np.signbit(y).astype(np.uint8) << 3)


def tiles(w, size):
    """Largest magnitude of the square tile of each element's block, [rows, cols / size]."""
    padded = np.zeros((-(-w.shape[0] // size) * size, w.shape[1]), F)
    padded[: w.shape[0]] = np.abs(w)
    largest = padded.reshape(-1, size, w.shape[1] // size, size).max(axis=(1, 3))
    return np.repeat(largest, size, axis=0)[: w.shape[0]]


def nvfp4(w):
    amax = np.abs(w).max()
    s_enc = F(2688) / amax
    s_dec = F(1) / s_enc
    scales = nearest(E4M3, np.minimum(tiles(w, 16) / F(6) * s_enc, F(448)))
    with np.errstate(divide="ignore"):
        factor = np.minimum(F(1) / (E4M3[scales] * s_dec), np.finfo(F).max)
    return encode(w * np.repeat(factor, 16, axis=1)), scales, amax


def mxfp4(w):
    """Scales 2^(e - 127), the smallest with which nothing exceeds 6."""
    mantissa, exponent = np.frexp(tiles(w, 32) * F(F(1) / F(6)))
    assert (mantissa > 0).all()
    scales = (np.where(mantissa == 0.5, exponent - 1, exponent) + 127).astype(np.uint8)
    return encode(w / np.repeat(np.exp2(scales.astype(F) - 127).astype(F), 32, axis=1)), scales


def pack(codes):
    return codes[:, 0::2] | (codes[:, 1::2] << 4)


def ggml(codes, scales, each, per_block):
    rows, cols = codes.shape
    groups = codes.reshape(rows, cols // each, each)
    halves = groups[..., : each // 2] | (groups[..., each // 2 :] << 4)
    blocks = cols // (each * per_block)
    parts = [scales.reshape(rows, blocks, per_block), halves.reshape(rows, blocks, per_block * each // 2)]
    return np.concatenate(parts, axis=2).reshape(rows, -1)


def values(codes, scale):
    return np.where(codes & 8, -1, 1).astype(F) * E2M1[codes & 7] * scale


generator = np.random.default_rng(7)
w = (generator.standard_normal((ROWS, COLS)) * np.exp(generator.standard_normal((ROWS, 1)))).astype(F) * F(0.05)
w = (w.view(np.uint32) & 0xFFFF0000).view(F)
w[:16, :16] = 0

codes, scales, amax = nvfp4(w)
codes32, exponents = mxfp4(w)
blocks = ggml(codes, scales, 16, 4)
blocks32 = ggml(codes32, exponents, 32, 1)
decoded = quants.dequantize(blocks, GGMLQuantizationType.NVFP4)
assert (decoded == values(codes, np.repeat(E4M3[scales], 16, axis=1))).all()
decoded = quants.dequantize(blocks32, GGMLQuantizationType.MXFP4)
assert (decoded == values(codes32, np.repeat(np.exp2(exponents.astype(F) - 127), 32, axis=1))).all()


def hexadecimal(array):
    return np.ascontiguousarray(array).tobytes().hex()


fixture = {
    "rows": ROWS,
    "cols": COLS,
    "weight_bf16": hexadecimal((w.view(np.uint32) >> 16).astype(np.uint16)),
    "nvfp4": {
        "codes": hexadecimal(pack(codes)),
        "scales": hexadecimal(scales),
        "weight_global_scale": hexadecimal(F(2688) / amax),
        "weight_scale_2": hexadecimal(amax / F(2688)),
        "blocks": hexadecimal(blocks),
    },
    "mxfp4": {"codes": hexadecimal(pack(codes32)), "scales": hexadecimal(exponents), "blocks": hexadecimal(blocks32)},
}
path = os.path.join(os.path.dirname(os.path.abspath(__file__)), "packed.json")
with open(path, "w") as file:
    json.dump(fixture, file, indent=1)
    file.write("\n")
print(path, os.path.getsize(path), "bytes")
