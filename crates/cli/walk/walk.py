#!/usr/bin/env python3
"""Walks through the pages as a new user would: runs the commands that they show, in their order.

    crates/cli/walk/walk.py SOURCE [--page README.md ...] [--until SECONDS]

SOURCE is cloned into a folder of its own, and the commands of the pages' `console` blocks run there:
by default README.md (quick start) and docs/real-model.md. Nothing is known here but how a shell
behaves: a command that goes on (a service) stays in the background until the next page, one that
asks gets an answer on its standard input. The first command that fails ends the walk with 1.

MARILL_SHARED names the folder with the data of the real model; it fetches the weights with pip.
"""

import argparse
import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import time

# Commands that listen until they are stopped, by their first words.
SERVICES = ("marill dealer", "marill serve", "marill gateway", "marill party", "marill up")
# What a user types into commands that ask.
TYPED = {"marill chat": "Stocks fell on Monday\n/quit\n"}


def commands(page, section, block):
    """The `$ ` lines of a page's console blocks without comments: of all of them, of those below a
    heading, or of one of these by its number."""
    text = page.read_text(encoding="utf-8")
    if section:
        text = text.split(f"\n## {section}\n", 1)[1].split("\n## ", 1)[0]
    blocks = re.findall(r"^```console\n(.*?)^```", text, re.M | re.S)
    for shown in blocks if not block else [blocks[int(block) - 1]]:
        joined = re.sub(r"\\\n\s*", "", shown)
        for line in joined.splitlines():
            # `server$ ` is the prompt of another machine.
            found = re.match(r"(?:\w+)?\$\s+(.*)", line)
            if found:
                yield re.sub(r"\s{2,}#\s.*$", "", found.group(1)).strip()


def cmdline(pid):
    return pathlib.Path(f"/proc/{pid}/cmdline").read_bytes()


class Walk:
    def __init__(self, source, folder, limit):
        self.source, self.folder, self.limit = source, folder, limit
        self.environment = dict(os.environ, NO_COLOR="1", MARILL_NO_PROGRESS="1")
        for name in ("STATE", "CACHE", "VAULT"):
            self.environment[f"MARILL_{name}"] = str(folder / "home" / name.lower())
        self.at = folder
        self.services = []

    def run(self, command):
        command = command.replace("<this repository>", str(self.source))
        # Without this a refusal would end well.
        command = re.sub(r"^curl ", "curl --silent --show-error --fail-with-body ", command)
        print(f"$ {command}", flush=True)
        begun = time.monotonic()
        if command.startswith(SERVICES):
            self.serve(command)
        else:
            self.finish(command)
        print(f"  {time.monotonic() - begun:.1f} s", flush=True)

    def shell(self, command, **more):
        # `cd` and `export` last, as in a terminal.
        script = f"{command}\nstatus=$?\npwd >&3\nenv -0 >&3\nexit $status"
        return dict(args=["bash", "-c", script], cwd=self.at, env=self.environment, **more)

    def finish(self, command):
        typed = next((text for words, text in TYPED.items() if command.startswith(words)), "")
        read, write = os.pipe()
        wrapped = self.shell(command, text=True, stdin=subprocess.PIPE, pass_fds=(write,))
        wrapped["args"][2] = wrapped["args"][2].replace(">&3", f">&{write}")
        process = subprocess.Popen(**wrapped)
        os.close(write)
        try:
            process.communicate(typed, timeout=self.limit)
        except subprocess.TimeoutExpired:
            process.kill()
            sys.exit(f"`{command}` takes more than {self.limit} s")
        with os.fdopen(read, "rb") as pipe:
            said = pipe.read()
        if process.returncode != 0:
            sys.exit(f"`{command}` ended with {process.returncode}")
        place, _, rest = said.partition(b"\n")
        self.at = pathlib.Path(place.decode())
        pairs = (pair.partition(b"=") for pair in rest.split(b"\0") if pair)
        self.environment = {name.decode(): value.decode() for name, _, value in pairs}

    def serve(self, command):
        log = tempfile.TemporaryFile(mode="w+")
        process = subprocess.Popen(
            ["bash", "-c", f"exec {command}"], cwd=self.at, env=self.environment,
            stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self.services.append(process)
        until = time.monotonic() + self.limit
        while time.monotonic() < until:
            log.seek(0)
            said = log.read()
            if "listening on" in said:
                return
            if process.poll() is not None:
                sys.exit(f"`{command}` ended: {said}")
            time.sleep(0.2)
        sys.exit(f"`{command}` does not listen after {self.limit} s: {said}")

    def stop_server(self):
        """Ends the server that runs, whose port the next one needs."""
        for process in [p for p in self.services if b"marill\0serve" in cmdline(p.pid)]:
            process.send_signal(signal.SIGINT)
            process.wait(timeout=60)
            self.services.remove(process)

    def stop(self):
        for process in reversed(self.services):
            process.send_signal(signal.SIGINT)
        for process in self.services:
            process.wait(timeout=60)
        self.services = []


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", type=pathlib.Path)
    parser.add_argument("--page", action="append", metavar="PAGE[:SECTION[:BLOCK]]")
    parser.add_argument("--until", type=int, default=2400, help="seconds that one command may take")
    given = parser.parse_args()
    # The second block of the quick start serves the model that the page behind it makes.
    pages = given.page or ["README.md:Quick start:1", "docs/real-model.md", "README.md:Quick start:2"]
    with tempfile.TemporaryDirectory() as scratch:
        walk = Walk(given.source.resolve(), pathlib.Path(scratch), given.until)
        for page in pages:
            name, section, block = (page + "::").split(":")[:3]
            print(f"== {page}", flush=True)
            shown = list(commands(given.source / name, section, block))
            if not shown:
                sys.exit(f"{page} shows no command")
            for command in shown:
                # A setting of its own needs the port that the one before it had.
                if command.startswith("marill serve"):
                    walk.stop_server()
                walk.run(command)
            walk.stop()
    print("the pages can be walked")


main()
