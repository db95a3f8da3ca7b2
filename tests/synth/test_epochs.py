"""Endless shuffled streams: permutations, resuming, hosts, reading ahead."""

import itertools
import subprocess
import sys
import threading
import time
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jrecon.geometry.camera import Camera
from jrecon.model.parametric import Params
from jrecon.synth.database import write_database
from jrecon.synth.epochs import batches, in_order, read_ahead, shuffled
from jrecon.synth.example import Example
from jrecon.synth.manifest import make_manifest
from jrecon.synth.reading import Database, open_database

COUNT = 22


def make_batch(start: int, count: int) -> Example:
    """Examples that can be told by their sensor: it is their number."""
    numbers: Any = np.arange(start, start + count, dtype=np.int32)
    zeros: Any = lambda *shape: np.zeros((count, *shape), np.float32)
    return Example(
        depth=zeros(4, 4),
        mask=zeros(4, 4).astype(bool),
        camera=Camera(zeros(2) + 4, zeros(2), 4, 4),
        params=Params(zeros(0), zeros(1, 3), zeros(3)),
        joints=zeros(1, 3),
        sensor=numbers,
        visible=zeros(),
    )


@pytest.fixture(scope="module")
def db(tmp_path_factory) -> Database:
    path = tmp_path_factory.mktemp("epochs") / "db"
    model = {"name": "point", "digest": "0", "joints": 1, "shape": 0}
    manifest = make_manifest(
        model=model, config={}, generator="test", width=4, height=4, shard_size=8
    )
    write_database(path, make_batch, manifest, COUNT, batch_size=8)
    return open_database(path)


def take(stream, count: int) -> list[tuple[int, list[int]]]:
    first = itertools.islice(stream, count)
    taken = [(position, example.sensor.tolist()) for position, example in first]
    stream.close()
    return taken


@pytest.mark.parametrize("count", (1, 2, 3, 5, 16, 17, 100, 1000, 4097))
@pytest.mark.parametrize("epoch", (0, 1, 2**40))
def test_every_epoch_holds_every_example_once(count, epoch):
    order = shuffled(count, 3, epoch * count + np.arange(count))
    assert order.dtype == np.int64
    np.testing.assert_array_equal(np.sort(order), np.arange(count))


def test_epochs_and_seeds_have_orders_of_their_own():
    positions = np.arange(1000)
    orders = [
        shuffled(1000, seed, epoch * 1000 + positions) for seed in (0, 1, -1) for epoch in range(3)
    ]
    for first, second in itertools.combinations(orders, 2):
        # Two random permutations agree in one place on average.
        assert np.sum(first == second) < 8
    for order in orders:
        assert abs(np.corrcoef(order, positions)[0, 1]) < 0.1
        assert abs(np.corrcoef(order[1:], order[:-1])[0, 1]) < 0.1


def test_orders_are_uniform():
    """Over many epochs every example visits every place equally often (chi-squared)."""
    count, epochs = 9, 9000
    orders = shuffled(count, 5, np.arange(count * epochs)).reshape(epochs, count)
    counts = np.array([np.bincount(orders[:, place], minlength=count) for place in range(count)])
    chi = ((counts - epochs / count) ** 2 / (epochs / count)).sum()
    # 64 independent cells: mean 64, standard deviation 11.3; five of them allowed.
    assert chi < 64 + 5 * 11.3
    pairs = np.unique(orders[:, :2] @ [count, 1], return_counts=True)[1]
    assert len(pairs) == count * (count - 1)
    chi = ((pairs - epochs / 72) ** 2 / (epochs / 72)).sum()
    assert chi < 71 + 5 * np.sqrt(2 * 71)


def test_order_is_the_same_in_every_version():
    """Runs that are resumed with a newer jrecon go on where they were."""
    expected = [5, 2, 6, 0, 3, 7, 4, 8, 1, 9]
    assert shuffled(10, 0, np.arange(10)).tolist() == expected


def test_any_position_of_ten_million_takes_no_memory():
    count = 10_000_000
    tracemalloc.start()
    order = shuffled(count, 0, 7 * count + np.array([0, 1, count - 1]))
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 1e6
    assert len(set(order.tolist())) == 3
    assert (order >= 0).all() and (order < count).all()


def test_explains_wrong_positions():
    with pytest.raises(ValueError, match="at least one example"):
        shuffled(0, 0, [0])
    with pytest.raises(ValueError, match="got -1, need positions >= 0"):
        shuffled(10, 0, [3, -1])


def test_batches_are_the_stream(db):
    taken = take(batches(db, 5, seed=1), 9)
    assert [position for position, _ in taken] == list(range(5, 50, 5))
    stream = [number for _, numbers in taken for number in numbers]
    assert stream == shuffled(COUNT, 1, np.arange(45)).tolist()
    assert sorted(stream[:COUNT]) == list(range(COUNT)) == sorted(stream[COUNT : 2 * COUNT])


@pytest.mark.parametrize("used", (0, 1, 4, 7))
def test_resumed_stream_goes_on_where_it_was(db, used):
    whole = take(batches(db, 5, seed=1), 9)
    position = whole[used - 1][0] if used else 0
    assert take(batches(db, 5, seed=1, position=position), 9 - used) == whole[used:]


@pytest.mark.parametrize("hosts", (1, 2, 3, 6))
def test_hosts_share_every_batch(db, hosts):
    whole = take(batches(db, 6, seed=1), 5)
    parts = [take(batches(db, 6, seed=1, host=host, hosts=hosts), 5) for host in range(hosts)]
    for step, (position, numbers) in enumerate(whole):
        assert {part[step][0] for part in parts} == {position}
        assert [number for part in parts for number in part[step][1]] == numbers


def test_explains_wrong_hosts(db):
    for options in ({"host": 2, "hosts": 2}, {"hosts": 4}):
        with pytest.raises(ValueError, match="that they can divide"):
            batches(db, 6, seed=0, **options)
    with pytest.raises(ValueError, match="position, ahead: got -1, 2"):
        batches(db, 6, seed=0, position=-1)
    with pytest.raises(ValueError, match="position, ahead: got 0, 0"):
        batches(db, 6, seed=0, ahead=0)


def test_in_order_is_one_pass(db):
    sizes = [example.sensor.tolist() for example in in_order(db, 8)]
    assert sizes == [list(range(8)), list(range(8, 16)), list(range(16, COUNT))]


def test_no_more_than_asked_is_read_ahead(db):
    asked = []

    def indices():
        for number in range(COUNT):
            asked.append(number)
            yield [number]

    stream: Any = read_ahead(db, indices(), ahead=3)
    assert asked == []
    for used in range(4):
        assert next(stream).sensor == [used]
        assert len(asked) == used + 1 + 3
    stream.close()
    deadline = time.monotonic() + 60
    while any(thread.name.startswith("read-ahead") for thread in threading.enumerate()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert len(asked) == 7


def test_a_stream_may_be_left_to_the_end_of_the_program(db):
    """As notebooks and short scripts do; modules are gone when it is collected."""
    script = (
        "from jrecon.synth.epochs import batches\n"
        "from jrecon.synth.reading import open_database\n"
        f"stream = batches(open_database({str(db.path)!r}), 4, seed=0)\n"
        "next(stream)\n"
    )
    root = Path(__file__).parents[2]
    ended = subprocess.run(
        [sys.executable, "-c", script], cwd=root, capture_output=True, text=True, check=True
    )
    assert ended.stderr == ""


def test_damage_reaches_the_reader(db):
    stream = read_ahead(db, [[0], [COUNT], [1]])
    assert next(stream).sensor == [0]
    with pytest.raises(IndexError, match="22 examples"):
        next(stream)


def test_grain_reads_a_database(db):
    grain = pytest.importorskip("grain", reason="the extra `data` is not installed")
    data = grain.MapDataset.source(db).shuffle(seed=0).batch(4)
    numbers = [number for batch in data for number in batch.sensor.tolist()]
    assert sorted(numbers) == list(range(COUNT))
