"""Makes the folders nemotron_h and arcee: small checkpoints as transformers writes them, and logits of a few tokens in FP32.

    pip install torch transformers safetensors
    python test/export/make_hf.py

nemotron_h is in BF16 and in shards, arcee in FP32 and in one file. `time_step_min` is 1e-30, because transformers clamps the time step there and
halfbyte does not.
"""

import os
import shutil

import torch
from safetensors.torch import save_file
from transformers import ArceeConfig, ArceeForCausalLM, NemotronHConfig, NemotronHForCausalLM

HERE = os.path.dirname(os.path.abspath(__file__))
VOCAB, TOKENS = 272, 24
common = {
    "vocab_size": VOCAB,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "bos_token_id": 256,
    "eos_token_id": 256,
    "pad_token_id": 256,
    "attn_implementation": "eager",
}


def nemotron_h():
    return NemotronHForCausalLM(
        NemotronHConfig(
            **common,
            hybrid_override_pattern="M*-",
            head_dim=8,
            mamba_num_heads=4,
            mamba_head_dim=8,
            n_groups=2,
            ssm_state_size=8,
            chunk_size=8,
            time_step_min=1e-30,
        )
    )


def arcee():
    return ArceeForCausalLM(ArceeConfig(**common, num_hidden_layers=2, rope_theta=5000.0))


def make(name, model, dtype, **options):
    generator = torch.Generator().manual_seed(len(name))
    with torch.no_grad():
        for parameter, value in model.named_parameters():
            noise = torch.randn(value.shape, generator=generator)
            value.copy_(1 + 0.2 * noise if "norm" in parameter or parameter.endswith(".D") else 0.4 * noise)
    folder = os.path.join(HERE, name)
    shutil.rmtree(folder, ignore_errors=True)
    model.to(dtype).save_pretrained(folder, **options)
    os.remove(os.path.join(folder, "generation_config.json"))
    tokens = torch.randint(0, VOCAB, (1, TOKENS), generator=generator)
    with torch.no_grad():
        logits = model.float().eval()(tokens, use_cache=False).logits[0]
    save_file({"tokens": tokens[0].to(torch.int32), "logits": logits}, os.path.join(folder, "logits"))
    print(name, {file: os.path.getsize(os.path.join(folder, file)) for file in sorted(os.listdir(folder))})


torch.set_num_threads(1)
make("nemotron_h", nemotron_h(), torch.bfloat16, max_shard_size="12KB")
make("arcee", arcee(), torch.float32)
