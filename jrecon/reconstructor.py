"""The whole: one depth map in, a posed parametric model out.

    recon = load("body")
    found = reconstruct(recon, depth, camera, mask)

    state = start_track(recon)                                     # a video, frame by frame
    state, found = track(recon, state, depth, camera, mask)

A `Reconstructor` is a pytree: a learned function, and what its predictions are refined with.
Both are two compiled programs. A small one, for each size of image, brings the object to the sizes
that network and fit work on; a large one, the same for every camera, predicts and fits. In a video,
frames that go on from the last one, and from what the learned function says, take a few iterations.
"""

from __future__ import annotations

import dataclasses
import functools
import os
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from jrecon.fit.fitter import Fitter, make_fitter
from jrecon.fit.observation import View, observe
from jrecon.fit.report import Agreement
from jrecon.fit.solve import TOO_FEW, FitConfig, FitResult, anchor_of, fit, fit_one, schedule_of
from jrecon.fit.track import (
    Sight,
    TrackConfig,
    TrackState,
    begin,
    expect,
    follow,
    fuse,
    is_doubted,
    is_lost,
    turned,
)
from jrecon.geometry.camera import Camera
from jrecon.learn.regressor import Prediction, Regressor, predict_views
from jrecon.learn.view import ObjectView, view_objects
from jrecon.learn.weights import load_regressor
from jrecon.model.parametric import ParametricModel, Params, at_level, pose
from jrecon.programs import kept_program

# The level of detail that is fitted: enough for a depth map, and cheap to render.
_LEAST_VERTICES = 2000
# Metres: what is farther was counted in another unit.
_FARTHEST_M = 100.0


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Reconstructor:
    """A class of objects, ready to be reconstructed. Build one with `load`."""

    function: Regressor
    fitter: Fitter
    config: FitConfig

    @property
    def model(self) -> ParametricModel:
        """At the level of detail that is fitted."""
        return self.fitter.model


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Reconstruction:
    """What was found in a depth map."""

    params: Params
    """In the frame of the camera, metres: they overlay the depth map."""
    vertices: Float[Array, "*batch v 3"]
    joints: Float[Array, "*batch j 3"]
    prediction: Prediction
    """What was known before refinement: what the learned function said; of a frame of a video that
    goes on from the last one, joined to what was expected."""
    fit: FitResult
    """Status, residuals, standard deviations: see `jrecon.fit.solve`."""


def load(source: str | os.PathLike[str] = "body", config: FitConfig | None = None) -> Reconstructor:
    """A reconstructor from the package (`body`) or from a file that `jrecon train` wrote.

    Raises:
      FileNotFoundError, ValueError: see `jrecon.learn.weights.load_regressor`.
    """
    return make_reconstructor(load_regressor(source)[0], config)


def make_reconstructor(function: Regressor, config: FitConfig | None = None) -> Reconstructor:
    """A reconstructor of a function that is loaded already; its model is fitted coarser."""
    model = function.model
    enough = [name for name, count in model.levels if count >= _LEAST_VERTICES]
    model = at_level(model, enough[-1] if enough else model.levels[0][0])
    return Reconstructor(
        dataclasses.replace(function, model=model), make_fitter(model), config or FitConfig()
    )


def reconstruct(
    recon: Reconstructor,
    depth: Float[Array, "*batch h w"] | np.ndarray,
    camera: Camera,
    mask: Bool[Array, "*batch h w"] | np.ndarray,
) -> Reconstruction:
    """The object of a mask in each depth map.

    Args:
      depth: metres along the optical axis, 0 = no return; the whole scene, not the object alone:
        what lies behind it says where it is not.
      camera: of the images; batch axes broadcast.
      mask: the object's pixels; see `jrecon.io.segment.find_objects`.

    Raises:
      ValueError: shapes that do not fit together, or a depth that is not in metres.
    """
    depth, mask = _checked(depth, camera, mask)
    return _reconstruct(recon, *_look(depth, camera, mask, recon.function.network.image))


def start_track(recon: Reconstructor) -> TrackState:
    """The state before the first frame of a video."""
    return begin(recon.fitter)


def track(
    recon: Reconstructor,
    state: TrackState,
    depth: Float[Array, "h w"] | np.ndarray,
    camera: Camera,
    mask: Bool[Array, "h w"] | np.ndarray,
    config: TrackConfig | None = None,
) -> tuple[TrackState, Reconstruction]:
    """One frame of a video: one object, followed. Arguments as for `reconstruct`, without batches.

    Returns:
      The state for the next frame, and what was found. `state.lost` tells for how many frames
      nothing was that fits the track; the parameters of such a frame are the best that was found.

    Raises:
      ValueError: as for `reconstruct`.
    """
    depth, mask = _checked(depth, camera, mask)
    if depth.ndim != 2:
        raise ValueError(f"depth: got shape {depth.shape}, need one frame (h, w).")
    seen = _look(depth, camera, mask, recon.function.network.image)
    return _track(recon, config or TrackConfig(), state, *seen)


def _checked(depth: Any, camera: Camera, mask: Any) -> tuple[Array, Array]:
    kind = getattr(depth, "dtype", None)
    if kind is not None and not np.issubdtype(kind, np.floating):
        raise ValueError(
            f"depth: got {kind}, need metres as floats; of millimetres: depth / 1000.0. "
            "jrecon.io.depth.read_depth reads files with their unit."
        )
    if isinstance(depth, np.ndarray) and isinstance(mask, np.ndarray) and depth.shape == mask.shape:
        seen = depth[mask.astype(bool) & (depth > 0)]
        if seen.size and (middle := float(np.median(seen))) > _FARTHEST_M:
            raise ValueError(
                f"depth: got a median of {middle:.4g} where the mask is, need metres, up to "
                f"{_FARTHEST_M:g}; of millimetres: depth / 1000.0."
            )
    depth, mask = jnp.asarray(depth, jnp.float32), jnp.asarray(mask, bool)
    if depth.ndim < 2 or depth.shape != mask.shape:
        raise ValueError(
            f"depth, mask: got shapes {depth.shape} and {mask.shape}, need the same (*batch, h, w)."
        )
    if depth.shape[-2:] != (camera.height, camera.width):
        raise ValueError(
            f"depth: got {depth.shape[-1]} x {depth.shape[-2]} pixels, but the camera has "
            f"{camera.width} x {camera.height}; pass jrecon.geometry.camera.resize(camera, ...)."
        )
    return depth, mask


@functools.partial(jax.jit, static_argnames="size")
def _look(
    depth: Float[Array, "*batch h w"], camera: Camera, mask: Bool[Array, "*batch h w"], size: int
) -> tuple[ObjectView, View]:
    """What the network sees, `size` pixels along each side, and what the fit compares with."""
    batch = depth.shape[:-2]
    one = observe
    for _ in batch:
        one = jax.vmap(one)
    wide = jax.tree.map(lambda x: jnp.broadcast_to(x, (*batch, 2)), camera)
    return view_objects(depth, camera, mask, size), one(depth, wide, mask)


def reconstruct_views(recon: Reconstructor, seen: ObjectView, view: View) -> Reconstruction:
    """The large program of `reconstruct`."""
    found = predict_views(recon.function, seen)
    anchor = anchor_of(recon.fitter, found.params, found.joint_std)
    result = fit(recon.fitter, anchor, (view,), recon.config)
    posed = pose(recon.model, result.params)
    return Reconstruction(result.params, posed.vertices, posed.joints, found, result)


def track_views(
    recon: Reconstructor,
    config: TrackConfig,
    state: TrackState,
    seen: ObjectView,
    view: View,
) -> tuple[TrackState, Reconstruction]:
    """The large program of `track`."""
    fitter = recon.fitter
    predicted = predict_views(recon.function, seen)
    told = anchor_of(fitter, predicted.params, predicted.joint_std)
    expected = expect(fitter, recon.config.energy, config, state)
    known = fuse(config, expected, told)
    contrary = turned(expected, told) > 2 * config.turned_rad
    settings = dataclasses.replace(recon.config, starts=1)
    brief = dataclasses.replace(settings, coarse=(), fine=config.widenings, sweeps=(0, 1))
    length = 1 + max(len(each.coarse) + len(each.fine) for each in (settings, brief))
    slow = schedule_of(settings, len(fitter.limbs), length)
    quick = schedule_of(brief, len(fitter.limbs), length)
    quick = dataclasses.replace(
        quick, search=config.sweeps * quick.search, margin=jnp.asarray(config.margin)
    )
    # The shape is known better than one prediction can tell.
    share = state.frames / (1.0 + state.frames)
    shape = told.params.shape + share * (state.params.shape - told.params.shape)
    told = dataclasses.replace(
        told,
        params=dataclasses.replace(told.params, shape=shape),
        shape_sigma=known.shape_sigma,
    )

    def attempt(anew: Array) -> tuple[Array, Prediction, FitResult]:
        """From the prediction alone, or from the last frame; and whether that calls for another."""
        either = lambda a, b: jnp.where(anew, a, b)
        anchor, plan = jax.tree.map(either, (told, slow), (known, quick))
        result = fit_one(fitter, anchor, (view,), settings, plan, predicted.params.pose)
        doubted = is_lost(config, state, result) | is_doubted(config, state, contrary)
        again = ~anew & doubted & (result.status != TOO_FEW)
        return again, Prediction(anchor.params, anchor.joint_std), result

    def go(carry: Any) -> Any:
        anew, _, *before = carry
        again, known, result = attempt(anew)
        better = ~anew | (result.agreement.merit >= before[1].agreement.merit)
        kept = jax.tree.map(lambda a, b: jnp.where(better, a, b), [known, result, anew], before)
        return again, ~again, *kept

    anew = (state.lost < 0) | (state.lost >= config.patience)
    blank = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(attempt, anew))
    # One loop of at most two rounds, so that the fit is compiled once.
    start = (anew, jnp.asarray(False), *blank[1:], anew)
    *_, begun, result, fresh = jax.lax.while_loop(lambda carry: ~carry[1], go, start)
    posed = pose(recon.model, result.params)
    off = jnp.linalg.norm(posed.joints - expected.joints, axis=-1)
    return follow(config, state, result, Sight(off, contrary, anew=fresh)), Reconstruction(
        result.params, posed.vertices, posed.joints, begun, result
    )


def _blank(kind: Any, **parts: Any) -> Any:
    """A dataclass with zeros in place of its arrays: its structure is that of any other."""
    return kind(**(dict.fromkeys((field.name for field in dataclasses.fields(kind)), 0) | parts))


def _blank_reconstruction() -> Reconstruction:
    params = _blank(Params)
    fit = _blank(FitResult, params=params, agreement=_blank(Agreement))
    return _blank(
        Reconstruction, params=params, prediction=_blank(Prediction, params=params), fit=fit
    )


_reconstruct = kept_program(reconstruct_views, _blank_reconstruction)
_track = kept_program(
    track_views, lambda: (_blank(TrackState, params=_blank(Params)), _blank_reconstruction())
)


def stature(model: ParametricModel, shape: Float[Array, " s"]) -> Float[Array, ""]:
    """Height of the template of a shape, metres: a body's stature, standing straight."""
    rest = model.vertices + jnp.einsum(
        "vas,s->va", model.shape_basis, shape, precision=jax.lax.Precision.HIGHEST
    )
    return jnp.max(rest[:, 1]) - jnp.min(rest[:, 1])
