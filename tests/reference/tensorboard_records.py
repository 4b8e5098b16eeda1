"""Two event records as the tensorboard package writes them, in hexadecimal: the golden of src/train/tensorboard.rs.

    pip install tensorboard
    python tests/reference/tensorboard_records.py > tests/fixtures/tensorboard_records.txt
    python tests/reference/tensorboard_records.py runs/first    # reads a run's events back and prints tags, steps and last values
"""

import io
import sys

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

if len(sys.argv) > 1:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(sys.argv[1]).Reload()
    for tag in events.Tags()["scalars"]:
        points = events.Scalars(tag)
        print(tag, len(points), "points, steps", points[0].step, "to", points[-1].step, "last", points[-1].value)
else:
    values = [Summary.Value(tag="train/loss", simple_value=1.5), Summary.Value(tag="eval/words.wer", simple_value=0.25)]
    for event in (Event(wall_time=1.7e9, file_version="brain.Event:2"), Event(wall_time=1.7e9 + 0.5, step=300, summary=Summary(value=values))):
        out = io.BytesIO()
        RecordWriter(out).write(event.SerializeToString())
        print(out.getvalue().hex())
