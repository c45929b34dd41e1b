"""The accuracy of PyTorch's bf16 (autocast) on the inputs of precision_bench: python3 precision_torch.py BASE FILE."""
import sys
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from transformers import RobertaConfig, RobertaForSequenceClassification

base, file = sys.argv[1:3]
state = load_file(file)
config = RobertaConfig.from_pretrained(base, num_labels=2, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
                                       attn_implementation="sdpa")
model = RobertaForSequenceClassification(config)
weights = load_file(base + "/model.safetensors")
own = model.state_dict()
loaded = {}
for name in own:
    found = weights.get(name, weights.get(name.removeprefix("roberta.")))
    if found is not None and found.shape == own[name].shape:
        loaded[name] = found.float()
for name, tensor in state.items():
    if name.startswith("classifier."):
        loaded[name] = tensor
missing = set(own) - set(loaded)
assert not any(n.startswith("roberta.encoder") or n.startswith("classifier") for n in missing), missing
model.load_state_dict(loaded, strict=False)
model.cuda().train().requires_grad_(False)


class Lora(torch.nn.Module):
    def __init__(self, linear, a, b, scale):
        super().__init__()
        self.linear, self.scale = linear, scale
        self.register_buffer("a", a.cuda())
        self.b = torch.nn.Parameter(b.cuda())

    def forward(self, x):
        h = F.linear(x, self.a.to(x.dtype))
        y = F.linear(h, self.b.to(x.dtype))
        self.h = h
        if y.requires_grad:
            y.register_hook(self.keep)
        return self.linear(x) + self.scale * y

    def keep(self, g):
        # F.linear's own gradient already holds the scale.
        self.gradients = torch.einsum("btm,btr->bmr", g.float(), self.h.float())


layers = []
for i, layer in enumerate(model.roberta.encoder.layer):
    for part in ("query", "value"):
        name = f"roberta.encoder.layer.{i}.attention.self.{part}"
        lora = Lora(getattr(layer.attention.self, part), state[name + ".lora_A"], state[name + ".lora_B"], 1.0)
        setattr(layer.attention.self, part, lora)
        layers.append(lora)
records = [state[f"record.{i}"].tolist() for i in range(64)]
longest = max(len(r) - 1 for r in records)
ids = torch.full((64, longest), config.pad_token_id)
mask = torch.zeros((64, longest), dtype=torch.long)
for i, record in enumerate(records):
    ids[i, : len(record) - 1] = torch.tensor(record[1:])
    mask[i, : len(record) - 1] = 1
labels = torch.tensor([r[0] for r in records])
ids, mask, labels = ids.cuda(), mask.cuda(), labels.cuda()


def outcome(narrow):
    with torch.autocast("cuda", torch.bfloat16, enabled=narrow):
        logits = model(input_ids=ids, attention_mask=mask).logits
    F.cross_entropy(logits.float(), labels, reduction="sum").backward()
    gradients = torch.cat([layer.gradients.flatten(1) for layer in layers])
    return logits.float().detach(), gradients


torch.backends.cuda.matmul.allow_tf32 = False
exact, rounded = outcome(False), outcome(True)
error = [((a - b).norm(dim=1) / b.norm(dim=1)).mean().item() for a, b in zip(rounded, exact)]
print(f"torch bf16 against fp32: logits {error[0]:.5f} per-sample gradients of B {error[1]:.5f}")
