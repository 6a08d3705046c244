#!/usr/bin/env python3
"""lm-evaluation-harness asks a gateway, and reads a results folder that `marill eval` wrote.

Needs:   pip install "lm_eval[api]"
Command: python3 evals/reference/lm_eval_gateway.py target/release/marill PARTITION

Starts dealer, server and gateway of PARTITION on this machine, runs the harness's `local-chat-completions` on a task of
its own against the gateway, and `marill eval --engine twin --output-path` on the same questions. Every answer must be the
same text. Then the harness's own functions find and print what `marill eval` wrote. Exit code 1 where they differ.
"""
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import threading
import urllib.request

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")
os.environ.setdefault("OPENAI_API_KEY", "unused")

import lm_eval
import lm_eval.tasks
import lm_eval.utils

QUESTIONS = ["number 123", "number 140", "What is a ferry?", "Name a color."]
TOKENS = 6

HARNESS_TASK = f"""
task: probe
dataset_path: json
dataset_kwargs:
  data_files: ROWS
test_split: train
output_type: generate_until
doc_to_text: "{{{{instruction}}}}"
doc_to_target: "{{{{output}}}}"
generation_kwargs:
  until: ["\\n"]
  max_gen_toks: {TOKENS}
  temperature: 0
metric_list:
  - metric: exact_match
metadata:
  version: 1
"""

OUR_TASK = f"""
name = "probe"
version = 1
kind = "generate"
max_new_tokens = {TOKENS}

[dataset]
path = "rows.jsonl"
format = "instruct"
"""


class Service:
    def __init__(self, marill, *args):
        command = [marill, *map(str, args), "--port", "0", "--metrics-listen", "0"]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        said = ""
        for line in self.process.stderr:
            said += line
            if line.startswith("listening on "):
                break
        else:
            sys.exit(f"{args[0]} did not start: {said}")
        self.url = line.split()[-1]
        # Read to the end, so that the service never waits for room in the pipe.
        threading.Thread(target=self.process.stderr.read, daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait(timeout=60)


def run(marill, *args):
    done = subprocess.run([marill, *map(str, args)], capture_output=True, text=True, timeout=600)
    if done.returncode != 0:
        sys.exit(f"marill {' '.join(map(str, args))}: {done.stderr}")


def ask_gateway(url, place):
    manager = lm_eval.tasks.TaskManager(include_path=str(place / "tasks"), include_defaults=False)
    told = {"model": "marill", "base_url": f"{url}/v1/chat/completions", "num_concurrent": 1, "max_retries": 1,
            "tokenized_requests": False}
    with urllib.request.urlopen(f"{url}/v1/models", timeout=60) as models:
        told["model"] = json.load(models)["data"][0]["id"]
    return lm_eval.simple_evaluate(model="local-chat-completions", model_args=told, tasks=["probe"], task_manager=manager,
                                   apply_chat_template=True, log_samples=True, bootstrap_iters=0)


def main(marill, partition):
    with tempfile.TemporaryDirectory() as place:
        place = pathlib.Path(place)
        (place / "tasks").mkdir()
        rows = [{"instruction": question, "output": "one"} for question in QUESTIONS]
        (place / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        (place / "tasks/probe.yaml").write_text(HARNESS_TASK.replace("ROWS", str(place / "rows.jsonl")))
        (place / "probe.toml").write_text(OUR_TASK)
        server_state, user_state = place / "state", place / "user"
        with Service(marill, "dealer", "--state", server_state) as dealer, \
                Service(marill, "serve", "--dealer", dealer.url, partition, "--state", server_state) as server, \
                Service(marill, "gateway", "--server", server.url, "--dealer", dealer.url,
                        "--state", user_state, "--cache", place / "cache") as gateway:
            theirs = ask_gateway(gateway.url, place)
        answers = [sample["resps"][0][0] for sample in sorted(theirs["samples"]["probe"], key=lambda s: s["doc_id"])]
        run(marill, "eval", partition, "--tasks", place / "probe.toml", "--engine", "twin", "--output-path", place / "out",
            "--no-progress")
        files = [str(path) for path in (place / "out").rglob("*.json*")]
        results = lm_eval.utils.get_results_filenames(files)
        samples = lm_eval.utils.get_sample_results_filenames(files)
        latest = lm_eval.utils.get_latest_filename(results)
        ours = json.loads(pathlib.Path(latest).read_text())
        print(lm_eval.utils.make_table(ours))
        lines = pathlib.Path(samples[0]).read_text().splitlines()
        told = [json.loads(line)["filtered_resps"][0] for line in lines]
        # The harness cuts at a line break behind the answer, the gateway's answer has none.
        same = [a.split("\n")[0].strip() == b.split("\n")[0].strip() for a, b in zip(answers, told, strict=True)]
        print(json.dumps({"lm_eval": lm_eval.__version__, "questions": len(same), "same": sum(same),
                          "answers": answers, "ours": told}))
        return 0 if all(same) and len(results) == 1 and len(samples) == 1 else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:3]))
