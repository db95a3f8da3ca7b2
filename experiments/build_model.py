"""What models built from meshes are worth for objects that they have not seen.

    python experiments/build_model.py [--out experiments/results/build_model.json]

Two rigid families (`experiments/vases.py`, 60 objects each, moved at random), and 60 random people
from the body's pooled prior: in the rest pose, and each in a random pose (0.3 rad standard
deviation in every joint component, within limits), with and without pose normalisation. Numbers are
held-out root mean square vertex errors in millimetres by number of components.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import jrecon
from experiments.provenance import provenance
from experiments.vases import family
from jrecon.model.build import BuildReport, build_model, make_meshes, make_skeleton
from jrecon.model.parametric import Params, dense_weights

COUNT = 60
SHOWN = (0, 2, 4, 5, 8, 13, 22, 29)


def errors(report: BuildReport) -> dict[str, float]:
    found = {row.components: row.rms_mm for row in report.held_out}
    return {str(k): round(found[k], 3) for k in SHOWN if k in found}


def random_people(model: jrecon.ParametricModel) -> Params:
    """Shapes from the pooled prior in random poses; the first person is in the rest pose."""
    shape_key, pose_key = jax.random.split(jax.random.key(0))
    shape = jax.random.multivariate_normal(
        shape_key, model.prior_mean[-1], model.prior_cov[-1], (COUNT,), method="svd"
    )
    angles = 0.3 * jax.random.normal(pose_key, (COUNT, model.num_joints, 3))
    angles = jnp.clip(angles, model.pose_limits[0], model.pose_limits[1]).at[0].set(0.0)
    return Params(shape, angles, jnp.zeros((COUNT, 3)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    results: dict[str, dict[str, float]] = {}
    for kind in ("vase", "mug"):
        vertices, faces = family(kind, COUNT, seed=0, moved=True)
        results[kind] = errors(build_model(make_meshes(vertices, faces))[1])

    full = jrecon.load_model("body")
    model = jrecon.at_level(full, full.levels[-1][0])
    people = random_people(model)
    posed = jrecon.pose(model, people)
    still = dataclasses.replace(people, pose=jnp.zeros_like(people.pose))
    rest = jrecon.pose(model, still).vertices
    skeleton = make_skeleton(
        model.joint_names,
        model.parents,
        dense_weights(model),
        joint_positions=posed.joints,
    )
    start = time.perf_counter()
    meshes = make_meshes(posed.vertices, model.faces)
    results["people, posed, unposed by the builder"] = errors(
        build_model(meshes, skeleton=skeleton)[1]
    )
    seconds = time.perf_counter() - start
    results["people, rest pose"] = errors(build_model(make_meshes(rest, model.faces))[1])
    results["people, posed, no skeleton given"] = errors(build_model(meshes)[1])
    for name, row in results.items():
        print(f"{name:<40}", row)
    bones = np.degrees(np.linalg.norm(people.pose[1:], axis=-1))
    report = provenance("experiments/build_model.py") | {
        "count": COUNT,
        "body_vertices": len(model.vertices),
        "mean_joint_angle_deg": round(float(bones.mean()), 1),
        "build_with_skeleton_s": round(seconds, 2),
        "held_out_rms_mm": results,
    }
    if args.out:
        args.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
