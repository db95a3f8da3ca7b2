"""Pose correctives of hips, knees, shoulders and elbows.

Linear blend skinning averages rotation matrices, which pulls the skin of a bent joint inwards.
The target here blends rotations instead: with w the share of a vertex that follows the joint's
rotation R, its own rotation is R^w (spherical interpolation). From it two surfaces follow:

- every vertex turned about the joint by its own rotation: keeps its distance to the joint, hence
  the volume, but bulges at wide bends;
- the surface whose edges are turned by those rotations, in the least-squares sense (a Poisson
  equation; Yu et al. 2004, "Mesh editing with Poisson-based gradient field manipulation"), fixed
  where w is 0 or 1: smooth everywhere, as elastic skin is, but thinner.

The target is the minimiser of both, with the joint's `_VOLUME` as the weight of the first. The
corrective is then the linear function of R - I that comes nearest to the targets, after skinning,
over rotations drawn from the joint's range of motion.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from body import poses
from body.skeleton import INDEX, NAMES, PARENTS, opposite
from scipy import sparse
from scipy.sparse.linalg import factorized, splu
from scipy.spatial.transform import Rotation

# Joints with correctives and the weight of keeping the distance to the joint.
_VOLUME = dict(hip=0.6, knee=0.8, shoulder=0.015, elbow=1.0)
JOINTS = tuple(name for name in NAMES if name.rpartition("_")[2] in _VOLUME)
_SAMPLES = 150
# Rotations wider than this are not fitted: R^w turns the other way round beyond a half turn.
_WIDEST = np.radians(140)
_COMMON = np.radians(30)  # wider rotations weigh less in the fit
_RIDGE = 2e-3  # relative; the nine entries of R - I are not independent
_SMOOTHING = 1.0  # strength of one implicit smoothing step of the basis over the surface
_EDGE = 0.01  # a vertex with a share below this, or above 1 minus it, stays where skinning puts it


@dataclasses.dataclass(frozen=True)
class _Region:
    """The vertices that one joint bends, and what is constant over its poses."""

    share: np.ndarray
    """(v,) how much a vertex follows the joint."""
    free: np.ndarray
    """Indices (r,) of the vertices with a share between 0 and 1."""
    offsets: np.ndarray
    """(v, 3) position relative to the joint, metres."""


def pose_basis(
    vertices: np.ndarray,
    faces: np.ndarray,
    joints: np.ndarray,
    weights: np.ndarray,
    mirror: np.ndarray,
    t_pose: np.ndarray,
) -> tuple[np.ndarray, dict]:
    """The corrective basis (v, 3, 9 joints), features R - I of `JOINTS`, and figures of the fit.

    Args:
      vertices: (v, 3) template; faces: (f, 3); joints: (52, 3); weights: (v, 52) dense.
      mirror: (v,) the vertex on the other side.
      t_pose: (52, 3) see `poses.pose_limits`.
    """
    basis = np.zeros((len(vertices), 3, len(JOINTS), 9))
    stiffness, smooth = _stiffness(vertices, faces), _smoother(faces, len(vertices))
    rng = np.random.default_rng(1)
    figures = {}
    signs = np.array([-1.0, 1.0, 1.0])
    flip = signs[:, None] * np.outer(signs, signs).ravel()
    for name in (name for name in JOINTS if name.startswith("left_")):
        part = name.rpartition("_")[2]
        rotations = poses.sampled_rotations(part, INDEX[name], t_pose, rng, 4 * _SAMPLES)
        angles = Rotation.from_matrix(rotations).magnitude()
        rotations = rotations[angles < _WIDEST][:_SAMPLES]
        region = _region(vertices, joints, weights, name)
        targets = _targets(region, rotations, vertices, stiffness, _VOLUME[part])
        fitted = np.zeros((len(vertices), 3, 9))
        fitted[region.free] = _fit(region, rotations, targets)
        fitted = smooth(fitted.reshape(len(vertices), 27)).reshape(fitted.shape)
        figures[part] = _errors(region, rotations, targets, fitted[region.free])
        basis[:, :, JOINTS.index(name)] = fitted
        basis[:, :, JOINTS.index(opposite(name))] = fitted[mirror] * flip
    return basis.reshape(len(vertices), 3, -1), figures


def _smoother(faces: np.ndarray, count: int):
    """One implicit step of diffusion over the surface, with uniform weights.

    The fit knows each vertex alone; neighbours that disagree would show as a crease.
    """
    edges = faces[:, [[0, 1], [1, 2], [2, 0]]].reshape(-1, 2)
    link = sparse.csr_matrix((np.ones(len(edges)), (edges[:, 0], edges[:, 1])), (count, count))
    average = sparse.diags(1 / np.asarray(link.sum(1)).ravel()) @ link
    matrix = (1 + _SMOOTHING) * sparse.identity(count) - _SMOOTHING * average
    return splu(matrix.tocsc()).solve


def _region(vertices, joints, weights, name: str) -> _Region:
    moved = {INDEX[name]}
    for index, parent in enumerate(PARENTS):
        if parent in moved:
            moved.add(index)
    share = weights[:, sorted(moved)].sum(1)
    free = np.flatnonzero((share > _EDGE) & (share < 1 - _EDGE))
    return _Region(share, free, vertices - joints[INDEX[name]])


def _stiffness(vertices: np.ndarray, faces: np.ndarray) -> sparse.coo_matrix:
    """(v, v) cotangent weights of the edges, bounded away from zero."""
    rows, columns, values = [], [], []
    for i, j, k in ((0, 1, 2), (1, 2, 0), (2, 0, 1)):
        a, b = vertices[faces[:, i]] - vertices[faces[:, k]], vertices[faces[:, j]]
        b = b - vertices[faces[:, k]]
        sine = np.maximum(np.linalg.norm(np.cross(a, b), axis=1), 1e-12)
        cotangent = np.clip((a * b).sum(1) / sine, 0.05, 5.0) / 2
        rows += [faces[:, i], faces[:, j]]
        columns += [faces[:, j], faces[:, i]]
        values += [cotangent, cotangent]
    entries = np.concatenate(values), (np.concatenate(rows), np.concatenate(columns))
    matrix = sparse.coo_matrix(entries, (len(vertices), len(vertices)))
    return sparse.coo_matrix(matrix.tocsr())  # the two faces of an edge added up


def _targets(region: _Region, rotations, vertices, stiffness, volume: float) -> np.ndarray:
    """(n, r, 3) where the free vertices should be under each rotation, relative to the joint."""
    i, j, c = stiffness.row, stiffness.col, stiffness.data
    degree = np.bincount(i, c, len(vertices))
    matrix = sparse.diags((1 + volume) * degree) - stiffness
    fixed = np.setdiff1d(np.arange(len(vertices)), region.free)
    matrix = matrix.tocsr()[region.free]
    solve = factorized(matrix[:, region.free].tocsc())
    edges, result = vertices[i] - vertices[j], []
    for rotation in rotations:
        vector = Rotation.from_matrix(rotation).as_rotvec()
        own = Rotation.from_rotvec(region.share[:, None] * vector).as_matrix()
        turned = np.einsum("vab,vb->va", own, region.offsets)
        wanted = np.einsum("eab,eb->ea", (own[i] + own[j]) / 2, edges) * c[:, None]
        right = np.stack([np.bincount(i, wanted[:, axis], len(vertices)) for axis in range(3)], 1)
        right = (right + volume * degree[:, None] * turned)[region.free]
        right -= matrix[:, fixed] @ turned[fixed]
        result.append(np.stack([solve(right[:, axis]) for axis in range(3)], 1))
    return np.array(result)


def _linear(region: _Region, rotations: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Skinning matrices (n, r, 3, 3) of the free vertices, (1 - w) I + w R, and features (n, 9)."""
    turn = rotations - np.eye(3)
    share = region.share[region.free]
    skin = np.eye(3) + share[None, :, None, None] * turn[:, None]
    return skin, turn.reshape(len(turn), 9)


def _fit(region: _Region, rotations: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """The basis (r, 3, 9) that brings skinned vertices nearest to the targets."""
    skin, features = _linear(region, rotations)
    missing = targets - np.einsum("nvab,vb->nva", skin, region.offsets[region.free])
    # Small rotations are the common ones, and what they need is small too.
    angles = Rotation.from_matrix(rotations).magnitude()
    trust = 1 / (1 + (angles / _COMMON) ** 2)
    count = len(region.free)
    square = np.einsum(
        "n,nvab,nvac,nf,ng->vbfcg", trust, skin, skin, features, features, optimize="greedy"
    ).reshape(count, 27, 27)
    right = np.einsum("n,nvab,nva,nf->vbf", trust, skin, missing, features, optimize="greedy")
    ridge = _RIDGE * np.einsum("n,nf,nf->", trust, features, features) / 9
    solution = np.linalg.solve(square + ridge * np.eye(27), right.reshape(count, 27, 1))
    return solution.reshape(count, 3, 9)


def _errors(region: _Region, rotations, targets: np.ndarray, basis: np.ndarray) -> dict:
    """Root mean square distance of the free vertices to their targets, without and with basis."""
    skin, features = _linear(region, rotations)
    missing = targets - np.einsum("nvab,vb->nva", skin, region.offsets[region.free])
    left = missing - np.einsum("nvab,vbf,nf->nva", skin, basis, features, optimize="greedy")
    rms = [round(1e3 * float(np.sqrt((e**2).sum(-1).mean())), 2) for e in (missing, left)]
    return dict(
        vertices=len(region.free), distance_to_target_mm=dict(skinned=rms[0], corrected=rms[1])
    )
