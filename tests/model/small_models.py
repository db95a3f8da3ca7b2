"""Small random parametric models, and a slow float64 forward formula to hold them against."""

import jax.numpy as jnp
import numpy as np
from scipy.spatial.transform import Rotation

from jrecon.model.parametric import ParametricModel, Params, make_model

PARENTS = (-1, 0, 0, 1, 3, 2, 4)


def random_model(
    seed: int = 0, num_vertices: int = 23, num_shape: int = 4, corrective: str = "rotation"
) -> ParametricModel:
    """A model with a branching tree, three weights a vertex and two levels of detail."""
    rng = np.random.default_rng(seed)
    j, s = len(PARENTS), num_shape
    dense = rng.uniform(size=(num_vertices, j))
    keep = np.argsort(-dense, axis=1)[:, :3]
    mask = np.zeros_like(dense)
    np.put_along_axis(mask, keep, 1.0, axis=1)
    dense = dense * mask / (dense * mask).sum(1, keepdims=True)
    chosen = () if corrective == "none" else (1, 3, 6)
    width = {"none": 0, "rotation": 9 * 3, "quaternion": 4 * 3 + 1}[corrective]
    coarse = num_vertices // 2
    return make_model(
        rng.normal(size=(num_vertices, 3)),
        rng.integers(0, num_vertices, size=(30, 3)),
        shape_basis=0.1 * rng.normal(size=(num_vertices, 3, s)),
        joints=rng.normal(size=(j, 3)),
        joint_basis=0.1 * rng.normal(size=(j, 3, s)),
        parents=PARENTS,
        weights=dense,
        pose_basis=0.05 * rng.normal(size=(num_vertices, 3, width)),
        corrective=corrective,
        corrective_joints=chosen,
        named_poses={"bent": 0.3 * rng.normal(size=(j, 3))},
        levels=[("full", num_vertices), ("coarse", coarse)],
        level_faces={
            "full": rng.integers(0, num_vertices, size=(30, 3)),
            "coarse": rng.integers(0, coarse, size=(9, 3)),
        },
        name="random",
    )


def random_params(model: ParametricModel, seed: int = 1, batch: tuple[int, ...] = ()):
    """Shape, pose and translation as float32 arrays (NumPy)."""
    rng = np.random.default_rng(seed)
    draw = lambda *shape: rng.normal(size=shape).astype(np.float32)  # noqa: E731
    return draw(*batch, model.num_shape), draw(*batch, model.num_joints, 3), draw(*batch, 3)


def params_of(arrays: tuple[np.ndarray, np.ndarray, np.ndarray]) -> Params:
    """Shape, pose and translation as parameters."""
    return Params(*map(jnp.asarray, arrays))


def reference_pose(model: ParametricModel, shape, pose, translation):
    """Vertices and joints by the published formula, joint by joint, in float64."""
    f64 = lambda array: np.asarray(array, np.float64)  # noqa: E731
    shape, pose, translation = f64(shape), f64(pose), f64(translation)
    local = Rotation.from_rotvec(pose).as_matrix()
    rest = f64(model.vertices) + f64(model.shape_basis) @ shape
    joints = f64(model.joints) + f64(model.joint_basis) @ shape
    if model.corrective == "rotation":
        feature = np.concatenate([(local[i] - np.eye(3)).ravel() for i in model.corrective_joints])
        rest = rest + f64(model.pose_basis) @ feature
    elif model.corrective == "quaternion":
        half = np.linalg.norm(pose, axis=1, keepdims=True) / 2
        xyz = np.sinc(half / np.pi) * pose / 2
        xyzw = np.concatenate([xyz, np.cos(half) - 1], axis=1)[list(model.corrective_joints)]
        rest = rest + f64(model.pose_basis) @ np.concatenate([xyzw.ravel(), shape[1:2]])
    world = []
    for i, parent in enumerate(model.parents):
        here = np.eye(4)
        here[:3, :3] = local[i]
        here[:3, 3] = joints[i] if parent < 0 else joints[i] - joints[parent]
        world.append(here if parent < 0 else world[parent] @ here)
    weights, owners = f64(model.weights), np.asarray(model.weight_joints)
    vertices = np.zeros_like(rest)
    for v in range(len(rest)):
        for weight, i in zip(weights[v], owners[v], strict=True):
            moved = world[i][:3, :3] @ (rest[v] - joints[i]) + world[i][:3, 3]
            vertices[v] += weight * moved
    positions = np.stack([matrix[:3, 3] for matrix in world])
    return vertices + translation, positions + translation
