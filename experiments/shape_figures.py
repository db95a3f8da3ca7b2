"""The sizes of drawn bodies beside those that are published.

    python experiments/shape_figures.py --survey ansur2.json [--count 2000]
        [--results experiments/results/shape_figures.json]

`count` adults of each sex are drawn by `jrecon.synth.prior`, as synthesis draws them, and measured
in the rest pose on the full mesh of the shipped model: stature, mass (volume at 985 kg per cubic
metre) and girths as ANSUR II defines them, by `experiments/body/measure.py`. Landmarks of the tape
are found on the mean body, because the shipped model does not hold MakeHuman's vertex numbers.

The survey's upper arm is flexed, that of the rest pose is not, so it should be the thinner one:
both are given. The survey is of US Army personnel, 2012.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from body import measure, skeleton

import jrecon
from experiments.provenance import provenance
from jrecon.model.parametric import ParametricModel, Params, pose
from jrecon.synth.prior import sample_shape, shape_prior

SEXES = ("female", "male")
SHOWN = (
    "stature", "weightkg", "chestcircumference", "waistcircumference", "buttockcircumference",
    "thighcircumference", "calfcircumference", "neckcircumference", "wristcircumference",
    "crotchheight", "footlength",
)  # fmt: skip
# Heights on the mean body, as shares of its stature: what `body_build.json` says of both sexes.
NAVEL, NIPPLES, CERVICALE = 0.604, 0.717, 0.870
# Vertices this near to the plane of symmetry are on it.
_MIDDLE_M = 0.002
_FLEXED = "bicepscircumferenceflexed"


def tape_of(model: ParametricModel) -> measure.Tape:
    """A tape for the model's full mesh.

    Raises:
      ValueError: another skeleton than the one that the tape knows.
    """
    if list(model.joint_names) != list(skeleton.INDEX):
        raise ValueError("model: need the joints of experiments/body/skeleton.py, as the body has.")
    vertices = np.asarray(model.vertices, np.float64)
    weights = np.zeros((len(vertices), model.num_joints))
    rows = np.arange(len(vertices))[:, None]
    np.add.at(weights, (rows, np.asarray(model.weight_joints)), np.asarray(model.weights))
    joints, faces = np.asarray(model.joints, np.float64), np.asarray(model.faces)
    return measure.make_tape(vertices, joints, weights, faces, _numbered(vertices))


def _numbered(vertices: np.ndarray) -> np.ndarray:
    """MakeHuman's numbers (v,) of the landmarks; -1 for all other vertices."""
    height = vertices[:, 1] - vertices[:, 1].min()
    stature = height.max()
    middle = np.abs(vertices[:, 0]) < _MIDDLE_M

    def nearest(share: float, allowed: np.ndarray) -> int:
        return int(np.argmin(np.where(allowed, np.abs(height - share * stature), np.inf)))

    front, back = vertices[:, 2] > 0.05, vertices[:, 2] < 0.0
    beside = np.abs(np.abs(vertices[:, 0]) - 0.09) < 0.03
    crotch = int(np.argmin(np.where(middle & (height > 0.3 * stature), height, np.inf)))
    numbers = np.full(len(vertices), -1)
    numbers[nearest(NAVEL, middle & front)] = measure.NAVEL
    numbers[crotch] = measure.CROTCH
    numbers[nearest(CERVICALE, middle & back)] = measure.CERVICALE
    for number, side in zip(measure.NIPPLES, (vertices[:, 0] > 0, vertices[:, 0] < 0), strict=True):
        numbers[nearest(NIPPLES, front & beside & side)] = number
    return numbers


def upper_arm(tape: measure.Tape, vertices: np.ndarray, joints: np.ndarray) -> float:
    """Girth of the relaxed upper arm halfway from the shoulder joint to the elbow, millimetres."""
    shoulder, elbow = (joints[skeleton.INDEX[f"left_{name}"]] for name in ("shoulder", "elbow"))
    across = measure._across(elbow - shoulder)
    return 1e3 * measure.girth(measure._section(vertices, tape.arm, (shoulder + elbow) / 2, across))


def draw(model: ParametricModel, group: str, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Vertices (n, v, 3) and joints (n, j, 3) of drawn bodies in the rest pose, metres."""
    prior = shape_prior(model, groups=[group])
    rest = jnp.zeros((model.num_joints, 3))

    def one(key: jax.Array) -> tuple[jax.Array, jax.Array]:
        posed = pose(model, Params(sample_shape(prior, key), rest, jnp.zeros(3)))
        return posed.vertices, posed.joints

    keys = jax.random.split(jax.random.key(9), count)
    vertices, joints = jax.jit(lambda keys: jax.lax.map(one, keys))(keys)
    return np.asarray(vertices), np.asarray(joints)


def moments(values: np.ndarray) -> list[float]:
    """Mean, standard deviation, 5th and 95th percentile."""
    marks = [values.mean(), values.std(), *np.percentile(values, [5, 95])]
    return [round(float(mark), 1) for mark in marks]


def figures(model: ParametricModel, survey: dict[str, Any], count: int) -> dict[str, Any]:
    """For each sex and measure: mean, sd, 5th and 95th percentile of draws and survey, and by how
    many standard deviations of the survey the means differ."""
    tape, report = tape_of(model), {}
    for sex in SEXES:
        vertices, joints = draw(model, sex, count)
        rows = []
        for v, j in zip(vertices, joints, strict=True):
            v, j = v.astype(np.float64), j.astype(np.float64)
            rows.append([*measure.measure(tape, v, j), upper_arm(tape, v, j)])
        values, arms = np.split(np.array(rows), [len(measure.MEASURES)], axis=1)
        table = {}
        for name in SHOWN:
            column = values[:, measure.MEASURES.index(name)]
            table[name] = compared(column, survey, sex, name)
        flexed = published(survey, sex, _FLEXED)
        table["upper_arm_relaxed"] = {"drawn": moments(arms), f"survey, {_FLEXED}": flexed}
        report[sex] = table
        for name, row in table.items():
            print(sex, name, row, flush=True)
    return report


def published(survey: dict[str, Any], sex: str, name: str) -> list[float]:
    index = survey["measures"].index(name)
    return [round(survey[sex][key][index], 1) for key in ("mean", "sd", "p05", "p95")]


def compared(values: np.ndarray, survey: dict[str, Any], sex: str, name: str) -> dict[str, Any]:
    wanted = published(survey, sex, name)
    return {
        "drawn": moments(values),
        "survey": wanted,
        "mean_off_by_sd": round(float((values.mean() - wanted[0]) / wanted[1]), 2),
        "sd_ratio": round(float(values.std() / wanted[1]), 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--survey", type=Path, required=True)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--results", type=Path)
    args = parser.parse_args()
    command = f"experiments/shape_figures.py --survey FILE --count {args.count}"
    report = provenance(command) | {"count_of_each_sex": args.count}
    report["columns"] = "mean, standard deviation, 5th and 95th percentile; mm and kg"
    report |= figures(jrecon.load_model("body"), json.loads(args.survey.read_text()), args.count)
    if args.results:
        args.results.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
