"""Prints hashes of docs/numerics.md, "Check values", for formats and roundings that no other program has; computed here without halfbyte.

    pip install numpy
    python test/oracle/check_values.py

Every operation is one FP32 operation of numpy, written from docs/numerics.md alone, block by block and without care for speed.
`test/formats_check_values.test.ts` holds the same hashes against the library.
"""

import numpy as np

F = np.float32
LARGEST = np.finfo(F).max
ROWS, COLS = 64, 128
KEY, STREAM, STEP = (0x1234, 0x5678), 5, 9
E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6])
E4M3 = np.array([(1 + c % 8 / 8) * 2.0 ** ((c >> 3) - 7) if c > 7 else c * 2.0**-9 for c in range(127)])


def mix(h):
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35), (16, 1)):
        h = ((h ^ (h >> shift)) * factor) & 0xFFFFFFFF
    return h


def generate(seed):
    h = np.array([mix((i * 2654435761 + seed) & 0xFFFFFFFF) for i in range(ROWS * COLS)], np.uint32)
    bits = (h >> 31) << 15 | (120 + (h >> 28 & 7)) << 7 | h >> 16 & 0x7F
    return (bits << 16).view(F).reshape(ROWS, COLS)


def fnv(array):
    h = 0x811C9DC5
    for byte in np.ascontiguousarray(array).tobytes():
        h = ((h ^ byte) * 0x01000193) & 0xFFFFFFFF
    return f"{h:08x}"


def philox(counter, key):
    c, k = list(counter), list(key)
    for _ in range(10):
        p, q = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [q >> 32 ^ c[1] ^ k[0], q & 0xFFFFFFFF, p >> 32 ^ c[3] ^ k[1], p & 0xFFFFFFFF]
        k = [(k[0] + 0x9E3779B9) & 0xFFFFFFFF, (k[1] + 0xBB67AE85) & 0xFFFFFFFF]
    return c


def words_of(group):
    return philox((group, 0, STREAM, STEP), KEY)


def random_bytes():
    words = [words_of(group) for group in range(ROWS * COLS // 16)]
    return np.array(words, np.uint32).view(np.uint8).reshape(ROWS, COLS).astype(int)


def lower(table, x):
    a = np.minimum(np.abs(x.astype(np.float64)), table[-1])
    return a, np.minimum(np.searchsorted(table, a, "right") - 1, len(table) - 2)


def with_sign(table, code, x):
    return (code | np.signbit(x) * (8 if len(table) == 8 else 128)).astype(np.uint8)


def nearest(table, x, _=None):
    a, low = lower(table, x)
    below, above = a - table[low], table[low + 1] - a
    return with_sign(table, low + ((above < below) | ((above == below) & (low % 2 == 1))), x)


def stochastic(table, x, random, bits=8):
    a, low = lower(table, x)
    threshold = np.floor((a - table[low]) / (table[low + 1] - table[low]) * 2**bits)
    return with_sign(table, low + (threshold + random >= 2**bits), x)


def value(table, code):
    sign = 8 if len(table) == 8 else 128
    return (np.where(code & sign, -1, 1) * table[code & (sign - 1)]).astype(F)


def tree(terms):
    terms = terms.copy()
    for half in (8, 4, 2, 1):
        terms[:half] += terms[half : 2 * half]
    return terms[0]


def clamp(x):
    return np.minimum(F(x), LARGEST)


def nvfp4(x, limit=6.0, top=448, tile=1, per_row=False, rounding=nearest, error=None, eden=False):
    limit = F(limit)
    bound = F(top * float(limit))
    codes, scales = np.zeros(x.shape, np.uint8), np.zeros((ROWS, COLS // 16), np.uint8)
    random = random_bytes()
    for r in range(0, ROWS, tile):
        amax = np.abs(x[r] if per_row else x).max()
        outer = clamp(bound / amax)
        inverse = F(1) / outer
        for b in range(COLS // 16):
            at = np.s_[r : r + tile, 16 * b : 16 * b + 16]
            block = x[at]
            base = np.abs(block).max() / limit * outer

            def candidate(s):
                scale = nearest(E4M3, clamp(s))
                scale = np.uint8(0x38) if eden and scale == 0 else scale
                return scale, clamp(F(1) / (value(E4M3, scale) * inverse))

            def distance(scale, factor):
                v = value(E2M1, nearest(E2M1, block * factor)) * value(E4M3, scale) * amax / bound
                d = v - block
                d = np.abs(d) if error == "mae" else d * d
                sums = np.zeros(16, F)
                sums[:tile] = [np.add.accumulate(row)[-1] for row in d]
                return tree(sums)

            scale, factor = candidate(base)
            if error:
                other = candidate(base * F(1.5))
                if distance(*other) < distance(scale, factor):
                    scale, factor = other
            y = block * factor
            codes[at] = rounding(E2M1, y, random[at])
            if eden:
                q = value(E2M1, codes[at][0])
                corrected = value(E4M3, scale) * (tree(y[0] * y[0]) / tree(y[0] * q))
                scale = stochastic(E4M3, corrected, words_of(r * COLS // 16 + b)[0] >> 8, 24)
            scales[r : r + tile, b] = scale
    return codes, scales


def mx(x, table, tile=1, floor=False, rounding=nearest):
    codes, scales = np.zeros(x.shape, np.uint8), np.zeros((ROWS, COLS // 32), np.uint8)
    random = random_bytes()
    for r in range(0, ROWS, tile):
        for b in range(COLS // 32):
            at = np.s_[r : r + tile, 32 * b : 32 * b + 32]
            largest = np.abs(x[at]).max()
            bits = int((largest if floor else largest * (F(1) / F(table[-1]))).view(np.uint32))
            code = (bits >> 23) - (2 if len(table) == 8 else 8) if floor else (bits + 0x7FFFFF) >> 23
            codes[at] = rounding(table, x[at] * F(2.0 ** (127 - code)), random[at])
            scales[r : r + tile, b] = code
    return codes, scales


def rotate(x, size, words):
    h = F(1 / np.sqrt(size))
    groups = x.reshape(ROWS, COLS // size, size)
    z = np.zeros_like(groups)
    for j in range(size):
        for i in range(size):
            minus = (bin(i & j).count("1") + (words[i >> 5] >> (i & 31))) & 1
            z[:, :, j] += (-h if minus else h) * groups[:, :, i]
    bits = z.reshape(x.shape).view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000).view(F)


def show(what, image, packed=True):
    codes, scales = image
    print(f"{what:44} {fnv(codes[:, 0::2] | codes[:, 1::2] << 4) if packed else fnv(codes)} {fnv(scales)}")


def bf16(x):
    return (x.view(np.uint32) >> 16).astype(np.uint16)


x = generate(12345)
assert fnv(bf16(x)) == "c91530ad"
eden = {"limit": 6 / (0.93 * 17 / 16), "top": 255.99, "eden": True}
show("nvfp4, nearest", nvfp4(x))
show("nvfp4, stochastic", nvfp4(x, rounding=stochastic))
show("nvfp4, stochastic, headroom 16/17", nvfp4(x, limit=6 * 16 / 17, rounding=stochastic))
show("nvfp4, an amax for each row", nvfp4(x, per_row=True))
show("nvfp4, four-over-six, mae", nvfp4(x, top=256, error="mae"))
show("nvfp4, four-over-six, mse", nvfp4(x, top=256, error="mse"))
show("nvfp4, four-over-six, mse, 16x16", nvfp4(x, top=256, error="mse", tile=16))
show("nvfp4, MS-EDEN", nvfp4(x, **eden))
fresh = rotate(x, 128, philox((0xFFFFFFFF, 0xFFFFFFFF, STREAM, STEP), KEY))
show("nvfp4, MS-EDEN, rotated by 128", nvfp4(fresh, **eden))
for name, table in (("mxfp4", E2M1), ("mxfp8", E4M3)):
    packed = name == "mxfp4"
    show(f"{name}, up", mx(x, table), packed)
    show(f"{name}, floor", mx(x, table, floor=True), packed)
    show(f"{name}, 32x32", mx(x, table, tile=32), packed)
    show(f"{name}, stochastic", mx(x, table, rounding=stochastic), packed)
fixed = philox((0, 0, 0, 0), (0, 0))
fixed[0] = fixed[0] & 0xFFFF0000 | 0xD7E8
print(f"{'rotated by 32, as BF16':44} {fnv(bf16(rotate(x, 32, fixed)))}")
