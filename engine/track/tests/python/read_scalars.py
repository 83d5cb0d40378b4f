"""Prints the scalars that TensorBoard reads out of a folder: {tag: [[step, value], ...]}."""

import json
import sys

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

accumulator = EventAccumulator(sys.argv[1], size_guidance={"scalars": 0})
accumulator.Reload()
tags = accumulator.Tags()["scalars"]
# JSON has no NaN, but Python would write one.
values = {tag: [[event.step, repr(event.value)] for event in accumulator.Scalars(tag)] for tag in tags}
print(json.dumps({"version": accumulator.file_version, "scalars": values}))
