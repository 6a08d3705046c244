#!/usr/bin/env python3
"""Reads a run's event files with TensorBoard's own reader, and compares them with metrics.jsonl.

    python3 -m venv venv && venv/bin/pip install tensorboard
    venv/bin/python training/read_events.py runs/demo

Ends with 0 where every figure of every step is there and equal (as 32-bit floats), else with 1.
"""

import json
import struct
import sys
from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

TAGS = {
    "train/loss": "loss",
    "train/learning_rate": "learning_rate",
    "train/grad_norm": "grad_norm",
    "train/tokens": "tokens",
    "train/tokens_per_second": "tokens_per_second",
    "validation/loss": "val_loss",
}


def as_float32(value):
    return struct.unpack("<f", struct.pack("<f", value))[0]


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    run = Path(sys.argv[1])
    lines = (run / "metrics.jsonl").read_text().splitlines()
    metrics = [json.loads(line) for line in lines]
    if not metrics:
        sys.exit(f"{run}: metrics.jsonl has no step")
    events = EventAccumulator(str(run / "tensorboard"), size_guidance={"scalars": 0})
    events.Reload()
    found = set(events.Tags()["scalars"])
    wrong = 0
    for tag, key in TAGS.items():
        wanted = {at["step"]: as_float32(at[key]) for at in metrics if key in at}
        told = {}
        if tag in found:
            told = {event.step: event.value for event in events.Scalars(tag)}
        if told != wanted:
            wrong += 1
            steps = sorted(step for step in wanted.keys() | told.keys()
                           if wanted.get(step) != told.get(step))
            print(f"{tag}: differs from `{key}` at steps {steps[:5]}")
        else:
            print(f"{tag}: {len(told)} steps, equal")
    unknown = found - TAGS.keys()
    if unknown:
        wrong += 1
        print(f"tags that are not known here: {sorted(unknown)}")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
