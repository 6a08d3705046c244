#!/usr/bin/env python3
"""Trains the same weights on the same rows with PyTorch and with `marill train`, and compares tokens per second.

Needs:   pip install torch transformers peft gguf accelerate; a `marill` binary; SmolLM2-135M-Instruct as GGUF
Command: python3 training/compare/compare.py --marill target/release/marill \\
             --model models/SmolLM2-135M-Instruct.Q4_1.gguf --data data/agnews/train.tsv.gz --rows 150 --repeat 3
Time:    about 18 minutes on two quiet cores

Every repetition runs each side once, one after another, so that a slow minute hits all of them; the table gives the
median and the range. The sides of `--once` run in the first repetition alone.

Equal on both sides: dequantized f32 weights, rows, chat template, label mask, batches of 16 rows, rank 8 on all seven
projections, AdamW, clipping. The token counts of both sides are compared, and a difference ends the comparison.
Tokens per second are non-pad input tokens over wall time: `marill` counts from its start, with opening the model,
tokenizing, building the cache of the frozen prefix (never one of an earlier run) and writing checkpoints; PyTorch counts
from its first batch on, tokenizing, loading and saving left out. Processor seconds are shown beside wall time, for machines that do other work
too; `marill`'s include the export of the partition behind the training. PyTorch pads to the longest row of a batch; `--group` sorts rows by length
first, so that next to nothing is padded. The head is computed at label positions alone, as `marill` does, and once more
as transformers ships it.
"""
import argparse
import gzip
import json
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time

RECIPE = """
[model]
base_model = {model}
[[dataset]]
path = {rows}
format = "classify"
template = "What is the topic of this news article: World, Sports, Business or Technology?\\n\\n{{0}}"
label = "1"
labels = ["World", "Sports", "Business", "Technology"]
[data]
max_seq_len = 256
[freeze]
layers = {frozen}
[lora]
rank = 8
alpha = 16
[heads]
merge = {merge}
[train]
epochs = {epochs}
micro_batch_size = 16
seed = 1
[optimizer]
learning_rate = 1e-3
weight_decay = 0.01
warmup_ratio = 0.1
[output]
dir = {out}
"""
LABELS = ["World", "Sports", "Business", "Technology"]
QUESTION = "What is the topic of this news article: World, Sports, Business or Technology?\n\n"


def read_rows(path, count):
    with gzip.open(path, "rt", encoding="utf-8") as file:
        rows = [line.rstrip("\n").split("\t") for line in file]
    random.Random(1).shuffle(rows)
    return [(text, int(label)) for text, label in rows if 20 < len(text) < 500][:count]


def torch_runs(args, rows, sides):
    import torch
    import transformers
    from peft import LoraConfig, get_peft_model

    torch.set_num_threads(args.threads)
    folder, name = os.path.split(os.path.abspath(args.model))
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, gguf_file=name)

    def sample(text, label):
        turn = [{"role": "user", "content": QUESTION + text}]
        prompt = tokenizer.apply_chat_template(turn, add_generation_prompt=True, tokenize=False)
        prompt = tokenizer(prompt, add_special_tokens=False)["input_ids"]
        answer = tokenizer(LABELS[label] + "<|im_end|>", add_special_tokens=False)["input_ids"]
        return prompt + answer, len(prompt)

    samples = [sample(*row) for row in rows]
    tokens = sum(len(ids) for ids, _ in samples)
    for side in sides:
        torch.manual_seed(0)
        model = transformers.AutoModelForCausalLM.from_pretrained(folder, gguf_file=name, dtype=torch.float32)
        modules = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
        model = get_peft_model(model, LoraConfig(r=8, lora_alpha=16, target_modules=modules, task_type="CAUSAL_LM"))
        model.config.use_cache = False
        model.train()
        order = sorted(samples, key=lambda s: len(s[0])) if "grouped" in side else list(samples)
        batches = [order[i:i + 16] for i in range(0, len(order), 16)]
        random.Random(2).shuffle(batches)
        trained = [p for p in model.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=1e-3, weight_decay=0.01)
        loss_sum, started, busy = 0.0, time.time(), time.process_time()
        for batch in batches:
            loss = torch_loss(torch, model, batch, stock="stock" in side)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(trained, 1.0)
            optimizer.step()
            optimizer.zero_grad()
            loss_sum += loss.item()
        seconds, busy = time.time() - started, time.process_time() - busy
        yield {"side": side, "tokens": tokens, "seconds": seconds, "tokens_per_second": tokens / seconds,
               "cpu_seconds": busy, "mean_loss": loss_sum / len(batches)}
        del model, optimizer


def torch_loss(torch, model, batch, stock):
    width = max(len(ids) for ids, _ in batch)
    ids = torch.zeros(len(batch), width, dtype=torch.long)
    mask = torch.zeros_like(ids)
    labels = torch.full_like(ids, -100)
    for row, (tokens, start) in enumerate(batch):
        ids[row, :len(tokens)] = torch.tensor(tokens)
        mask[row, :len(tokens)] = 1
        labels[row, start:len(tokens)] = torch.tensor(tokens[start:])
    if stock:
        return model(input_ids=ids, attention_mask=mask, labels=labels).loss
    inner = model.get_base_model()
    hidden = inner.model(input_ids=ids, attention_mask=mask).last_hidden_state[:, :-1]
    wanted = labels[:, 1:] != -100
    return torch.nn.functional.cross_entropy(inner.lm_head(hidden[wanted]), labels[:, 1:][wanted])


def cpu_of_children():
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def marill_run(args, rows, side, frozen, merge, epochs):
    with tempfile.TemporaryDirectory() as folder:
        tsv, recipe, out = (os.path.join(folder, name) for name in ["rows.tsv", "recipe.toml", "out"])
        with open(tsv, "w", encoding="utf-8") as file:
            file.writelines(f"{text}\t{label}\n" for text, label in rows)
        values = {"model": os.path.abspath(args.model), "rows": tsv, "out": out}
        with open(recipe, "w", encoding="utf-8") as file:
            quoted = {key: json.dumps(value) for key, value in values.items()}
            file.write(RECIPE.format(frozen=frozen, merge=merge, epochs=float(epochs), **quoted))
        # An own cache: what frozen layers said in an earlier run would be found again.
        cache = os.path.join(folder, "cache")
        environment = dict(os.environ, RAYON_NUM_THREADS=str(args.threads), MARILL_CACHE=cache)
        command = [args.marill, "train", recipe, "--json", "--no-progress"]
        before = cpu_of_children()
        output = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
        busy = cpu_of_children() - before
        report = json.loads(output.stdout)["train"]
        with open(os.path.join(out, "metrics.jsonl"), encoding="utf-8") as file:
            steps = [json.loads(line) for line in file]
    found = {"side": side, "tokens": report["tokens"], "seconds": report["seconds"],
             "tokens_per_second": report["tokens_per_second"], "cpu_seconds": busy}
    each = len(steps) // epochs
    if epochs > 1:
        at = [step["tokens"] / step["tokens_per_second"] for step in steps]
        first, last = steps[-each - 1], steps[-1]
        found["last_epoch_tokens_per_second"] = (last["tokens"] - first["tokens"]) / (at[-1] - at[-each - 1])
    found["mean_loss"] = sum(step["loss"] for step in steps[:each]) / each
    return found


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--marill", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True, help="two-column TSV, gzipped: text, label 0 to 3")
    parser.add_argument("--rows", type=int, default=150)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--once", default="torch,torch-stock", help="sides that are not repeated")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--only", default="torch,torch-grouped,torch-stock,marill-all,marill-15,marill-15x3")
    args = parser.parse_args()
    rows, only, results = read_rows(args.data, args.rows), args.only.split(","), []

    def note(result):
        results.append(result)
        print(json.dumps(result), file=sys.stderr, flush=True)

    for nth in range(args.repeat):
        now = [side for side in only if nth == 0 or side not in args.once.split(",")]
        for side, frozen, merge, epochs in [("marill-all", 0, 1, 1), ("marill-15", 15, 3, 1), ("marill-15x3", 15, 3, 3)]:
            if side in now:
                note(marill_run(args, rows, side, frozen, merge, epochs))
        for result in torch_runs(args, rows, [side for side in now if side.startswith("torch")]):
            note(result)
    counts = {r["tokens"] // (3 if r["side"].endswith("x3") else 1) for r in results}
    if len(counts) > 1:
        sys.exit(f"error: the sides do not train on the same tokens: {sorted(counts)}")
    print(f"{'side':16}{'runs':>5}{'tokens/s':>10}{'range':>16}{'last epoch':>12}{'tokens/cpu s':>14}{'loss':>8}")
    for side in only:
        runs = [r for r in results if r["side"] == side]
        if not runs:
            continue
        speeds = [r["tokens_per_second"] for r in runs]
        last = [r["last_epoch_tokens_per_second"] for r in runs if "last_epoch_tokens_per_second" in r]
        a_cpu_second = statistics.median(r["tokens"] / r["cpu_seconds"] for r in runs)
        print(f"{side:16}{len(runs):5}{statistics.median(speeds):10.1f}{f'{min(speeds):.1f}-{max(speeds):.1f}':>16}"
              f"{f'{statistics.median(last):.1f}' if last else '':>12}{a_cpu_second:14.1f}"
              f"{statistics.median(r['mean_loss'] for r in runs):8.3f}")


if __name__ == "__main__":
    main()
