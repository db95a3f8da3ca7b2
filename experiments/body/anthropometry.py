"""ANSUR II as targets, and fitting a Gaussian of bodies to them.

ANSUR II is the 2012 Anthropometric Survey of U.S. Army Personnel (NATICK/TR-15/007; 4082 men and
1986 women; public). Only its means, standard deviations and correlations are used.
"""

from __future__ import annotations

import csv
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from body.measure import DEFINITION_DIFFERS, MEASURES

SEXES = ("female", "male")


@dataclasses.dataclass(frozen=True)
class Survey:
    """Mean (m,) and covariance (m, m) of `MEASURES` for one sex, millimetres and kilograms."""

    mean: np.ndarray
    cov: np.ndarray

    @property
    def sd(self) -> np.ndarray:
        return np.sqrt(np.diag(self.cov))


def read_survey(path: Path) -> dict[str, Survey]:
    """The survey by sex, from a JSON file of figures or from a folder with the public CSV files.

    The JSON holds `measures` (names) and for each sex `mean`, `sd` and `corr`. The CSV files are
    `ANSUR_II_FEMALE_Public.csv` and `ANSUR_II_MALE_Public.csv` as published.
    """
    if path.is_dir():
        return {sex: _from_csv(path / f"ANSUR_II_{sex.upper()}_Public.csv") for sex in SEXES}
    figures = json.loads(path.read_text())
    columns = [figures["measures"].index(name) for name in MEASURES]
    result = {}
    for sex in SEXES:
        mean, sd = (np.array(figures[sex][key])[columns] for key in ("mean", "sd"))
        corr = np.array(figures[sex]["corr"])[np.ix_(columns, columns)]
        result[sex] = Survey(mean, corr * np.outer(sd, sd))
    return result


def _from_csv(path: Path) -> Survey:
    with open(path, encoding="latin1", newline="") as file:
        table = np.array([[float(row[name]) for name in MEASURES] for row in csv.DictReader(file)])
    table[:, MEASURES.index("weightkg")] /= 10  # published in hectograms
    return Survey(table.mean(0), np.cov(table.T))


@dataclasses.dataclass(frozen=True)
class Matched:
    """A Gaussian N(mean, cov) whose bodies have the survey's measures."""

    mean: np.ndarray
    cov: np.ndarray
    offset: np.ndarray
    """(m,) survey minus body, from differing definitions of a measure; 0 where they agree."""


# How closely each measure is to be met, as a share of its standard deviation.
_NOISE = np.array(
    [
        0.05 if name in ("stature", "weightkg") else
        0.1 if name in ("chestcircumference", "waistcircumference", "buttockcircumference") else
        0.4 if name in ("wristcircumference", "anklecircumference") else 0.2
        for name in MEASURES
    ]
)  # fmt: skip
_FREE = np.array([name in DEFINITION_DIFFERS for name in MEASURES])
_FREE_ROUNDS, _STEP = 3, 0.7


def match_moments(
    measured: Callable[[np.ndarray], np.ndarray],
    mean: np.ndarray,
    cov: np.ndarray,
    survey: Survey,
    rng: np.random.Generator,
    count: int = 300,
    *,
    limits: np.ndarray | None = None,
    offset: np.ndarray | None = None,
    rounds: int = 9,
) -> Matched:
    """The Gaussian nearest to N(mean, cov) under which bodies measure as in the survey.

    With measures linear in the parameters x, y = H x + noise, the nearest distribution (in the
    sense of Kullback and Leibler) that gives y a prescribed mean and covariance S keeps p(x | y)
    and replaces p(y): cov' = C - G H C + G S G^T with G = C H^T (H C H^T + N)^-1. H is found by
    regression on samples, again in each round, because measures are not quite linear; the same
    samples say by how much mean and spread still miss, which the next round corrects.

    Args:
      measured: parameters (b, d) to measures (b, m).
      mean: (d,) where to start; cov: (d, d) the plausible variation around it.
      survey: the target.
      rng: source of the samples.
      count: bodies measured per round; must be well above d.
      limits: (2, d) what is drawn outside them is left out.
      offset: (m,) known offsets of definition; found after a few rounds if left out.
      rounds: how often to correct.
    """
    normal = rng.normal(size=(count, len(mean)))
    normal = (normal - normal.mean(0)) @ np.linalg.inv(np.linalg.cholesky(np.cov(normal.T))).T
    centre, spread = mean.copy(), cov.copy()
    stretch = np.ones(len(MEASURES))
    settling = _FREE_ROUNDS if offset is None else 0
    offset = np.zeros(len(MEASURES)) if offset is None else offset
    for number in range(rounds):
        x = centre + normal @ np.linalg.cholesky(spread + 1e-10 * np.eye(len(mean))).T
        if limits is not None:
            x = x[((x >= limits[0]) & (x <= limits[1])).all(1)]
        y = measured(x)
        if settling and number == settling:
            offset = np.where(_FREE, survey.mean - y.mean(0), 0.0)
        noise = _NOISE * np.where(_FREE & (number < settling), 8.0, 1.0) * survey.sd
        slope = np.linalg.lstsq(x - x.mean(0), y - y.mean(0), rcond=None)[0].T
        gain = np.linalg.solve(slope @ cov @ slope.T + np.diag(noise**2), slope @ cov).T
        centre = centre + _STEP * gain @ (survey.mean - offset - y.mean(0))
        stretch *= np.clip(survey.sd / y.std(0), 0.8, 1.25) ** np.where(_NOISE < 0.15, 0.7, 0.0)
        target = survey.cov * np.outer(stretch, stretch)
        spread = cov - gain @ slope @ cov + gain @ target @ gain.T
        spread = (spread + spread.T) / 2
    return Matched(centre, spread, offset)
