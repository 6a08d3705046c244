#!/usr/bin/env python3
"""Attacks the binary: thousands of bad inputs, bad peers, sudden deaths, restored backups. Seeded: one seed, one attack.

    crates/cli/attack/attack.py --marill target/release/marill                 # about 40 minutes
    crates/cli/attack/attack.py --marill target/debug/marill --minutes 2       # a slice of everything

Needs Python's standard library alone and speaks to 127.0.0.1 alone. Exit code 1 for any panic, crash, hang, unclear refusal
or input wrongly taken.
"""
import argparse, os, random, sys, time

from harness import Attack
import inputs, services


def main():
    repo = os.path.abspath(os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../.."))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--marill", default=os.path.join(repo, "target/release/marill"))
    parser.add_argument("--partition", help="one that exists, in place of one of the demo's model after 20 steps")
    parser.add_argument("--minutes", type=float, default=40)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", nargs="*", help="sections by name")
    args = parser.parse_args()
    started, rng = time.time(), random.Random(args.seed)
    attack = Attack(os.path.abspath(args.marill), repo, args.partition and os.path.abspath(args.partition), args.minutes * 60)
    if not attack.partition:
        run = attack.path("run")
        demo = os.path.join(repo, "recipes/demo.toml")
        rc, out, err = attack.run(["train", demo, "--output-dir", run, "--set", "train.max_steps=20"], timeout=600)
        assert rc == 0, err
        attack.partition = os.path.join(run, "export")
        attack.end += time.time() - started
    wanted = lambda name: not args.only or name in args.only
    whole = args.minutes >= 20

    # A share of what is left each, so that a slice has something of everything.
    files = [("recipes", inputs.recipes, 0.25), ("numbers", inputs.numbers, 0.15), ("partitions", inputs.partitions, 0.35),
             ("checkpoints", inputs.checkpoints, 0.3), ("GGUF", inputs.ggufs, 0.25), ("data files", inputs.data, 0.2)]
    for name, make, share in files:
        cases = make(attack, random.Random(rng.random()))
        if wanted(name):
            attack.each(name, cases, 1.0 if whole else share, minimum=10)
    if wanted("HTTP"):
        with services.Stack(attack) as stack:
            before = stack.answer()
            cases = services.requests(attack, random.Random(rng.random()), stack)
            attack.each("HTTP", cases, 1.0 if whole else 0.4, minimum=40)
            after = stack.answer()
            attack.count("HTTP", "taken" if before[0] == after[0] == 200 and before[2] == after[2] else "wrong", "the same answer as before",
                         repr((before, after)))
            services.check_logs(attack, stack)
    if wanted("bad server"):
        attack.each("bad server", services.answer_as_a_bad_server(attack, random.Random(rng.random())), 1.0 if whole else 0.2, minimum=6)
    if wanted("restored backups"):
        services.restores(attack, rng)
    if wanted("sudden deaths"):
        services.kills(attack, random.Random(rng.random()), 60 if whole else 10)
    if wanted("load"):
        services.load(attack, 100 if whole else 10)
    if wanted("slow lines") and whole:
        services.slow_lines(attack)
    good = attack.report()
    print(f"seed {args.seed}, {(time.time() - started) / 60:.1f} minutes")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
