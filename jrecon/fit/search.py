"""Limbs that are in the wrong place: tried elsewhere, in the midst of a fit.

A fit goes downhill: an arm that was predicted raised while it hangs stays where it is, or ends in
the nearest thing that looks like an arm. So each limb (a chain of joints that ends free: an arm, a
leg, a finger) is tried in many poses, one limb after the other, and is left in the one that
explains best what was seen. For this the limb is a few spheres, which is coarse, but five hundred
poses cost no more than one step of the fit:

- measured points lie on the spheres of the limb, or on the rest of the object,
- spheres are not where the sensor saw empty space, nor inside the rest of the object,
- joints are where they were predicted, as sure as that was.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jrecon.fit.energy import Anchor
from jrecon.fit.fitter import (
    HIGHEST,
    SPHERE_SHARE,
    Fitter,
    sphere_points,
)
from jrecon.fit.observation import View, to_camera
from jrecon.geometry import rotation
from jrecon.geometry.camera import project
from jrecon.geometry.nearest import distances
from jrecon.model.parametric import Params, Posed, pose

# Measured points that are looked at.
_POINTS = 160
# Standard deviation of a point from the spheres, and the distance at which it is not explained.
_SIGMA_M, _CAP_M = 0.04, 0.08
_CLEAR_SIGMA_M, _CLEAR_CAP_M = 0.06, 0.25
# How far before the measured surface a sphere may be.
_MARGIN_M = 0.06
_APART_SIGMA_M = 0.02
# As in `EnergyConfig`: measurements that lie closer together are not independent.
_PATCH_M2 = 0.0036
_ANCHOR = 1.0


def search_limbs(
    fitter: Fitter,
    views: tuple[View, ...],
    anchor: Anchor,
    params: Params,
    tries: int | Int[Array, ""],
    hint: Float[Array, "j 3"],
    margin: float | Float[Array, ""] = 0.0,
) -> Params:
    """Parameters with some limbs in the best of the poses that were tried. One lane; for `vmap` and
    `lax.map`.

    Args:
      tries: how many limbs, one after the other, and from the first again after the last.
      hint: a pose that is tried besides those of the fitter, such as a prediction.
      margin: energy that a limb has to save, or it stays where it is.
    """
    count = len(fitter.limbs)
    if not count or not len(fitter.radii):
        return params
    place = lambda i, params: _place(fitter, views, anchor, params, hint, i % count, margin)
    return jax.lax.fori_loop(0, tries, place, params)


def _place(
    fitter: Fitter,
    views: tuple[View, ...],
    anchor: Anchor,
    params: Params,
    hint: Float[Array, "j 3"],
    limb: Array,
    margin: float | Array,
) -> Params:
    """One limb to where it explains most."""
    posed = pose(fitter.points, params)
    points = posed.vertices
    spheres, sizes = points[sphere_points(fitter)], fitter.radii / SPHERE_SHARE
    chain, own = fitter.limbs_joints[limb], fitter.limbs_spheres[limb]
    real, some = chain >= 0, own >= 0
    chain, own = jnp.maximum(chain, 0), jnp.maximum(own, 0)
    tried = _candidates(fitter, params, hint, chain)
    placed, ends = _moved(fitter, posed, chain, real, own, spheres[own], tried)
    score = jnp.zeros(len(tried))
    for view in views:
        score += _seen(fitter, view, points, placed, sizes[own], some, fitter.limbs_vertices[limb])
    # Out of the rest of the object; spheres of the limb itself are not where they were.
    others = jnp.ones(len(spheres)).at[own].min(jnp.where(some, 0.0, 1.0))
    apart = distances(placed.reshape(-1, 3), spheres).reshape(*placed.shape[:2], -1)
    inside = (sizes[own][:, None] + sizes[None])[None] - apart
    meant = fitter.apart[own] * others[None] * some[:, None]
    inside = jnp.maximum(inside, 0.0) / _APART_SIGMA_M
    score += 0.5 * jnp.sum(meant[None] * inside**2, axis=(1, 2))
    off = (
        jnp.linalg.norm(ends - anchor.joints[chain][None], axis=-1) / anchor.joint_std[chain][None]
    )
    score += 0.5 * _ANCHOR * jnp.sum(real[None] * jnp.minimum(off, 4.0) ** 2, axis=-1)
    best = jnp.argmin(jnp.where(jnp.isfinite(score), score, jnp.inf).at[0].add(-margin))
    slots = jnp.where(real, chain, len(params.pose))
    turns = params.pose.at[slots].set(tried[best], mode="drop")
    return Params(params.shape, turns, params.translation)


def _candidates(
    fitter: Fitter, params: Params, hint: Float[Array, "j 3"], chain: Int[Array, " c"]
) -> Float[Array, "m c 3"]:
    """As it is, as hinted, near that which is, and all over."""
    now = params.pose[chain]
    near = rotation.compose(fitter.nudges, jnp.broadcast_to(now, fitter.nudges.shape))
    return jnp.concatenate([now[None], hint[chain][None], near, fitter.bank[:, chain]])


def _moved(
    fitter: Fitter,
    posed: Posed,
    chain: Int[Array, " c"],
    real: Bool[Array, " c"],
    own: Int[Array, " n"],
    spheres: Float[Array, "n 3"],
    tried: Float[Array, "m c 3"],
) -> tuple[Float[Array, "m n 3"], Float[Array, "m c 3"]]:
    """Where spheres and joints of the limb come to lie, each sphere moving with its joint alone."""
    world, joints = posed.transforms[:, :3, :3], posed.joints
    above = jnp.array(fitter.model.parents)[chain]
    turned = jnp.broadcast_to(world[above[0]], (len(tried), 3, 3))
    place = jnp.broadcast_to(joints[chain[0]], (len(tried), 3))
    moved, ends = jnp.broadcast_to(spheres, (len(tried), *spheres.shape)), []
    owners = jnp.array(fitter.owners)[own]
    for i in range(len(chain)):
        joint = chain[i]
        if i:
            bone = joints[joint] - joints[chain[i - 1]]
            bone = jnp.matmul(world[chain[i - 1]].T, bone, precision=HIGHEST)
            place += jnp.einsum("mab,b->ma", turned, bone, precision=HIGHEST)
        turned = jnp.matmul(turned, rotation.exp(tried[:, i]), precision=HIGHEST)
        local = jnp.matmul(spheres - joints[joint][None], world[joint], precision=HIGHEST)
        there = place[:, None] + jnp.einsum("mab,nb->mna", turned, local, precision=HIGHEST)
        mine = (owners == joint) & real[i]
        moved = jnp.where(mine[None, :, None], there, moved)
        ends.append(place)
    return moved, jnp.stack(ends, axis=1)


def _seen(
    fitter: Fitter,
    view: View,
    points: Float[Array, "p 3"],
    placed: Float[Array, "m n 3"],
    sizes: Float[Array, " n"],
    some: Bool[Array, " n"],
    limb: Bool[Array, " v"],
) -> Float[Array, " m"]:
    """What a view says against each try."""
    step = max(1, len(view.points) // _POINTS)
    targets, shares = view.points[::step], step * view.shares[::step]
    rest = to_camera(view, points[: len(limb) : 3])
    apart = jnp.where(limb[::3][None], jnp.inf, distances(targets, rest))
    by_rest = jnp.min(apart, axis=1)
    count = len(placed)
    centers = to_camera(view, placed.reshape(-1, 3)).reshape(count, -1, 3)
    # Tries last: the minimum is taken of whole rows.
    gap = distances(targets, jnp.swapaxes(centers, 0, 1).reshape(-1, 3))
    gap = jnp.abs(gap.reshape(len(targets), -1, count) - sizes[None, :, None])
    by_limb = jnp.min(jnp.where(some[None, :, None], gap, jnp.inf), axis=1)
    distance = jnp.minimum(jnp.minimum(by_rest[:, None], by_limb), _CAP_M)
    score = 0.5 * jnp.sum(shares[:, None] * (distance / _SIGMA_M) ** 2, axis=0) / _PATCH_M2
    pixel = project(view.camera, centers.reshape(-1, 3)).reshape(count, -1, 2)
    u, v = (
        jnp.clip(jnp.round(jnp.nan_to_num(pixel[..., axis])), 0, length - 1).astype(jnp.int32)
        for axis, length in ((0, view.camera.width), (1, view.camera.height))
    )
    z = centers[..., 2]
    back = jnp.maximum(view.clear[v, u] - (z - sizes[None]) - _MARGIN_M, 0.0)
    aside = pixel - view.nearest[v, u]
    aside = jnp.linalg.norm(aside, axis=-1) * z / view.camera.focal[0]
    wrong = jnp.where(view.own[v, u], back, jnp.minimum(back, aside))
    wrong = jnp.minimum(wrong, _CLEAR_CAP_M) / _CLEAR_SIGMA_M
    area = jnp.where(some, jnp.pi * sizes**2, 0.0) / _PATCH_M2
    return score + jnp.sum(0.5 * view.trust[v, u] * area[None] * wrong**2, axis=1)
