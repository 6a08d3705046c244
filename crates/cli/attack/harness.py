"""Runs the binary on one bad input after another and judges what it did. Standard library only; everything on 127.0.0.1.

A verdict is one of
  refused   an error that says something, exit code 1 or 2
  taken     exit code 0 where the input may be taken
  wrong     exit code 0 where it must be refused
  unclear   refused without a word
  panic, crash, hang
and the last five are faults.
"""
import collections, os, resource, shutil, subprocess, tempfile, threading, time
from concurrent.futures import ThreadPoolExecutor

FAULTS = ("wrong", "unclear", "panic", "crash", "hang")
MEMORY = 10 << 30
SECONDS = 60


class Attack:
    def __init__(self, marill, repo, partition, seconds, workers=2):
        self.marill, self.repo, self.partition = marill, repo, partition
        self.work = tempfile.mkdtemp(prefix="marill-attack-")
        self.env = dict(os.environ, RUST_BACKTRACE="0", HOME=os.path.join(self.work, "home"), MARILL_NO_PROGRESS="1")
        self.end = time.time() + seconds
        self.counts = collections.defaultdict(collections.Counter)
        self.found, self.lock, self.number = [], threading.Lock(), 0
        self.pool = ThreadPoolExecutor(workers)

    def path(self, name=""):
        with self.lock:
            self.number += 1
            return os.path.join(self.work, f"{self.number}{name}")

    def run(self, args, timeout=SECONDS, memory=MEMORY):
        def limit():
            resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
        try:
            p = subprocess.run([self.marill, *args], env=self.env, timeout=timeout, stdin=subprocess.DEVNULL,
                               capture_output=True, preexec_fn=limit, cwd=self.work)
            return p.returncode, p.stdout.decode("utf8", "replace"), p.stderr.decode("utf8", "replace")
        except subprocess.TimeoutExpired:
            return "hang", "", ""

    def judge(self, section, what, args, may_take=True, timeout=SECONDS):
        """Runs the binary and counts a verdict; returns whether it took the input."""
        rc, out, err = self.run(args, timeout)
        if rc == "hang":
            verdict = "hang"
        elif "panicked at" in err or rc == 101:
            verdict = "panic"
        elif rc == 0:
            verdict = "taken" if may_take else "wrong"
        elif rc in (1, 2):
            verdict = "refused" if err.strip() else "unclear"
        else:
            verdict = "crash"
        self.count(section, verdict, what, f"exit code {rc}: {err.strip()[-300:]}")
        return rc == 0

    def count(self, section, verdict, what, detail=""):
        with self.lock:
            self.counts[section][verdict] += 1
            if verdict in FAULTS:
                self.found.append((section, verdict, what, detail))
                print(f"  {verdict}: {section}: {what}: {detail}", flush=True)

    def each(self, section, cases, share, minimum=0):
        """Runs cases, side by side, for a share of the time that is left, and at least so many."""
        cases, end = list(cases), time.time() + max(0.0, self.end - time.time()) * share
        def one(case):
            index, (function, arguments) = case
            if index >= minimum and time.time() > end:
                return
            try:
                function(*arguments)
            except Exception as error:  # A fault of the attack itself must not pass for none of the binary's.
                self.count(section, "crash", f"the attack failed at {arguments!r}"[:300], repr(error))
        list(self.pool.map(one, enumerate(cases)))
        done = sum(self.counts[section].values())
        print(f"{section}: {done} inputs of {len(cases)} or more: {dict(self.counts[section])}", flush=True)

    def report(self):
        total = sum(sum(c.values()) for c in self.counts.values())
        columns = ["refused", "taken", *FAULTS]
        print("\n| inputs | all | " + " | ".join(columns) + " |\n|---|" + "---|" * (len(columns) + 1))
        for section, counts in self.counts.items():
            print(f"| {section} | {sum(counts.values())} | " + " | ".join(str(counts[c]) for c in columns) + " |")
        print(f"\n{total} inputs, {len(self.found)} faults")
        for fault in self.found:
            print("fault:", *fault, sep=" | ")
        shutil.rmtree(self.work, ignore_errors=True)
        return not self.found
