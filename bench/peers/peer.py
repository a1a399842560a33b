"""PyTorch's side of `npm run bench -- peers`: one training step of the same models, timed on request.

Reads one JSON line: {"kind": "dense" | "hybrid" | "linear", "mode": "eager" | "compile" | "compile_bf16" | "fake_nvfp4", "width", "depth", "heads", "kv_heads",
"head_dim", "vocab", "batch", "sequence", "threads", ...}. Answers {"ready": parameters, "loss": of the first step}; then for each line holding
a number n it runs n steps and answers {"seconds": s, "cpu_seconds": of all threads, "loss": l, "peak_bytes": resident high-water mark}.

dense: pre-norm transformer, grouped-query attention through scaled_dot_product_attention, squared-ReLU FFN, no biases, untied head.
hybrid: transformers' NemotronHForCausalLM with its PyTorch path for Mamba-2 on the CPU.
linear: one layer [width, width] on "tokens" rows, with the gradients of its weight and its input.
compile_bf16: as one trains on a GPU: weights in FP32, autocast to BF16, on the device that "backend" names.
Other modes: FP32. AdamW (fused where the device has it), gradient norm clipped at 1.
"""

import json
import resource
import sys
import time

import torch
from torch import nn
from torch.nn import functional as F


class RMSNorm(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x):
        return F.rms_norm(x, (x.shape[-1],), self.weight, 1e-5)


class Block(nn.Module):
    def __init__(self, spec, linear):
        super().__init__()
        self.heads, self.kv, self.dim = spec["heads"], spec["kv_heads"], spec["head_dim"]
        width = spec["width"]
        self.norm1, self.norm2 = RMSNorm(width), RMSNorm(width)
        self.qkv = linear(width, (self.heads + 2 * self.kv) * self.dim)
        self.out = linear(self.heads * self.dim, width)
        self.up, self.down = linear(width, spec["ffn"]), linear(spec["ffn"], width)

    def forward(self, x):
        batch, time_, _ = x.shape
        qkv = self.qkv(self.norm1(x))
        q, k, v = qkv.split([self.heads * self.dim, self.kv * self.dim, self.kv * self.dim], -1)
        q = q.view(batch, time_, self.heads, self.dim).transpose(1, 2)
        k = k.view(batch, time_, self.kv, self.dim).transpose(1, 2)
        v = v.view(batch, time_, self.kv, self.dim).transpose(1, 2)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=self.heads != self.kv)
        x = x + self.out(y.transpose(1, 2).reshape(batch, time_, -1))
        return x + self.down(F.relu(self.up(self.norm2(x))).square())


class Dense(nn.Module):
    def __init__(self, spec, linear):
        super().__init__()
        self.embed = nn.Embedding(spec["vocab"], spec["width"])
        self.blocks = nn.ModuleList(Block(spec, linear) for _ in range(spec["depth"]))
        self.norm = RMSNorm(spec["width"])
        self.head = nn.Linear(spec["width"], spec["vocab"], bias=False)

    def forward(self, tokens, targets):
        x = self.embed(tokens)
        for block in self.blocks:
            x = block(x)
        return F.cross_entropy(self.head(self.norm(x)).flatten(0, 1), targets.flatten())


GRID = torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0])


def fake_nvfp4(x, square=False, stochastic=False):
    """x rounded to NVFP4 and back, blocks of 16 along the last axis, or 16x16 tiles."""
    rows, cols = x.shape
    encode = 2688.0 / x.abs().amax().clamp_min(1e-30)
    tiles = x.view(rows // 16, 16, cols // 16, 16) if square else x.view(rows, 1, cols // 16, 16)
    largest = tiles.abs().amax((1, 3) if square else 3, keepdim=True)
    scale = (largest / 6 * encode).clamp(max=448).to(torch.float8_e4m3fn).float()
    y = (tiles * (encode / scale.clamp_min(2**-9))).clamp(-6, 6)
    magnitude = y.abs()
    step = torch.where(magnitude < 2, 0.5, torch.where(magnitude < 4, 1.0, 2.0))
    shift = torch.rand_like(y) if stochastic else 0.5
    quantised = torch.floor(magnitude / step + shift) * step
    return (torch.copysign(quantised.clamp(max=6), y) * (scale / encode)).view(rows, cols)


def hadamard16():
    h = torch.ones(1, 1)
    while h.shape[0] < 16:
        h = torch.cat([torch.cat([h, h], 1), torch.cat([h, -h], 1)], 0)
    signs = torch.tensor([-1.0 if 0xD7E8 >> i & 1 else 1.0 for i in range(16)])
    return signs[:, None] * h / 4


ROTATION = hadamard16()


def rotate(x):
    return (x.view(x.shape[0], -1, 16) @ ROTATION).view(x.shape)


class FakeNvfp4(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, w):
        flat = x.flatten(0, -2)
        ctx.save_for_backward(flat, w)
        return (fake_nvfp4(flat) @ fake_nvfp4(w, square=True).T).view(*x.shape[:-1], w.shape[0])

    @staticmethod
    def backward(ctx, dy):
        x, w = ctx.saved_tensors
        flat = dy.flatten(0, -2)
        dx = fake_nvfp4(flat, stochastic=True) @ fake_nvfp4(w, square=True)
        a = fake_nvfp4(rotate(flat.T.contiguous()), stochastic=True)
        b = fake_nvfp4(rotate(x.T.contiguous()))
        return dx.view(*dy.shape[:-1], w.shape[1]), a @ b.T


class FakeLinear(nn.Module):
    def __init__(self, inputs, outputs):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, inputs))

    def forward(self, x):
        return FakeNvfp4.apply(x, self.weight)


def build(spec):
    if spec["kind"] == "dense":
        fake = spec["mode"] == "fake_nvfp4"
        linear = FakeLinear if fake else lambda inputs, outputs: nn.Linear(inputs, outputs, bias=False)
        return Dense(spec, linear)
    from transformers import NemotronHConfig, NemotronHForCausalLM

    config = NemotronHConfig(
        vocab_size=spec["vocab"],
        hidden_size=spec["width"],
        intermediate_size=spec["ffn"],
        hybrid_override_pattern=spec["pattern"],
        num_hidden_layers=len(spec["pattern"]),
        num_attention_heads=spec["heads"],
        num_key_value_heads=spec["kv_heads"],
        head_dim=spec["head_dim"],
        mamba_num_heads=spec["mamba_heads"],
        mamba_head_dim=spec["mamba_head_dim"],
        ssm_state_size=spec["state"],
        n_groups=spec["groups"],
        chunk_size=spec["chunk"],
        use_cache=False,
        tie_word_embeddings=False,
    )
    model = NemotronHForCausalLM(config)

    class Loss(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, tokens, targets):
            logits = self.model(input_ids=tokens, use_cache=False).logits
            return F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())

    return Loss()


def linear_steps(spec):
    layer = nn.Linear(spec["width"], spec["width"], bias=False)
    x = torch.randn(spec["tokens"], spec["width"], requires_grad=True)
    dy = torch.randn(spec["tokens"], spec["width"])

    def step():
        layer.weight.grad = x.grad = None
        layer(x).backward(dy)
        return torch.zeros(())

    return layer, step


def model_steps(spec):
    device = spec.get("backend", "cpu")
    mixed = spec["mode"] == "compile_bf16"
    torch.set_float32_matmul_precision("high" if mixed else "highest")
    model = build(spec).to(device)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.normal_(0, 0.02)
    step_model = torch.compile(model) if spec["mode"].startswith("compile") else model
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    shape = (spec["batch"], spec["sequence"])

    def step():
        tokens = torch.randint(0, spec["vocab"], shape, device=device)
        targets = torch.randint(0, spec["vocab"], shape, device=device)
        with torch.autocast(device, torch.bfloat16, enabled=mixed):
            loss = step_model(tokens, targets)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return loss

    return model, step


def main():
    spec = json.loads(sys.stdin.readline())
    torch.set_num_threads(spec["threads"])
    torch.manual_seed(1)
    model, step = linear_steps(spec) if spec["kind"] == "linear" else model_steps(spec)
    first = step().item()
    print(json.dumps({"ready": sum(p.numel() for p in model.parameters()), "loss": first}), flush=True)
    for line in sys.stdin:
        start, before = time.perf_counter(), time.process_time()
        for _ in range(int(line)):
            loss = step()
        last = loss.item()
        seconds = time.perf_counter() - start
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        if spec.get("backend") == "cuda":
            peak = torch.cuda.max_memory_allocated()
        answer = {"seconds": seconds, "cpu_seconds": time.process_time() - before, "loss": last, "peak_bytes": peak}
        print(json.dumps(answer), flush=True)


main()
