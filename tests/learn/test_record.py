"""The pictures of a run come at intervals; TensorBoard gets the numbers of the log."""

import json
import struct
import sys

import jax
import numpy as np
import pytest
from PIL import Image

from jrecon.learn.record import BOARD, CURVE, SHEET, Record, learning_curve
from jrecon.learn.run import LOG
from tests.learn.small_class import BATCH, EASY

LINES = [
    {"step": step, "examples": 8 * step, "vertices_mm": 900 / step, "joints_mm": 500 / step}
    for step in (5, 10, 15)
]


@pytest.fixture
def folder(tmp_path):
    (tmp_path / LOG).write_text("".join(json.dumps(line) + "\n" for line in LINES))
    return tmp_path


def test_pictures_come_at_intervals(folder, function, make):
    asked = []

    def examples():
        asked.append(True)
        return jax.tree.map(lambda x: x[:2], make(3, BATCH))

    record = Record(folder, examples, EASY.sensors, every_s=1e9)
    record(LINES[0], function)
    assert not asked and not (folder / CURVE).exists()
    record = Record(folder, examples, EASY.sensors, every_s=0.0)
    for line in LINES:
        record(line, function)
    assert len(asked) == 1
    for name in (CURVE, SHEET):
        with Image.open(folder / name) as image:
            assert len(np.unique(np.asarray(image))) > 10
    record.close()


def test_the_curve_is_that_of_the_log(folder):
    image = learning_curve(folder)
    (folder / LOG).write_text(json.dumps(LINES[0]) + "\n")
    assert (learning_curve(folder) != image).any()


def test_tensorboard_gets_the_numbers(folder, function):
    events = pytest.importorskip("tensorboardX.proto.event_pb2")
    record = Record(folder, lambda: pytest.fail(), (), every_s=1e9, tensorboard=True)
    for line in LINES:
        record(line, function)
    record.close()
    (path,) = (folder / BOARD).iterdir()
    data, found = path.read_bytes(), {}
    while data:
        # A TFRecord: length and its checksum (12 bytes), the event, its checksum (4 bytes).
        end = 12 + struct.unpack("<Q", data[:8])[0]
        event = events.Event.FromString(data[12:end])
        for value in event.summary.value:
            found[event.step, value.tag] = value.simple_value
        data = data[end + 4 :]
    expected = {
        (line["step"], name): line[name] for line in LINES for name in line.keys() - {"step"}
    }
    assert found == pytest.approx(expected)


def test_a_missing_writer_is_explained(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(ImportError, match=r"pip install 'jrecon\[tensorboard\]'"):
        Record(folder, lambda: pytest.fail(), (), every_s=1e9, tensorboard=True)
