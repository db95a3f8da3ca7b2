"""The energy of a fit: what is wrong with given parameters, and its derivatives.

All terms that speak of places are *pulls*: a point of the model (a mix of three of its points, as
barycentrics on a face are), the place it should be at, and a 3 x 3 metric that turns the difference
into standard deviations. Which point is pulled where is decided anew at every evaluation and then
held fixed, as in ICP (Besl and McKay 1992), so that derivatives are those of the points alone:

- *surface*: a measured point and the point of the model that is seen at its pixel, along the
  normal; where the model is elsewhere, the nearest point that faces the camera, hidden or not
  (Tagliasacchi et al. 2015, "Robust Articulated-ICP": without hidden ones a limb behind another
  never comes forward).
- *clear*: a vertex where the sensor saw empty space leaves it by the shortest way: sideways to the
  object's outline, or backwards behind the surface that was measured.
- *joints*: where the reconstruction function, or the frame before, puts them, as sure as it is.
- *spheres*: parts of the object keep out of each other.

To these come residuals of the parameters themselves: pose and shape priors, joint limits, and how
far they may turn away from the prediction. What was predicted counts for more while the robust
functions are wide: their widening multiplies its weight.

Surface and clear pulls count by area over `patch_m2`: measurements that lie closer together share
their errors (clothes, calibration, the model's own coarseness), so a thousand pixels on one thigh
are not a thousand independent observations.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jrecon.fit.fitter import (
    HIGHEST,
    Fitter,
    joint_points,
    point_jacobian,
    posed_points,
    sphere_points,
)
from jrecon.fit.observation import View, from_camera, slopes_at, to_camera
from jrecon.geometry import rotation
from jrecon.geometry.camera import project
from jrecon.geometry.mesh import vertex_normals
from jrecon.geometry.nearest import index_of_least
from jrecon.geometry.vector import normalize
from jrecon.model.parametric import Params
from jrecon.render.rasterize import rasterize
from jrecon.synth.pose_prior import limit_residuals, residuals
from jrecon.synth.prior import shape_residuals

Scalar = Float[Array, ""]
# Share of the vertices that face a camera, at most.
_FACING = 0.7
# So many vertices are pushed out of empty space at a time, the most wrong ones.
_PUSHED = 512


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class EnergyConfig:
    """Weights and scales; all traced."""

    sigma_m: float = 0.010
    """Standard deviation of a measured point along the normal, near the camera: clothes and hair,
    the model's own error, the sensor's noise."""
    sigma_per_m: float = 0.001
    """Times the square of the depth, added to it in quadrature, as is the noise of the view."""
    patch_m2: float = 0.0009
    """Area that counts as one independent measurement."""
    reach_m: float = 0.08
    """Pixels pair a measured point with what the model shows there up to this distance."""
    width_m: float = 0.04
    """Of the Geman-McClure function of surface pulls: farther points lose their weight."""
    clear_sigma_m: float = 0.1
    clear_width_m: float = 0.1
    clear_margin: float = 2.0
    """How far before the measured surface the model may be, in its standard deviations."""
    joints: float = 0.3
    """Weight of the anchor's joints; its deviations count as standard deviations."""
    turn_rad: float = 2.0
    """Standard deviation of a joint's rotation from the anchor's."""
    shape_std: float = 1.6
    """Standard deviation of shape coefficients from the anchor's."""
    pose: float = 0.5
    """Weight of the pose prior's negative log density."""
    limits: float = 1.0
    shape: float = 1.0
    """Weight of the shape prior's negative log density."""
    sphere_sigma_m: float = 0.02
    """Of how far one sphere may be in another."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Anchor:
    """What is known before looking: a prediction, or the frame before."""

    params: Params
    joints: Float[Array, "j 3"]
    """Where they are, metres, in the frame of the parameters."""
    joint_std: Float[Array, " j"]
    """And how sure that is, metres."""
    shape_sigma: Float[Array, ""]
    """Multiplies `shape_std`."""
    turn_sigma: Float[Array, ""]
    """Multiplies `turn_rad`."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Pulls:
    """Points of the model, or differences of two, and where they should be."""

    corners: Int[Array, "m c"]
    mix: Float[Array, "m c"]
    target: Float[Array, "m 3"]
    """In the frame of the parameters, metres."""
    metric: Float[Array, "m 3 3"]
    """Standard deviations per metre."""
    weight: Float[Array, " m"]
    width: Float[Array, " m"]
    """Of the Geman-McClure function, in standard deviations."""
    seen: bool = dataclasses.field(default=False, metadata=dict(static=True))
    """They come from a view."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Quadratic:
    """The energy near some parameters: energy + slope . step + step . curvature . step / 2."""

    energy: Scalar
    slope: Float[Array, " q"]
    curvature: Float[Array, "q q"]
    """Gauss-Newton's."""
    measured: Float[Array, "q q"]
    """What views have contributed to it."""


def linearise(
    fitter: Fitter,
    config: EnergyConfig,
    views: tuple[View, ...],
    anchor: Anchor,
    params: Params,
    widening: Scalar,
) -> Quadratic:
    """The energy and its derivatives at `params`.

    Args:
      widening: multiplies the widths of the robust functions and the reach: large at first.
    """
    points = posed_points(fitter, params)
    pulls = all_pulls(fitter, config, views, anchor, points, widening)
    slopes = point_jacobian(fitter, params)
    quadratics = [_of_pulls(points, slopes, each) for each in pulls]
    quadratics.append(_of_parameters(fitter, config, anchor, params, widening))
    return jax.tree.map(lambda *parts: sum(parts[1:], parts[0]), *quadratics)


def all_pulls(
    fitter: Fitter,
    config: EnergyConfig,
    views: tuple[View, ...],
    anchor: Anchor,
    points: Float[Array, "p 3"],
    widening: Scalar,
) -> list[Pulls]:
    """Every pull at the model's points as they are; without derivatives."""
    points = jax.lax.stop_gradient(points)
    found = [joint_pulls(fitter, config, anchor, widening)]
    if len(fitter.radii):
        found.append(sphere_pulls(fitter, config, points))
    for view in views:
        vertices = to_camera(view, points[: len(fitter.model.vertices)])
        found.append(surface_pulls(fitter, config, view, vertices, widening))
        found.append(clear_pulls(fitter, config, view, vertices, widening))
    return found


def _of_pulls(
    points: Float[Array, "p 3"], slopes: Float[Array, "p 3 q"], pulls: Pulls
) -> Quadratic:
    """Geman-McClure: w/2 e^2 / (1 + e^2/c^2); reweighted least squares for the derivatives."""
    placed = jnp.einsum("mc,mca->ma", pulls.mix, points[pulls.corners], precision=HIGHEST)
    error = jnp.einsum("mab,mb->ma", pulls.metric, placed - pulls.target, precision=HIGHEST)
    ratio = jnp.sum(error**2, axis=-1) / pulls.width**2
    energy = 0.5 * jnp.sum(pulls.weight * pulls.width**2 * ratio / (1 + ratio))
    root = jnp.sqrt(pulls.weight) / (1 + ratio)
    moved = jnp.einsum("mc,mcaq->maq", pulls.mix, slopes[pulls.corners], precision=HIGHEST)
    rows = jnp.einsum("mab,mbq->maq", root[:, None, None] * pulls.metric, moved, precision=HIGHEST)
    rows = rows.reshape(-1, rows.shape[-1])
    error = (root[:, None] * error).reshape(-1)
    slope = jnp.matmul(error, rows, precision=HIGHEST)
    curvature = jnp.matmul(rows.T, rows, precision=HIGHEST)
    measured = curvature if pulls.seen else jnp.zeros_like(curvature)
    return Quadratic(energy, slope, curvature, measured)


def _of_parameters(
    fitter: Fitter, config: EnergyConfig, anchor: Anchor, params: Params, widening: Scalar
) -> Quadratic:
    """Half the sum of squares of the residuals of the parameters."""

    def errors(step: Array) -> Array:
        moved = move_freely(fitter, params, step)
        return parameter_residuals(fitter, config, anchor, moved, widening)

    at = jnp.zeros(fitter.size)
    error, rows = errors(at), jax.jacfwd(errors)(at)
    return Quadratic(
        0.5 * jnp.sum(error**2),
        jnp.matmul(error, rows, precision=HIGHEST),
        jnp.matmul(rows.T, rows, precision=HIGHEST),
        jnp.zeros((fitter.size, fitter.size)),
    )


def move_freely(fitter: Fitter, params: Params, step: Float[Array, " q"]) -> Params:
    """As `move`, to first order, and beyond the limits of the shape: for derivatives at 0."""
    chosen = np.array(fitter.joints)
    turns = step[fitter.shapes : -3].reshape(-1, 3)
    inverse = rotation.left_jacobian_inverse(jax.lax.stop_gradient(params.pose[chosen]))
    turned = jnp.einsum("jab,jb->ja", inverse, turns, precision=HIGHEST)
    return Params(
        params.shape.at[: fitter.shapes].add(step[: fitter.shapes]),
        params.pose.at[chosen].add(turned),
        params.translation + step[-3:],
    )


def parameter_residuals(
    fitter: Fitter, config: EnergyConfig, anchor: Anchor, params: Params, widening: Scalar
) -> Float[Array, " r"]:
    """Priors, limits, and how far parameters are from the anchor's, in standard deviations."""
    chosen = np.array(fitter.joints)
    relative = jnp.matmul(
        rotation.exp(params.pose[chosen]),
        jnp.swapaxes(rotation.exp(anchor.params.pose[chosen]), -1, -2),
        precision=HIGHEST,
    )
    # Twice the sine of half the angle, smooth everywhere: |R - 1|_F / sqrt(2).
    turned = (relative - jnp.eye(3)[None]) / jnp.sqrt(2.0)
    apart = params.shape - anchor.params.shape
    parts = [
        jnp.sqrt(config.limits) * limit_residuals(fitter.pose_prior, params.pose),
        turned * jnp.sqrt(widening) / (config.turn_rad * anchor.turn_sigma),
        apart * jnp.sqrt(widening) / (config.shape_std * anchor.shape_sigma),
        jnp.sqrt(config.shape) * shape_residuals(fitter.shape_prior, params.shape),
    ]
    if fitter.pose_prior.joints:
        parts.append(jnp.sqrt(config.pose) * residuals(fitter.pose_prior, params.pose))
    return jnp.concatenate([part.reshape(-1) for part in parts])


def joint_pulls(fitter: Fitter, config: EnergyConfig, anchor: Anchor, widening: Scalar) -> Pulls:
    """The fitted joints to where the anchor has them."""
    chosen = np.array(fitter.joints)
    count = len(chosen)
    return Pulls(
        corners=jnp.asarray(joint_points(fitter)[chosen])[:, None],
        mix=jnp.ones((count, 1)),
        target=anchor.joints[chosen],
        metric=jnp.eye(3)[None] / anchor.joint_std[chosen, None, None],
        weight=jnp.full(count, 1.0) * config.joints * widening,
        width=jnp.full(count, 4.0),
    )


def sphere_pulls(fitter: Fitter, config: EnergyConfig, points: Float[Array, "p 3"]) -> Pulls:
    """Each sphere away from the one that it is deepest in, along the line between their centres;
    nothing is said of where the two are."""
    ids = jnp.asarray(sphere_points(fitter))
    centers = points[ids]
    between = centers[:, None] - centers[None]
    distance = jnp.sqrt(jnp.sum(between**2, axis=-1) + 1e-12)
    depth = jnp.where(fitter.apart > 0, fitter.radii[:, None] + fitter.radii[None] - distance, -1.0)
    other = jnp.argmax(depth, axis=1)
    count = len(fitter.radii)
    deepest = jnp.maximum(depth[jnp.arange(count), other], 0.0)
    apart = between[jnp.arange(count), other]
    away = normalize(apart)
    return Pulls(
        corners=jnp.stack([ids, ids[other]], axis=1),
        mix=jnp.broadcast_to(jnp.array([1.0, -1.0]), (count, 2)),
        target=apart + deepest[:, None] * away,
        metric=away[:, :, None] * away[:, None, :] / config.sphere_sigma_m,
        weight=jnp.where(deepest > 0, 1.0, 0.0),
        width=jnp.full(count, 20.0),
    )


def surface_pulls(
    fitter: Fitter,
    config: EnergyConfig,
    view: View,
    vertices: Float[Array, "v 3"],
    widening: Scalar,
) -> Pulls:
    """The model's surface to the measured points; `vertices` in the frame of the camera."""
    normals = vertex_normals(vertices, fitter.model.faces, fitter.topology)
    seen = rasterize(vertices, fitter.model.faces, view.camera)
    face = seen.face_id.reshape(-1)[view.pixels]
    corners = fitter.model.faces[jnp.maximum(face, 0)]
    mix = seen.barycentrics.reshape(-1, 3)[view.pixels]
    shown = jnp.einsum("mc,mca->ma", mix, vertices[corners], precision=HIGHEST)
    normal = normalize(jnp.einsum("mc,mca->ma", mix, normals[corners], precision=HIGHEST))
    reach = config.reach_m * widening
    ray = normalize(view.points)
    facing = -jnp.sum(normal * ray, axis=-1)
    # Where depth is not to be trusted, what is seen at the pixel is the partner at any depth.
    gap = jnp.abs(jnp.sum((view.points - shown) * normal, axis=-1)) * jnp.sqrt(view.firm)
    paired = (face >= 0) & (gap < reach) & (facing > 0.1)

    near = _nearest_facing(view, ray, vertices, normals)
    corners = jnp.where(paired[:, None], corners, near[:, None])
    mix = jnp.where(paired[:, None], mix, jnp.array([[1.0, 0.0, 0.0]]))
    normal = jnp.where(paired[:, None], normal, normals[near])
    apart = jnp.sum((view.points - vertices[near]) ** 2, axis=-1)
    # From afar a pull to the point; near by one to the plane, along which the point may slide.
    sideways = jnp.where(paired, 0.0, apart / (apart + 0.05**2))
    noise = _deviation(config, view, view.points[:, 2])
    slant = jnp.clip(-jnp.sum(normal * ray, axis=-1), 0.4, 1.0)
    outer = normal[:, :, None] * normal[:, None, :]
    metric = sideways[:, None, None] * jnp.eye(3)[None]
    metric += (1 - sideways)[:, None, None] * outer
    metric *= (slant / noise)[:, None, None]
    # Where depth is not to be trusted, only what is across the ray counts.
    blind = (1 - jnp.sqrt(view.firm))[:, None, None] * ray[:, :, None] * ray[:, None, :]
    metric -= jnp.einsum("mab,mbc->mac", metric, blind, precision=HIGHEST)
    turn = view.rotation
    return Pulls(
        corners=corners,
        mix=mix,
        target=from_camera(view, view.points - view.translation[None]),
        metric=jnp.einsum("mab,bc->mac", metric, turn, precision=HIGHEST),
        weight=view.shares / config.patch_m2,
        width=jnp.full(len(view.points), 1.0) * config.width_m * widening / noise,
        seen=True,
    )


def _deviation(config: EnergyConfig, view: View, depth: Float[Array, " n"]) -> Float[Array, " n"]:
    """Standard deviation of measured depths, metres."""
    far = config.sigma_per_m * depth**2
    return jnp.sqrt(config.sigma_m**2 + far**2 + view.noise**2)


def _nearest_facing(
    view: View,
    rays: Float[Array, "k 3"],
    vertices: Float[Array, "v 3"],
    normals: Float[Array, "v 3"],
) -> Int[Array, " k"]:
    """For each point of a view the nearest vertex that faces the camera; along its ray distances
    count as far as its depth is to be trusted."""
    facing = jnp.sum(normals * vertices, axis=-1) < 0
    # About half of them face it; the others are not looked at, which takes half the time.
    size = int(_FACING * len(vertices))
    ids = jnp.nonzero(facing, size=size, fill_value=0)[0]
    # Squared distance, less (1 - firm) of what of it is along the ray, as one product of matrices:
    # |x|^2 - 2 p.x - (1 - firm) ((r.x)^2 - 2 (r.p) (r.x)), up to what is the same for all x.
    middle = jnp.mean(view.points, axis=0, keepdims=True)
    x, p = vertices[ids] - middle, view.points - middle
    first, second = np.triu_indices(3)
    twice = jnp.asarray(np.where(first == second, 1.0, 2.0), x.dtype)
    blind = (1 - view.firm)[:, None]
    along = jnp.sum(rays * p, axis=-1, keepdims=True) * rays
    hidden = jnp.where(facing[ids], 0.0, 100.0)
    of_vertices = [x, x[:, first] * x[:, second], (jnp.sum(x**2, axis=-1) + hidden)[:, None]]
    of_points = [
        2 * (blind * along - p),
        -blind * twice[None] * rays[:, first] * rays[:, second],
        jnp.ones_like(blind),
    ]
    left, right = (jnp.concatenate(parts, axis=1) for parts in (of_points, of_vertices))
    cost = jnp.matmul(left, right.T, precision=HIGHEST)
    return ids[index_of_least(cost, 1)]


def clear_pulls(
    fitter: Fitter,
    config: EnergyConfig,
    view: View,
    vertices: Float[Array, "v 3"],
    widening: Scalar,
) -> Pulls:
    """Vertices out of space that was seen to be empty."""
    ahead = vertices[:, 2] > 0.05
    safe = jnp.where(ahead[:, None], vertices, jnp.array([[0.0, 0.0, 1.0]]))
    pixel = project(view.camera, safe)
    size = jnp.array([view.camera.width, view.camera.height])
    inside = ahead & jnp.all((pixel > -0.5) & (pixel < size[None] - 0.5), axis=1)
    u, v = (
        jnp.clip(jnp.round(pixel[:, axis]), 0, size[axis] - 1).astype(jnp.int32) for axis in (0, 1)
    )
    margin = config.clear_margin * _deviation(config, view, safe[:, 2])
    back = jnp.maximum(view.clear[v, u] - margin - safe[:, 2], 0.0)
    goal = slopes_at(view, view.nearest[v, u].astype(jnp.float32)) * safe[:, 2:]
    sideways = goal - safe
    distance = jnp.linalg.norm(sideways, axis=-1)
    # To the pixel's rim, not its middle.
    rim = 0.5 * safe[:, 2] / view.camera.focal[0]
    sideways *= (jnp.maximum(distance - rim, 0.0) / jnp.maximum(distance, 1e-6))[:, None]
    behind = view.own[v, u] | (back < distance - rim)
    push = jnp.where(behind[:, None], back[:, None] * normalize(safe), sideways)
    trust = jnp.where(inside & (back > 0) & jnp.any(view.own), view.trust[v, u], 0.0)
    weight = trust * fitter.areas / config.patch_m2
    _, worst = jax.lax.top_k(weight * jnp.sum(push**2, axis=-1), min(_PUSHED, len(vertices)))
    count = len(worst)
    return Pulls(
        corners=worst[:, None],
        mix=jnp.ones((count, 1)),
        target=from_camera(view, (vertices + push)[worst] - view.translation[None]),
        metric=jnp.broadcast_to(view.rotation / config.clear_sigma_m, (count, 3, 3)),
        weight=weight[worst],
        width=jnp.full(count, 1.0) * config.clear_width_m * widening / config.clear_sigma_m,
        seen=True,
    )
