"""One thread: in order, of several of a kind the newest, and it survives failures."""

import threading

from jrecon.viewer.worker import Worker


def test_the_newest_of_a_name_is_run():
    failures, done, gate = [], [], threading.Event()
    worker = Worker(failures.append)
    worker.submit("slow", lambda: gate.wait(10) and done.append("slow"))
    for count in range(100):
        worker.submit("draw", lambda count=count: done.append(count))
    worker.submit("other", lambda: done.append("other"))
    assert not worker.wait(0.01)
    gate.set()
    assert worker.wait(10)
    assert done == ["slow", 99, "other"] or done == [99, "other"]
    assert failures == []


def test_a_failure_is_told_and_survived():
    failures, done = [], []
    worker = Worker(failures.append)
    worker.submit("bad", lambda: 1 / 0)
    worker.submit("good", lambda: done.append(1))
    assert worker.wait(10)
    assert [type(error) for error in failures] == [ZeroDivisionError]
    assert done == [1]
