"""Small files in the exact layout of each SMPL-family model, and their published formula.

Vertex counts are cut (a test needs no 10,475 vertices); joints, features and keys are as published.
"""

import numpy as np
from scipy.spatial.transform import Rotation

BODY = [-1, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 9, 9, 12, 13, 14, 16, 17, 18, 19]


def finger_parents(wrist: int, first: int) -> list[int]:
    return [wrist if k % 3 == 0 else first + k - 1 for k in range(15)]


PARENTS = {
    "smpl": [*BODY, 20, 21],
    "smplh": [*BODY, *finger_parents(20, 22), *finger_parents(21, 37)],
    "smplx": [*BODY, 15, 15, 15, *finger_parents(20, 25), *finger_parents(21, 40)],
    "mano": [-1, *finger_parents(0, 1)],
    "flame": [-1, 0, 1, 1, 1],
    "star": [*BODY, 20, 21],
    "smal": [-1, *((i - 1) // 2 for i in range(1, 35))],
}
NUM_SHAPE = dict(smpl=10, smplh=16, smplx=20, mano=10, flame=400, star=300, smal=41)


def make_arrays(family: str, num_vertices: int = 40, seed: int = 0) -> dict[str, np.ndarray]:
    """The core keys of a family's file, filled with random but valid numbers."""
    rng = np.random.default_rng(seed)
    parents = PARENTS[family]
    j, v, s = len(parents), num_vertices, NUM_SHAPE[family]
    features = 4 * (j - 1) + 1 if family == "star" else 9 * (j - 1)
    regressor = rng.uniform(size=(j, v)) * (rng.uniform(size=(j, v)) < 0.3) + 1e-3
    weights = rng.uniform(size=(v, j)) * (rng.uniform(size=(v, j)) < 4 / j) + 1e-4
    root = np.array(parents, np.int64) % 2**32
    arrays = dict(
        v_template=rng.uniform(-0.8, 0.8, size=(v, 3)),
        shapedirs=0.01 * rng.normal(size=(v, 3, s)),
        posedirs=0.01 * rng.normal(size=(v, 3, features)),
        J_regressor=regressor / regressor.sum(1, keepdims=True),
        weights=weights / weights.sum(1, keepdims=True),
        kintree_table=np.stack([root, np.arange(j)]).astype(np.uint32),
        f=rng.integers(0, v, size=(30, 3)).astype(np.uint32),
    )
    if family in ("smplh", "smplx"):
        arrays |= {f"hands_mean{side}": 0.2 * rng.normal(size=45) for side in "lr"}
        arrays |= {f"hands_components{side}": rng.normal(size=(45, 45)) for side in "lr"}
    if family == "mano":
        arrays |= dict(hands_mean=0.2 * rng.normal(size=(1, 45)))
        arrays |= dict(hands_components=rng.normal(size=(45, 45)))
    return arrays


def published_forward(family: str, arrays, shape, pose, translation) -> np.ndarray:
    """Vertices in float64, step by step as the papers and the authors' code state them."""
    parents = PARENTS[family]
    shaped = arrays["v_template"] + arrays["shapedirs"] @ shape
    joints = arrays["J_regressor"] @ shaped
    matrices = Rotation.from_rotvec(pose).as_matrix()
    if family == "star":
        angle = np.linalg.norm(pose[1:], axis=1, keepdims=True)
        axis = pose[1:] / angle
        quaternions = np.concatenate([np.sin(angle / 2) * axis, np.cos(angle / 2) - 1], axis=1)
        feature = np.concatenate([quaternions.ravel(), [shape[1]]])
    else:
        feature = np.concatenate([(matrix - np.eye(3)).ravel() for matrix in matrices[1:]])
    posed = shaped + arrays["posedirs"] @ feature
    world = []
    for i, parent in enumerate(parents):
        local = np.eye(4)
        local[:3, :3] = matrices[i]
        local[:3, 3] = joints[i] - (joints[parent] if parent >= 0 else 0)
        world.append(local if parent < 0 else world[parent] @ local)
    moved = []
    for matrix, joint in zip(world, joints, strict=True):
        rest_removed = matrix.copy()
        rest_removed[:3, 3] -= matrix[:3, :3] @ joint
        moved.append(rest_removed)
    blended = np.einsum("vj,jab->vab", arrays["weights"], np.stack(moved))
    homogeneous = np.concatenate([posed, np.ones((len(posed), 1))], axis=1)
    return np.einsum("vab,vb->va", blended, homogeneous)[:, :3] + translation
