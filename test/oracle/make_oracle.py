"""Makes the fixtures of test/oracle.test.ts: weights, tokens, logits, loss and gradients of two small models in FP32 on the CPU.

    pip install torch transformers numpy safetensors
    python test/oracle/make_oracle.py

hybrid.safetensors   transformers' NemotronH: Mamba-2, attention and FFN, two groups, two query heads to a key head
dense.safetensors    transformers' Arcee: attention with rotary positions and squared-ReLU FFN

Names are those of Hugging Face's hub for nemotron_h; Arcee's are mapped to them, a layer becoming two blocks. Every gradient is
stored as `gradient.NAME`. `time_step_min` is 1e-30, because transformers would clamp the time step there, which Megatron does not do.
"""

import os

import torch
from safetensors.torch import save_file
from transformers import ArceeConfig, ArceeForCausalLM, NemotronHConfig, NemotronHForCausalLM

VOCAB, HIDDEN, FFN, HEADS, KV_HEADS, HEAD_DIM = 80, 48, 96, 4, 2, 16
BATCH, SEQUENCE = 2, 40
HERE = os.path.dirname(os.path.abspath(__file__))


def hybrid():
    config = NemotronHConfig(
        vocab_size=VOCAB,
        hidden_size=HIDDEN,
        hybrid_override_pattern="M-*M-",
        num_attention_heads=HEADS,
        num_key_value_heads=KV_HEADS,
        head_dim=HEAD_DIM,
        intermediate_size=FFN,
        mamba_num_heads=8,
        mamba_head_dim=8,
        n_groups=2,
        ssm_state_size=16,
        chunk_size=16,
        time_step_min=1e-30,
        attn_implementation="eager",
    )
    for name in ("causal_conv1d", "mamba_ssm"):
        try:
            __import__(name)
        except ImportError:
            continue
        raise SystemExit(f"{name} is installed: this oracle wants transformers' own PyTorch code")
    return NemotronHForCausalLM(config), lambda name: "backbone." + name[6:] if name.startswith("model.") else name


def dense():
    config = ArceeConfig(
        vocab_size=VOCAB,
        hidden_size=HIDDEN,
        intermediate_size=FFN,
        num_hidden_layers=2,
        num_attention_heads=HEADS,
        num_key_value_heads=KV_HEADS,
        head_dim=HEAD_DIM,
        hidden_act="relu2",
        rms_norm_eps=1e-5,
        rope_theta=10000.0,
        tie_word_embeddings=False,
        attn_implementation="eager",
    )

    def rename(name):
        if not name.startswith("model.layers."):
            return name.replace("model.embed_tokens", "backbone.embeddings").replace("model.norm", "backbone.norm_f")
        _, _, layer, rest = name.split(".", 3)
        block = 2 * int(layer) + (0 if rest.startswith(("input_layernorm", "self_attn")) else 1)
        for old, new in {
            "input_layernorm": "norm",
            "post_attention_layernorm": "norm",
            "self_attn": "mixer",
            "mlp": "mixer",
        }.items():
            rest = rest.replace(old, new)
        return f"backbone.layers.{block}.{rest}"

    return ArceeForCausalLM(config), rename


def randomise(model, generator):
    """Weights large enough that no gradient is lost in rounding, norms off one, time steps of a trained model."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if name.endswith("A_log"):
                parameter.copy_(0.5 + 0.5 * noise)
            elif name.endswith("dt_bias"):
                parameter.copy_(-2 + noise)
            elif name.endswith(".D") or "norm" in name:
                parameter.copy_(1 + 0.2 * noise)
            else:
                parameter.copy_(0.15 * noise)


def make(name, built, seed):
    model, rename = built
    model = model.float().train()
    generator = torch.Generator().manual_seed(seed)
    randomise(model, generator)
    tokens = torch.randint(0, VOCAB, (BATCH, SEQUENCE), generator=generator)
    logits = model(tokens, use_cache=False).logits
    targets = torch.cat([tokens[:, 1:], torch.full((BATCH, 1), -100)], dim=1)
    loss = torch.nn.functional.cross_entropy(logits.reshape(-1, VOCAB), targets.reshape(-1), ignore_index=-100)
    loss.backward()
    tensors = {
        "tokens": tokens.to(torch.int32),
        "logits": logits.detach().reshape(-1, VOCAB),
        "loss": loss.detach().reshape(1),
    }
    for full, parameter in model.named_parameters():
        tensors[rename(full)] = parameter.detach().contiguous()
        tensors["gradient." + rename(full)] = parameter.grad.contiguous()
    path = os.path.join(HERE, name)
    save_file(tensors, path)
    print(f"{name}: loss {loss.item():.6f}, {len(tensors)} tensors, {os.path.getsize(path)} bytes")


torch.set_num_threads(1)
make("hybrid.safetensors", hybrid(), 1)
make("dense.safetensors", dense(), 2)
