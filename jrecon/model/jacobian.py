"""The analytic Jacobian of posed vertices with respect to all parameters of a model.

A fit needs d vertices / d parameters at a few hundred to a few thousand vertices in every
iteration; forward-mode differentiation pays one pass per parameter, the closed form below pays
about one pass in all. Derivation, with the terms of `jrecon.model.parametric`:

- A rotation of joint i by a small world-frame vector w moves all that hangs below it:
  dx = w x sum_{k below i} w_k (T_k v - P_i), with T_k v the vertex as if rigidly attached to k.
- The world-frame vector of a change d(theta_i) is G_parent(i) Jl(theta_i) d(theta_i), with Jl the
  left Jacobian of SO(3) (Barfoot 2017, "State Estimation for Robotics", eq. 7.77).
- Shape moves the rest vertex, seen through the blended rotation, and the rest joints, which move
  the translations of the joint frames.
- Pose correctives move the rest vertex, seen through the blended rotation.
"""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jrecon.geometry import rotation
from jrecon.model.parametric import (
    HIGHEST,
    ParametricModel,
    Params,
    blend_transforms,
    broadcast_params,
    dense_weights,
    joint_feature,
    kinematic_chain,
    pose_feature,
    rest_vertices,
    select_vertices,
    skinning_transforms,
)


def jacobian(
    model: ParametricModel,
    params: Params,
    vertex_ids: Int[Array, " n"] | None = None,
) -> Float[Array, "*batch n 3 q"]:
    """Derivative of `pose(model, params).vertices` with respect to `to_vector(params)`.

    Args:
      model: any parametric model.
      params: the point to differentiate at, batched or not.
      vertex_ids: the vertices wanted; all of them if left out. Cost grows with their number.

    Returns:
      Metres per unit of each parameter; the columns are named by `model.parameter_names`.
    """
    if vertex_ids is not None:
        model = select_vertices(model, vertex_ids)
    params = broadcast_params(params)
    batch = params.translation.shape[:-1]
    whole = tuple(range(model.num_joints)), model.num_shape
    if not batch:
        return _jacobian_one(model, params, *whole)
    flat = jax.tree.map(
        lambda leaf: leaf.reshape(math.prod(batch), *leaf.shape[len(batch) :]), params
    )
    # One Jacobian fits into a CPU's cache and a batch of them does not: one by one took half the
    # time of all at once (64 of them at 2,000 vertices). An accelerator wants them all at once.
    stacked = jax.lax.platform_dependent(
        flat,
        cpu=lambda many: jax.lax.map(lambda one: _jacobian_one(model, one, *whole), many),
        default=lambda many: jax.vmap(lambda one: _jacobian_one(model, one, *whole))(many),
    )
    return stacked.reshape(*batch, *stacked.shape[1:])


def step_jacobian(
    model: ParametricModel, params: Params, joints: tuple[int, ...], shapes: int
) -> Float[Array, "v 3 q"]:
    """Derivative of the posed vertices with respect to a step on the tangent space, at no step.

    Args:
      params: the point to differentiate at, without batch axes.
      joints: those that turn: by exp(w) on the side of the parent, w in radians.
      shapes: how many shape coefficients change, from the first on.

    Returns:
      Metres per unit of each coefficient, of w of each joint, and of the translation.
    """
    return _jacobian_one(model, params, joints, shapes, turned=True)


@functools.partial(jax.jit, static_argnames=("joints", "shapes", "turned"))
def _jacobian_one(
    model: ParametricModel,
    params: Params,
    joints: tuple[int, ...],
    shapes: int,
    turned: bool = False,
) -> Float[Array, "v 3 q"]:
    """Columns of some shape coefficients and joints; of rotation vectors, or of what they are
    `turned` by."""
    rest = rest_vertices(model, params.shape, pose_feature(model, params.shape, params.pose))
    rest_joints = model.joints + jnp.einsum(
        "jas,s->ja", model.joint_basis, params.shape, precision=HIGHEST
    )
    frames, positions = kinematic_chain(model.parents, rotation.exp(params.pose), rest_joints)
    transforms = skinning_transforms(frames, positions, rest_joints)
    blended = blend_transforms(model, transforms)[:, :, :3]

    by_shape = _shape_columns(model, frames, blended, shapes)
    left = jnp.eye(3)[None] if turned else rotation.left_jacobian(params.pose[np.array(joints)])
    by_pose = _pose_columns(model, joints, left, frames, positions, transforms, rest)
    fed = tuple(joint for joint in model.corrective_joints if joint in joints)
    if model.corrective != "none" and fed:
        places = np.array([joints.index(joint) for joint in fed])
        more = _corrective_columns(model, fed, params.pose, blended, turned)
        by_pose = by_pose.at[:, :, places].add(more)
    if model.corrective == "quaternion" and shapes > 1:
        last = jnp.einsum("vab,vb->va", blended, model.pose_basis[:, :, -1], precision=HIGHEST)
        by_shape = by_shape.at[:, :, 1].add(last)
    count = len(model.vertices)
    by_translation = jnp.broadcast_to(jnp.eye(3), (count, 3, 3))
    return jnp.concatenate([by_shape, by_pose.reshape(count, 3, -1), by_translation], axis=-1)


def _shape_columns(
    model: ParametricModel,
    frames: Float[Array, "j 3 3"],
    blended: Float[Array, "v 3 3"],
    count: int,
) -> Float[Array, "v 3 s"]:
    joint_basis, shape_basis = model.joint_basis[:, :, :count], model.shape_basis[:, :, :count]
    # The chain is linear in the rest joints, so its derivative is the chain of their derivatives.
    moved = jax.vmap(
        lambda basis: _chain_translation(model.parents, frames, basis), in_axes=-1, out_axes=-1
    )(joint_basis)
    offset = moved - jnp.einsum("jab,jbs->jas", frames, joint_basis, precision=HIGHEST)
    carried = jnp.einsum("vj,jas->vas", dense_weights(model), offset, precision=HIGHEST)
    return carried + jnp.einsum("vab,vbs->vas", blended, shape_basis, precision=HIGHEST)


def _chain_translation(
    parents: tuple[int, ...], frames: Float[Array, "j 3 3"], rest_joints: Float[Array, "j 3"]
) -> Float[Array, "j 3"]:
    """Joint positions for given global rotations: a sum of rotated bones along each path."""
    up = np.maximum(np.array(parents), 0)
    bones = rest_joints - rest_joints[up]
    steps = jnp.einsum("jab,jb->ja", frames[up], bones, precision=HIGHEST)
    steps = steps.at[0].set(rest_joints[0])
    return jnp.einsum("ij,ja->ia", descends(parents).T, steps, precision=HIGHEST)


def descends(parents: tuple[int, ...]) -> Float[Array, "j j"]:
    """Entry (i, k) is 1 where joint k is joint i or hangs below it, else 0."""
    below = np.zeros((len(parents), len(parents)), np.float32)
    for k in range(len(parents)):
        i = k
        while i >= 0:
            below[i, k] = 1.0
            i = parents[i]
    return jnp.asarray(below)


def _pose_columns(
    model: ParametricModel,
    joints: tuple[int, ...],
    left: Float[Array, "c 3 3"],
    frames: Float[Array, "j 3 3"],
    positions: Float[Array, "j 3"],
    transforms: Float[Array, "j 3 4"],
    rest: Float[Array, "v 3"],
) -> Float[Array, "v 3 c 3"]:
    """Of some joints; `left` is from a change of their vectors to a rotation in the parent's
    frame."""
    count, slots = model.weights.shape
    chosen = np.array(joints)
    # lever[v, i] = sum over joints k below i of w_vk (T_k v - P_i): the arm about joint i.
    below = descends(model.parents)
    lever = jnp.zeros((count, 3, len(joints)))
    flat, below, centers = transforms.reshape(-1, 12), below[chosen], positions[chosen].T
    for k in range(slots):
        joint = model.weight_joints[:, k]
        own = flat[joint].reshape(count, 3, 4)
        point = jnp.einsum("vab,vb->va", own[:, :, :3], rest, precision=HIGHEST) + own[:, :, 3]
        above = below.T[joint] * model.weights[:, k, None]
        lever = lever + above[:, None, :] * (point[:, :, None] - centers[None])
    up = np.array(model.parents)[chosen]
    parent_frames = jnp.where((up < 0)[:, None, None], jnp.eye(3)[None], frames[up])
    axes = jnp.matmul(parent_frames, left, precision=HIGHEST)
    # Row a of the result is (axis x lever)_a, written out to stay in one fused loop.
    x, y, z = (lever[:, a, :, None] for a in range(3))
    ax, ay, az = (axes[None, :, a, :] for a in range(3))
    return jnp.stack([ay * z - az * y, az * x - ax * z, ax * y - ay * x], axis=1)


def _corrective_columns(
    model: ParametricModel,
    joints: tuple[int, ...],
    pose: Float[Array, "j 3"],
    blended: Float[Array, "v 3 3"],
    turned: bool,
) -> Float[Array, "v 3 c 3"]:
    """What the pose correctives add to the columns of some of the joints that feed them."""
    own = pose[np.array(joints)]
    slope = jax.vmap(jax.jacfwd(lambda one: joint_feature(model.corrective, one)))(own)
    if turned:
        slope = jnp.matmul(slope, rotation.left_jacobian_inverse(own), precision=HIGHEST)
    count, width, _ = slope.shape
    # A joint's features turn with that joint alone: one product with a block-diagonal matrix.
    diagonal = np.arange(count)
    blocks = jnp.zeros((count, width, count, 3)).at[diagonal, :, diagonal].set(slope)
    first = width * np.array([model.corrective_joints.index(joint) for joint in joints])
    features = (first[:, None] + np.arange(width)).ravel()
    basis = model.pose_basis[:, :, features].reshape(-1, count * width)
    rest_motion = jnp.matmul(basis, blocks.reshape(count * width, -1), precision=HIGHEST)
    moved = jnp.einsum(
        "vab,vbc->vac", blended, rest_motion.reshape(-1, 3, count * 3), precision=HIGHEST
    )
    return moved.reshape(-1, 3, count, 3)
