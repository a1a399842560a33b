"""Compares a run's logits with those of transformers on what `halfbyte export --to hf` made of it, in FP32.

    pip install torch transformers safetensors
    npx halfbyte export <run> --to hf --out <folder>
    node scripts/write-reference.mjs logits <run> <logits.safetensors>
    python scripts/verify_export.py <folder> <logits.safetensors>

Exits with 1 where a logit differs by more than 1e-3, or a parameter was missing, unexpected or initialised anew. Also encodes and decodes a
text with the folder's tokenizer.
"""

import json
import sys

import torch
import transformers
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

LIMIT = 1e-3
TEXT = "My fellow citizens, 4 bits: naïve 漢字 🙂\n\tdone"

folder, stored = sys.argv[1:3]
torch.set_num_threads(1)
tokens, logits = (load_file(stored)[name] for name in ("tokens", "logits"))

model, loading = AutoModelForCausalLM.from_pretrained(
    folder, dtype=torch.float32, attn_implementation="eager", output_loading_info=True
)
wrong = {what: sorted(map(str, names)) for what, names in loading.items() if names}
with torch.no_grad():
    theirs = model(tokens.long()[None]).logits[0]
difference = (theirs - logits).abs().max().item()

tokenizer = AutoTokenizer.from_pretrained(folder)
ids = tokenizer(TEXT)["input_ids"]
round_trip = tokenizer.decode(ids) == TEXT

print(
    json.dumps(
        {
            "transformers": transformers.__version__,
            "class": type(model).__name__,
            "parameters": sum(p.numel() for p in model.parameters()),
            "loading": wrong,
            "tokens": tokens.numel(),
            "largest_logit": round(logits.abs().max().item(), 3),
            "max_difference": difference,
            "same_best_token": (theirs.argmax(-1) == logits.argmax(-1)).float().mean().item(),
            "tokenizer_round_trip": round_trip,
            "eos": tokenizer.eos_token_id,
        }
    )
)
sys.exit(0 if difference < LIMIT and not wrong and round_trip else 1)
