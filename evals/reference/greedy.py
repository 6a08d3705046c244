#!/usr/bin/env python3
"""Greedy answers of SmolLM2-135M-Instruct's GGUF weights by transformers: its own GGUF reader, dequantization,
un-permutation of q and k, tokenizer and decoder, none of which is shared with this repository.

Needs:   pip install torch transformers gguf accelerate
Command: python3 evals/reference/greedy.py models/SmolLM2-135M-Instruct.Q4_1.gguf > evals/reference/smollm2-greedy.json

`evals/tests/smollm2.rs` compares the float model with the file that this writes. A margin is the difference between the
two largest logits: where it is tiny, two correct programs may part.
"""
import hashlib
import json
import os
import sys

import torch
import transformers

TOKENS = 64
PROMPTS = [
    [{"role": "user", "content": "What is gravity?"}],
    [{"role": "user", "content": "Write a Python function that returns the largest of three numbers."}],
    [{"role": "system", "content": "You answer in one short sentence."},
     {"role": "user", "content": "Who wrote the play about Romeo and Juliet, and in which year, 1597 or 1879?"}],
    [{"role": "user", "content": "Übersetze ins Englische: Zwei Hunde laufen über die Straße."}],
    [{"role": "user", "content": "List three fruits."},
     {"role": "assistant", "content": "Apple, pear, plum."},
     {"role": "user", "content": "Now tell a story about the second one, 42 words long."}],
    [{"role": "user", "content": "Classify the news into World, Sports, Business or Technology: "
                                 "The central bank raised its rates again."}],
]


def main(path):
    folder, name = os.path.split(os.path.abspath(path))
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, gguf_file=name)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, gguf_file=name, dtype=torch.float32)
    model.eval()
    cases = []
    for messages in PROMPTS:
        text = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        prompt = tokenizer(text, add_special_tokens=False)["input_ids"]
        ids, answer, margins = torch.tensor([prompt]), [], []
        with torch.no_grad():
            # The whole sequence each time: no cache, so that not even that is taken on trust.
            for _ in range(TOKENS):
                top = model(ids, use_cache=False).logits[0, -1].topk(2)
                answer.append(top.indices[0].item())
                margins.append(round((top.values[0] - top.values[1]).item(), 5))
                ids = torch.cat([ids, top.indices[:1][None]], dim=1)
        cases.append({"messages": messages, "text": text, "prompt": prompt, "answer": answer,
                      "smallest_margin": min(margins), "decoded": tokenizer.decode(answer)})
    with open(path, "rb") as file:
        digest = hashlib.sha256(file.read()).hexdigest()
    made_with = {"transformers": transformers.__version__, "torch": torch.__version__}
    json.dump({"gguf_sha256": digest, "made_with": made_with, "cases": cases}, sys.stdout, indent=1, ensure_ascii=False)
    print()


if __name__ == "__main__":
    main(sys.argv[1])
