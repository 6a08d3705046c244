#!/usr/bin/env python3
"""Writes `frames.jsonl.zst`: two frames of a JSON line each, and one without content between them.

Needs:   pip install zstandard
Command: python3 crates/recipe/tests/data/make_frames.py crates/recipe/tests/data
"""
import json
import pathlib
import sys

import zstandard

frame = zstandard.ZstdCompressor(write_checksum=True)
lines = [{"instruction": f"Name a {what}", "input": "", "output": answer}
         for what, answer in (("color", "Blue."), ("fruit", "Plum."))]
packed = [frame.compress((json.dumps(line) + "\n").encode()) for line in lines]
skipped = (0x184D2A53).to_bytes(4, "little") + (5).to_bytes(4, "little") + b"notes"
(pathlib.Path(sys.argv[1]) / "frames.jsonl.zst").write_bytes(packed[0] + skipped + packed[1])
