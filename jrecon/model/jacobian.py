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
    if not batch:
        return _jacobian_one(model, params)
    flat = jax.tree.map(
        lambda leaf: leaf.reshape(math.prod(batch), *leaf.shape[len(batch) :]), params
    )
    # One Jacobian fits into a CPU's cache and a batch of them does not: one by one took half the
    # time of all at once (64 of them at 2,000 vertices). An accelerator wants them all at once.
    stacked = jax.lax.platform_dependent(
        flat,
        cpu=lambda many: jax.lax.map(lambda one: _jacobian_one(model, one), many),
        default=lambda many: jax.vmap(lambda one: _jacobian_one(model, one))(many),
    )
    return stacked.reshape(*batch, *stacked.shape[1:])


@jax.jit
def _jacobian_one(model: ParametricModel, params: Params) -> Float[Array, "v 3 q"]:
    rest = rest_vertices(model, params.shape, pose_feature(model, params.shape, params.pose))
    rest_joints = model.joints + jnp.einsum(
        "jas,s->ja", model.joint_basis, params.shape, precision=HIGHEST
    )
    frames, positions = kinematic_chain(model.parents, rotation.exp(params.pose), rest_joints)
    transforms = skinning_transforms(frames, positions, rest_joints)
    blended = blend_transforms(model, transforms)[:, :, :3]

    by_shape = _shape_columns(model, frames, blended)
    by_pose = _pose_columns(model, params.pose, frames, positions, transforms, rest)
    if model.corrective != "none":
        chosen = np.array(model.corrective_joints)
        by_pose = by_pose.at[:, :, chosen].add(_corrective_columns(model, params.pose, blended))
    if model.corrective == "quaternion":
        last = jnp.einsum("vab,vb->va", blended, model.pose_basis[:, :, -1], precision=HIGHEST)
        by_shape = by_shape.at[:, :, 1].add(last)
    count = len(model.vertices)
    by_translation = jnp.broadcast_to(jnp.eye(3), (count, 3, 3))
    return jnp.concatenate([by_shape, by_pose.reshape(count, 3, -1), by_translation], axis=-1)


def _shape_columns(
    model: ParametricModel, frames: Float[Array, "j 3 3"], blended: Float[Array, "v 3 3"]
) -> Float[Array, "v 3 s"]:
    # The chain is linear in the rest joints, so its derivative is the chain of their derivatives.
    moved = jax.vmap(
        lambda basis: _chain_translation(model.parents, frames, basis), in_axes=-1, out_axes=-1
    )(model.joint_basis)
    offset = moved - jnp.einsum("jab,jbs->jas", frames, model.joint_basis, precision=HIGHEST)
    carried = jnp.einsum("vj,jas->vas", dense_weights(model), offset, precision=HIGHEST)
    return carried + jnp.einsum("vab,vbs->vas", blended, model.shape_basis, precision=HIGHEST)


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
    pose: Float[Array, "j 3"],
    frames: Float[Array, "j 3 3"],
    positions: Float[Array, "j 3"],
    transforms: Float[Array, "j 3 4"],
    rest: Float[Array, "v 3"],
) -> Float[Array, "v 3 j 3"]:
    count, slots = model.weights.shape
    joints = model.num_joints
    # lever[v, i] = sum over joints k below i of w_vk (T_k v - P_i): the arm about joint i.
    below = descends(model.parents)
    lever = jnp.zeros((count, 3, joints))
    flat = transforms.reshape(joints, 12)
    for k in range(slots):
        joint = model.weight_joints[:, k]
        own = flat[joint].reshape(count, 3, 4)
        point = jnp.einsum("vab,vb->va", own[:, :, :3], rest, precision=HIGHEST) + own[:, :, 3]
        above = below.T[joint] * model.weights[:, k, None]
        lever = lever + above[:, None, :] * (point[:, :, None] - positions.T[None])
    up = np.maximum(np.array(model.parents), 0)
    parent_frames = frames[up].at[0].set(jnp.eye(3))
    axes = jnp.matmul(parent_frames, rotation.left_jacobian(pose), precision=HIGHEST)
    # Row a of the result is (axis x lever)_a, written out to stay in one fused loop.
    x, y, z = (lever[:, a, :, None] for a in range(3))
    ax, ay, az = (axes[None, :, a, :] for a in range(3))
    return jnp.stack([ay * z - az * y, az * x - ax * z, ax * y - ay * x], axis=1)


def _corrective_columns(
    model: ParametricModel, pose: Float[Array, "j 3"], blended: Float[Array, "v 3 3"]
) -> Float[Array, "v 3 c 3"]:
    """What the pose correctives add to the columns of the joints that feed them."""
    chosen = np.array(model.corrective_joints)
    slope = jax.vmap(jax.jacfwd(lambda one: joint_feature(model.corrective, one)))(pose[chosen])
    joints, width, _ = slope.shape
    # A joint's features turn with that joint alone: one product with a block-diagonal matrix.
    diagonal = np.arange(joints)
    blocks = jnp.zeros((joints, width, joints, 3)).at[diagonal, :, diagonal].set(slope)
    basis = model.pose_basis[:, :, : joints * width].reshape(-1, joints * width)
    rest_motion = jnp.matmul(basis, blocks.reshape(joints * width, -1), precision=HIGHEST)
    moved = jnp.einsum(
        "vab,vbc->vac", blended, rest_motion.reshape(-1, 3, joints * 3), precision=HIGHEST
    )
    return moved.reshape(-1, 3, joints, 3)
