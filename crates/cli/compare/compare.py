#!/usr/bin/env python3
"""Two binaries of Marill in turns: the same bytes, and no more CPU time.

For changes that must not change what the program does. Checks that
  - both train the same adapter and export the same partition (SHA-256 of every file);
  - the new one exports the old one's run to the same files, and the old one's partition gives
    the same answers and traffic in both, which are the twin's;
and prints CPU seconds, old and new in turns, of each party's steps, of the client's prefix, and
of training. Times are the least of the turns: what disturbs a run only ever makes it longer.

    compare.py --old OLD_BINARY --new NEW_BINARY [--turns 5] [--limit 1.03] [--quick]

Exit code 1 when bytes differ, or a ratio is above the limit.
"""

import argparse
import hashlib
import json
import os
import pathlib
import resource
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[3]
# What a run writes about itself (times, and the digests of such files), and the prose of its card.
VOLATILE = {"README.md", "SHA256SUMS", "report.json", "metrics.jsonl", "state.json", "run.json"}

SHAPES = {
    "a token, one-hot, 1 layer": ["--layers", "1", "--comparison", "one-hot", "--tokens", "16"],
    "a token, DCF, 1 layer": ["--layers", "1", "--comparison", "dcf", "--tokens", "16"],
    "a token, one-hot, 15 layers": ["--layers", "15", "--comparison", "one-hot", "--tokens", "4"],
    "a token, DCF, 15 layers": ["--layers", "15", "--comparison", "dcf", "--tokens", "4"],
    "prompt of 64, one-hot, 1 layer": ["--layers", "1", "--comparison", "one-hot", "--phase", "prefill", "--tokens", "64"],
    "prompt of 64, DCF, 1 layer": ["--layers", "1", "--comparison", "dcf", "--phase", "prefill", "--tokens", "64"],
    "prompt of 64, DCF, 15 layers": ["--layers", "15", "--comparison", "dcf", "--phase", "prefill", "--tokens", "64"],
    "prompt of 64, one-hot, 15 layers": ["--layers", "15", "--comparison", "one-hot", "--phase", "prefill", "--tokens", "64"],
}
BLOCK_7B = {
    "a token of a block of 7B, one-hot": ["--comparison", "one-hot", "--tokens", "4"],
    "a token of a block of 7B, DCF": ["--comparison", "dcf", "--tokens", "4"],
    "prompt of 16 of a block of 7B, one-hot": ["--comparison", "one-hot", "--phase", "prefill", "--tokens", "16"],
}
# The model card says in prose what the files say.
CARD = {"README.md"}
# Former spellings; the old binary may know no other.
BEFORE = {"--comparison": "--material", "one-hot": "digits", "dcf": "points"}


def run(binary, arguments, **more):
    """Standard output and CPU seconds of one call."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([binary, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                          timeout=1200, check=False, **more)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode != 0:
        sys.exit(f"`{binary} {' '.join(map(str, arguments))}` ended with {done.returncode}:\n{done.stderr}")
    return done.stdout, after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def bench(binary, shape):
    """CPU seconds of each party of one benchmark."""
    arguments = ["bench", *shape, "--json"]
    if "--comparison" not in run(binary, ["bench", "--help"])[0]:
        arguments = [BEFORE.get(a, a) for a in arguments]
    found = json.loads(run(binary, arguments)[0])
    if not (found["twin_equal"] and found["tally_equal"]):
        sys.exit(f"`bench {' '.join(shape)}`: the result or the traffic is not the declared one")
    return found["cpu_seconds"]


def digests(folder):
    """SHA-256 of every file that is the same in every run."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name not in VOLATILE and path.parent.name != "tensorboard":
            found[str(path.relative_to(folder))] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def same_bytes(old, new, work, steps):
    """Trains and exports with both; returns the old one's export and a sentence for each difference."""
    seen, seconds = {}, {}
    for name, binary in (("old", old), ("new", new)):
        # The same place for both: the recipe that a run keeps names its folder.
        out = work / "run"
        recipe = ROOT / "recipes/demo.toml"
        arguments = ["train", recipe, "--set", f"train.max_steps={steps}", "--output-dir", out, "--cache", work / "cache" / name]
        _, seconds[name] = run(binary, [*arguments, "--no-progress"])
        out = out.rename(work / name)
        seen[name] = digests(out)
    wrong = [f"the run's `{path}` differs or is missing in one" for path in sorted(set(seen["old"]) | set(seen["new"]))
             if seen["old"].get(path) != seen["new"].get(path)]
    return wrong, seconds


def same_answers(old, new, work):
    """The old run, exported again by the new binary, and what the old partition answers, by both."""
    run(new, ["export", work / "old", "--out", work / "again", "--name", "run", "--base", ROOT / "recipes/base", "--json"])
    wrong = [f"the old run exports another `{path}` now" for path, digest in digests(work / "again").items()
             if path not in CARD and digests(work / "old/export").get(path) != digest]
    found = []
    for binary in (old, new):
        arguments = ["eval", work / "old/export", "--tasks", "dolly4", "--limit", "12", "--json", "--no-progress"]
        answers = {engine: json.loads(run(binary, [*arguments, "--engine", engine])[0]) for engine in ("twin", "secure")}
        cost = json.loads(run(binary, ["bench", work / "old/export", "--prompt-tokens", "48", "--json"])[0])
        if not (cost["twin_equal"] and cost["tally_equal"]):
            wrong.append(f"`{binary} bench`: the result or the traffic is not the declared one")
        bytes_only = {k: v for k, v in cost["cost"].items() if not k.endswith("seconds")}
        found.append(({engine: report["results"]["dolly4"]["answers_sha256"] for engine, report in answers.items()}, bytes_only, cost["dealer_to_server_bytes"]))
    if found[0] != found[1]:
        wrong.append(f"the partition of the old run gives {found[1]}, not {found[0]}")
    return wrong


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--old", required=True)
    parser.add_argument("--new", required=True)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--limit", type=float, default=1.03)
    parser.add_argument("--steps", type=int, default=20, help="training steps of the demo")
    parser.add_argument("--quick", action="store_true", help="bytes and tokens only")
    args = parser.parse_args()
    old, new = (os.path.abspath(p) for p in (args.old, args.new))

    with tempfile.TemporaryDirectory() as temporary:
        work = pathlib.Path(temporary)
        wrong, _ = same_bytes(old, new, work, args.steps)
        wrong += same_answers(old, new, work)
        print("adapter, export, answers and traffic:", "equal" if not wrong else "; ".join(wrong))

        rows = {}

        def note(name, which, seconds):
            rows.setdefault(name, {"old": [], "new": []})[which].append(seconds)

        for turn in range(0 if args.quick else args.turns):
            # Whoever goes first finds the colder machine: take turns at that too.
            order = [("old", old), ("new", new)]
            for which, binary in order if turn % 2 == 0 else reversed(order):
                for name, shape in SHAPES.items():
                    shape = ["--arch", "smollm2-135m", "--merge", "3", *shape]
                    for party, seconds in bench(binary, shape).items():
                        note(f"{name}: {party}", which, seconds)
                for name, shape in BLOCK_7B.items():
                    for party, seconds in bench(binary, ["--arch", "llama-7b", "--layers", "1", *shape]).items():
                        note(f"{name}: {party}", which, seconds)
                _, seconds = run(binary, ["bench", work / "old/export", "--prompt-tokens", "48"])
                note("the demo's partition, prefix and 8 tokens, all parties", which, seconds)
                out = work / f"again-{which}-{turn}"
                _, seconds = run(binary, ["train", ROOT / "recipes/demo.toml", "--set", f"train.max_steps={args.steps}",
                                          "--output-dir", out, "--cache", work / "cold" / f"{which}-{turn}", "--no-progress"])
                note(f"{args.steps} steps of training and the export", which, seconds)

    slow = []
    if rows:
        print(f"\n{'CPU seconds, least of ' + str(args.turns):60} {'old':>9} {'new':>9} {'ratio':>6}")
    for name, seconds in rows.items():
        before, after = min(seconds["old"]), min(seconds["new"])
        print(f"{name:60} {before:9.4f} {after:9.4f} {after / before:6.3f}")
        if after > before * args.limit and after - before > 0.001:
            slow.append(name)
    if slow:
        print(f"above {args.limit}: {'; '.join(slow)}")
    return 1 if wrong or slow else 0


if __name__ == "__main__":
    sys.exit(main())
