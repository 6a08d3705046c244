#!/usr/bin/env python3
"""Writes the text that the embedded base is trained on, and the demo's task, from the public data sets.

usage: recipes/base/prepare.py DATA TEXT

DATA holds `dolly-3k/train.jsonl.gz` and the other sets named in `recipes/base/NOTICE`; TEXT is the new folder that
`recipes/base.toml` reads. `recipes/demo/{train,test}.jsonl` are written too. No row of the demo's test reaches TEXT.
"""

import gzip
import hashlib
import json
import pathlib
import random
import re
import sys

KINDS = {
    "open_qa": "answer",
    "general_qa": "answer",
    "closed_qa": "read",
    "information_extraction": "read",
    "summarization": "read",
    "classification": "classify",
    "creative_writing": "create",
    "brainstorming": "create",
}
TEST_ROWS = 480


def rows(path):
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def write(path, items):
    with open(path, "w", encoding="utf-8") as out:
        for item in items:
            out.write(json.dumps(item, ensure_ascii=False) + "\n")


def key(text):
    return "".join(text.lower().split())


def split(dolly):
    """A fixed test split; rows with the same instruction stay on one side."""
    order = sorted(dolly, key=lambda r: hashlib.sha256(key(r["instruction"]).encode()).hexdigest())
    test = {key(r["instruction"]) for r in order[:TEST_ROWS]}
    tuned = [r for r in dolly if key(r["instruction"]) not in test]
    kept = [r for r in dolly if key(r["instruction"]) in test]
    return tuned, kept


def wikitext(text):
    for mark, plain in [(" @-@ ", "-"), (" @,@ ", ","), (" @.@ ", "."), (" 's", "'s"), ("( ", "("), (" )", ")")]:
        text = text.replace(mark, plain)
    text = re.sub(r" ([,.;:?!%])", r"\1", text)
    paragraphs = []
    for line in text.split("\n"):
        sentences = re.split(r"(?<=[.?!]) ", line.strip())
        paragraphs.append(" ".join(s for s in sentences if "<unk>" not in s))
    return "\n".join(p for p in paragraphs if p)


def pieces(text, rng, count):
    words = text.split()
    for _ in range(count):
        start = rng.randrange(len(words) - 40)
        yield " ".join(words[start : start + rng.randrange(8, 30)])


def main():
    data, out = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
    here = pathlib.Path(__file__).resolve().parent
    out.mkdir(parents=True, exist_ok=True)
    rng = random.Random(20261122)

    tuned, test = split(rows(data / "dolly-3k/train.jsonl.gz"))
    for name, part in [("train", tuned), ("test", test)]:
        task = [{"text": r["instruction"].strip(), "label": KINDS[r["category"]]} for r in part]
        write(here.parent / "demo" / f"{name}.jsonl", task)
    write(out / "dolly.jsonl", [{k: r[k] for k in ("instruction", "input", "output")} for r in tuned])

    wiki = "\n".join(gzip.open(data / f"wikitext-2/{part}.txt.gz", "rt").read() for part in ("valid", "test"))
    wiki = wikitext(wiki)
    (out / "wikitext.txt").write_text(wiki, encoding="utf-8")
    play = gzip.open(data / "tinyshakespeare/input.txt.gz", "rt").read()
    (out / "shakespeare.txt").write_text(play, encoding="utf-8")
    sums = rows(data / "gsm8k/train.jsonl.gz")
    clean = [{"instruction": r["question"], "output": re.sub(r"<<.*?>>", "", r["answer"])} for r in sums]
    write(out / "gsm8k.jsonl", clean)
    seeds = rows(data / "self-instruct/seed_tasks.jsonl.gz")
    write(out / "self-instruct.jsonl", [{"instruction": r["instruction"], **r["instances"][0]} for r in seeds])
    chat = rows(data / "mt-bench/question.jsonl.gz")
    (out / "mt-bench.txt").write_text("\n\n".join(t for r in chat for t in r["turns"]), encoding="utf-8")

    # A task of the demo's shape with other labels: what kind of text is this?
    answers = " ".join(r["output"] for r in tuned)
    sources = [("encyclopedia", wiki), ("play", play), ("sum", " ".join(r["instruction"] for r in clean)), ("reply", answers)]
    kinds = [{"text": p, "label": name} for name, text in sources for p in pieces(text, rng, 800)]
    rng.shuffle(kinds)
    write(out / "kinds.jsonl", kinds)
    print(f"{len(tuned)} rows to tune on, {len(test)} to test")


main()
