"""Records a LoRA adapter as PEFT writes it, with what PEFT merges, into fixtures/golden/adapter.

    python3 -m venv peft && . peft/bin/activate
    pip install peft==0.17.1 transformers==4.57.1 torch
    python scripts/make_adapter.py

The base is fixtures/golden/models/tiny_tied. Nothing of the workspace needs this; continuous integration never runs it.
"""

import json
import pathlib

import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file
from transformers import LlamaForCausalLM

ROOT = pathlib.Path(__file__).resolve().parent.parent / "fixtures" / "golden"
OUT = ROOT / "adapter"

torch.manual_seed(7)
base = LlamaForCausalLM.from_pretrained(ROOT / "models" / "tiny_tied", dtype=torch.float32)
config = LoraConfig(
    r=4, lora_alpha=6, target_modules=["q_proj", "v_proj", "down_proj"], task_type="CAUSAL_LM"
)
model = get_peft_model(base, config)
with torch.no_grad():
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.copy_(0.1 * torch.randn(parameter.shape))
model.save_pretrained(OUT, safe_serialization=True)
(OUT / "README.md").unlink()
written = json.loads((OUT / "adapter_config.json").read_text())
written["base_model_name_or_path"] = "tiny_tied"
written["target_modules"] = sorted(written["target_modules"])
(OUT / "adapter_config.json").write_text(json.dumps(written, indent=2, sort_keys=True) + "\n")

ids = torch.arange(40).reshape(1, 40) * 11 % 500 + 6
with torch.no_grad():
    logits = model(ids).logits[0]
merged = model.merge_and_unload().state_dict()
wanted = [f"model.layers.{i}.{part}.weight" for i in (0, 3) for part in ("self_attn.q_proj", "self_attn.v_proj")]
tensors = {name: merged[name].contiguous() for name in wanted + ["model.layers.3.mlp.down_proj.weight"]}
tensors["logits"] = logits[-4:].contiguous()
save_file(tensors, OUT / "merged.safetensors")
