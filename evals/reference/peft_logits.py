#!/usr/bin/env python3
"""Loads an exported adapter with PEFT on transformers' own reading of the same GGUF file and compares logits.

Needs:   pip install torch transformers peft gguf accelerate
Command: python3 evals/reference/peft_logits.py EXPORT/private models/SmolLM2-135M-Instruct.Q4_1.gguf OURS.json

OURS.json holds `tokens` and `logits`, one row of the whole vocabulary behind each token. Prints one JSON object; exit
code 1 when a logit differs by 1e-3 or more, or when the adapter changes nothing.
"""
import json
import os
import sys

import peft
import torch
import transformers

TOLERANCE = 1e-3


def main(adapter, gguf, ours_path):
    with open(ours_path) as file:
        ours = json.load(file)
    folder, name = os.path.split(os.path.abspath(gguf))
    base = transformers.AutoModelForCausalLM.from_pretrained(folder, gguf_file=name, dtype=torch.float32).eval()
    ids = torch.tensor([ours["tokens"]])
    with torch.no_grad():
        plain = base(ids).logits[0]
        tuned = peft.PeftModel.from_pretrained(base, adapter).eval()
        theirs = tuned(ids).logits[0]
    adapted = sorted(n for n, m in tuned.named_modules() if isinstance(m, peft.tuners.lora.LoraLayer))
    difference = (theirs - torch.tensor(ours["logits"])).abs().max().item()
    effect = (theirs - plain).abs().max().item()
    report = {"peft": peft.__version__, "transformers": transformers.__version__, "torch": torch.__version__,
              "adapted_modules": len(adapted), "rows": len(ours["tokens"]), "largest_difference": difference,
              "largest_effect_of_the_adapter": effect}
    print(json.dumps(report))
    return 0 if difference < TOLERANCE < effect else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:4]))
