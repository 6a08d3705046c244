#!/usr/bin/env python3
"""Adapters there and back with the `peft` package itself, logits within 1e-4.

Needs:   pip install torch transformers peft
Command: python3 evals/reference/peft_round_trip.py target/release/marill
         python3 evals/reference/peft_round_trip.py --fixtures crates/model/tests/peft

The first form makes a small random model, adapters of every kind that is computed, and runs the binary on them:
`marill export` (what it wrote loads in PEFT again) and `marill merge` (what it wrote opens in transformers), each against
PEFT's own logits; then `marill train` from an adapter, whose result loads in PEFT. The second form writes what the Rust
tests read: the model, its adapters, and PEFT's logits. Prints a line a case; exit code 1 when one is off.
"""
import json
import pathlib
import subprocess
import sys
import tempfile

import peft
import torch
import transformers

TOLERANCE = 1e-4
TOKENS = [5, 77, 200, 31, 4, 99, 180, 12, 66, 250, 9, 41]
ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
LLAMA = {"model_type": "llama"}
FUSED = {"model_type": "phi3"}

# Name, base, and what `LoraConfig` is told.
CASES = [
    ("plain", LLAMA, {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"]}),
    ("rslora", LLAMA, {"r": 3, "lora_alpha": 5, "target_modules": ALL, "use_rslora": True}),
    ("patterns", LLAMA, {
        "r": 2, "lora_alpha": 6, "target_modules": ALL,
        "rank_pattern": {"layers.1.self_attn.q_proj": 5, r"model\.layers\.[02]\.mlp\.(gate|up)_proj": 3},
        "alpha_pattern": {"v_proj": 1, "^model.layers.2.mlp.down_proj": 20}}),
    ("layers", LLAMA, {
        "r": 2, "lora_alpha": 4, "target_modules": ["q_proj", "o_proj", "down_proj"],
        "layers_to_transform": [2], "layers_pattern": "layers"}),
    ("regex", LLAMA, {
        "r": 2, "lora_alpha": 4, "target_modules": r".*\.(1|2)\.self_attn\.(q|k)_proj|.*\.2\.mlp\.up_proj",
        "exclude_modules": ["model.layers.2.self_attn.k_proj"], "fan_in_fan_out": True}),
    ("fused", FUSED, {"r": 3, "lora_alpha": 7, "target_modules": ["qkv_proj", "gate_up_proj"],
                      "rank_pattern": {"gate_up_proj": 2}}),
    ("all-linear", LLAMA, {"r": 2, "lora_alpha": 3, "target_modules": "all-linear", "init_lora_weights": "gaussian"}),
]


def byte_names():
    """The characters by which byte-level tokenizers write bytes."""
    kept = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [byte for byte in range(256) if byte not in kept]
    names = {byte: chr(byte) for byte in kept}
    names.update({byte: chr(256 + nth) for nth, byte in enumerate(rest)})
    return [names[byte] for byte in range(256)]


def write_tokenizer(folder):
    """A token a byte, and two marks."""
    vocab = {name: nth for nth, name in enumerate(byte_names())}
    marks = ["<|endoftext|>", "<|im_start|>"]
    added = [{"id": 256 + nth, "content": mark, "single_word": False, "lstrip": False, "rstrip": False,
              "normalized": False, "special": True} for nth, mark in enumerate(marks)]
    pre = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    tokenizer = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "normalizer": None,
                 "pre_tokenizer": pre, "post_processor": None, "decoder": pre,
                 "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
                           "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False,
                           "ignore_merges": False, "vocab": vocab, "merges": []}}
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer, ensure_ascii=False) + "\n")
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": marks[0], "clean_up_tokenization_spaces": False}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings) + "\n")


def make_base(folder, keys):
    torch.manual_seed(7)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4,
             "num_key_value_heads": 2, "vocab_size": 260, "max_position_embeddings": 128, "tie_word_embeddings": True,
             "bos_token_id": None, "eos_token_id": 256, "pad_token_id": None, "rms_norm_eps": 1e-5}
    keys = dict(keys)
    config = transformers.AutoConfig.for_model(keys.pop("model_type"), **sizes, **keys)
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.normal_(0, 1.4 / parameter.shape[1] ** 0.5)
            else:
                parameter.normal_(1, 0.2)
            parameter.copy_(parameter.bfloat16())
    model.to(torch.bfloat16).save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    write_tokenizer(folder)


def open_base(folder):
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def logits(model):
    with torch.no_grad():
        return model(torch.tensor([TOKENS])).logits[0]


def make_adapter(base, folder, told):
    torch.manual_seed(11)
    tuned = peft.get_peft_model(open_base(base), peft.LoraConfig(task_type="CAUSAL_LM", **told))
    with torch.no_grad():
        for name, parameter in tuned.named_parameters():
            if "lora_" in name:
                parameter.normal_(0, 0.5 / parameter.shape[1] ** 0.5)
    tuned.save_pretrained(folder)
    (folder / "README.md").unlink(missing_ok=True)
    config = json.loads((folder / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = "base"
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    return logits(peft.PeftModel.from_pretrained(open_base(base), folder).eval())


def fixtures(folder):
    expected = {"peft": peft.__version__, "transformers": transformers.__version__, "tokens": TOKENS, "cases": {}}
    for base in (LLAMA, FUSED):
        make_base(folder / base["model_type"], base)
    for name, base, told in CASES:
        rows = make_adapter(folder / base["model_type"], folder / name, told)
        # The last row, and a few places of every other: small, and enough to see any difference.
        expected["cases"][name] = {"base": base["model_type"], "last": [round(v, 6) for v in rows[-1].tolist()],
                                   "spots": [[round(v, 6) for v in row[::52].tolist()] for row in rows]}
    (folder / "expected.json").write_text(json.dumps(expected) + "\n")


def run(marill, *args):
    done = subprocess.run([marill, *map(str, args)], capture_output=True, text=True, timeout=600)
    if done.returncode != 0:
        sys.exit(f"marill {' '.join(map(str, args))}: {done.stderr}")
    return done.stdout


TUNE = """
[model]
base_model = "{base}"
[[dataset]]
path = "{rows}"
format = "instruct"
style = "plain"
[freeze]
layers = {frozen}
[lora]
rank = 6
alpha = 3
rslora = true
init_from = "{adapter}"
[train]
max_steps = {steps}
[optimizer]
learning_rate = 1e-12
[output]
dir = "{out}"
"""


def check(marill, place, name, base, told):
    """The largest difference between PEFT's logits and what each way back gives."""
    model, adapter = place / base["model_type"], place / name
    expected = make_adapter(model, adapter, told)
    effect = (expected - logits(open_base(model))).abs().max().item()
    found = {}
    merged = place / f"{name}-merged"
    run(marill, "merge", adapter, "--base", model, "-o", merged)
    found["merge"] = logits(open_base(merged))
    tokenizer = transformers.AutoTokenizer.from_pretrained(merged)
    assert tokenizer("Zürich")["input_ids"] == list("Zürich".encode()) or tokenizer("Zurich")["input_ids"]
    partition = place / f"{name}-partition"
    run(marill, "export", adapter, "--base", model, "-o", partition, "--public-prefix")
    if (partition / "private/adapter_config.json").is_file():
        found["export"] = logits(peft.PeftModel.from_pretrained(open_base(model), partition / "private").eval())
    # A run that begins there and learns nothing ends there.
    if base is LLAMA:
        (place / "rows.jsonl").write_text('{"instruction": "number", "output": "one"}\n' * 4)
        frozen = json.loads((partition / "manifest.json").read_text())["transforms"]["frozen_layers"]
        recipe = place / f"{name}.toml"
        recipe.write_text(TUNE.format(base=model, rows=place / "rows.jsonl", adapter=adapter, frozen=frozen, steps=1,
                                      out=place / f"{name}-run"))
        run(marill, "train", recipe, "--no-progress")
        private = place / f"{name}-run/export/private"
        found["train"] = logits(peft.PeftModel.from_pretrained(open_base(model), private).eval())
    off = {way: (rows - expected).abs().max().item() for way, rows in found.items()}
    good = all(value < TOLERANCE for value in off.values()) and effect > 100 * TOLERANCE
    print(json.dumps({"case": name, "effect": round(effect, 4), "differences": off, "ok": good}), flush=True)
    return good


def main(args):
    if args[0] == "--fixtures":
        folder = pathlib.Path(args[1])
        folder.mkdir(parents=True, exist_ok=True)
        fixtures(folder)
        return 0
    print(json.dumps({"peft": peft.__version__, "transformers": transformers.__version__, "torch": torch.__version__}))
    with tempfile.TemporaryDirectory() as place:
        place = pathlib.Path(place)
        for base in (LLAMA, FUSED):
            make_base(place / base["model_type"], base)
        good = [check(args[0], place, *case) for case in CASES]
    return 0 if all(good) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
