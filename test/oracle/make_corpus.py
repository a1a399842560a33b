"""Makes test/golden/corpus: one text of 60 documents as .parquet and .jsonl.zst, and files of tokens as Megatron writes them.
Needs: pip install numpy pyarrow zstandard. Run from the root of the repository.
"""

import json
import struct

import numpy as np
import pyarrow
import pyarrow.parquet
import zstandard

FOLDER = "test/golden/corpus"


def documents():
    return [f"Document {i}: " + "naïve 世界 😀 " * (i % 5) + "words of text " * (i % 11) for i in range(60)]


def lines(texts):
    return "".join(json.dumps({"id": i, "text": text}, ensure_ascii=i % 2 == 0) + "\n" for i, text in enumerate(texts))


def megatron(path, code, dtype, rows):
    """As megatron/core/datasets/indexed_dataset.py writes it, one sequence to a document."""
    with open(f"{path}.bin", "wb") as file:
        for row in rows:
            file.write(np.array(row, dtype=dtype).tobytes())
    lengths = np.array([len(row) for row in rows], dtype=np.int32)
    pointers = np.concatenate([[0], np.cumsum(lengths[:-1], dtype=np.int64) * np.dtype(dtype).itemsize])
    with open(f"{path}.idx", "wb") as file:
        file.write(b"MMIDIDX\x00\x00" + struct.pack("<QBQQ", 1, code, len(rows), len(rows) + 1))
        file.write(lengths.tobytes() + pointers.astype(np.int64).tobytes() + np.arange(len(rows) + 1, dtype=np.int64).tobytes())


def main():
    texts = documents()
    table = pyarrow.table({"id": list(range(61)), "text": texts + [None]})
    pyarrow.parquet.write_table(table, f"{FOLDER}/text.parquet", compression="zstd", row_group_size=25)
    encoded = lines(texts).encode()
    compressor = zstandard.ZstdCompressor(level=10, write_checksum=True)
    with open(f"{FOLDER}/text.jsonl.zst", "wb") as file:
        file.write(compressor.compress(encoded[:4000]) + compressor.compress(encoded[4000:]))
    rows = [[(7 * i + j) % 256 for j in range(1 + i % 9)] + [256] for i in range(40)]
    megatron(f"{FOLDER}/uint16", 8, np.uint16, rows)
    megatron(f"{FOLDER}/int32", 4, np.int32, rows)


main()
