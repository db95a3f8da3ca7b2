"""Which of the things in a depth map is taken for the object."""

import types
from typing import Any, cast

import pytest

from jrecon.candidates import Candidate, choose
from jrecon.judge import Verdict


def candidate(word: Any, merit: float, score: float | None) -> Candidate:
    segment = None if score is None else types.SimpleNamespace(score=score)
    return Candidate(cast(Any, None), cast(Any, None), Verdict(word, (), merit), cast(Any, segment))


LARGE_GOOD, SMALL_GOOD = candidate("good", 0.6, 0.8), candidate("good", 0.54, 0.25)
LARGE_DOUBTFUL, SMALL_DOUBTFUL = candidate("doubtful", 0.44, 0.8), candidate("doubtful", 0.44, 0.1)
MUCH_BETTER = candidate("good", 0.7, 0.25)
REFUSED, WORSE = candidate("refused", 0.3, 0.5), candidate("refused", 0.2, 0.5)


@pytest.mark.parametrize(
    "given, chosen",
    [
        ([REFUSED, LARGE_GOOD], LARGE_GOOD),
        ([LARGE_DOUBTFUL, SMALL_GOOD], LARGE_DOUBTFUL),
        ([SMALL_DOUBTFUL, SMALL_GOOD], SMALL_GOOD),
        ([LARGE_DOUBTFUL, MUCH_BETTER], MUCH_BETTER),
        ([SMALL_DOUBTFUL, LARGE_DOUBTFUL], LARGE_DOUBTFUL),
        ([SMALL_DOUBTFUL, REFUSED], SMALL_DOUBTFUL),
        ([WORSE, REFUSED], REFUSED),
        ([candidate("refused", 0.3, None)], None),
        ([], None),
    ],
)
def test_the_one_that_agrees_and_stands_out_is_chosen(given, chosen) -> None:
    assert choose(iter(given)) == ([chosen] if chosen else given)


def test_nothing_is_looked_at_after_a_good_one() -> None:
    def candidates():
        yield LARGE_GOOD
        raise AssertionError("looked at another")

    assert choose(candidates()) == [LARGE_GOOD]


def test_everybody_is_all_that_are_not_refused() -> None:
    given = [LARGE_DOUBTFUL, REFUSED, SMALL_GOOD]
    assert choose(given, every=True) == [LARGE_DOUBTFUL, SMALL_GOOD]
    assert choose([WORSE, REFUSED], every=True) == [REFUSED]
