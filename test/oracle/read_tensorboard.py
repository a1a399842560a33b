"""Prints what TensorBoard's own reader finds in the event files of a run: tags, steps and values of every curve, texts of events.

    pip install tensorboard
    npx halfbyte train tiny steps=20 --log tensorboard --run runs/logged
    python test/oracle/read_tensorboard.py runs/logged/tensorboard
"""

import json
import sys

from tensorboard.backend.event_processing.event_accumulator import TENSORS, SCALARS, EventAccumulator

accumulator = EventAccumulator(sys.argv[1], size_guidance={SCALARS: 0, TENSORS: 0})
accumulator.Reload()
for tag in accumulator.Tags()["scalars"]:
    print(json.dumps({"tag": tag, "values": [[event.step, event.value] for event in accumulator.Scalars(tag)]}))
for tag in accumulator.Tags()["tensors"]:
    texts = [[event.step, event.tensor_proto.string_val[0].decode()] for event in accumulator.Tensors(tag)]
    print(json.dumps({"tag": tag, "texts": texts}))
