"""How well a fitted model explains what was seen: numbers for people and for tracking."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jrecon.fit.fitter import Fitter
from jrecon.fit.observation import View, to_camera
from jrecon.model.parametric import Params, pose
from jrecon.render.rasterize import rasterize

# A pixel whose depth is this near to the model's is explained by it.
_INLIER_M = 0.05


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Agreement:
    """Of model and views, over all pixels of the object in all windows."""

    residual_mm: Float[Array, "*batch"]
    """Median distance in depth where both are seen, millimetres; 0 where there is no such pixel."""
    inlier_share: Float[Array, "*batch"]
    """Of the object's pixels: those that the model explains to 50 mm."""
    overlap: Float[Array, "*batch"]
    """Intersection over union of the object's pixels and the model's, without pixels that have no
    depth and those where the model is hidden behind something else."""
    visible_share: Float[Array, "*batch"]
    """Of the model's pixels: those that show the object, the rest is hidden or out of the image."""

    @property
    def merit(self) -> Float[Array, "*batch"]:
        """All in one figure: pixels explained, times the overlap; 1 for full agreement."""
        return self.inlier_share * self.overlap


def agreement(fitter: Fitter, views: tuple[View, ...], params: Params) -> Agreement:
    """Of one lane; for `vmap` and `lax.map`."""
    vertices = pose(fitter.model, params).vertices
    gaps, explained, both, either, own, shown, seen_own = [], 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    for view in views:
        seen = rasterize(to_camera(view, vertices), fitter.model.faces, view.camera)
        gap = jnp.abs(seen.depth - view.depth)
        met = seen.mask & view.own
        gaps.append(jnp.where(met, gap, jnp.nan).reshape(-1))
        explained += jnp.sum(met & (gap < _INLIER_M))
        # Where the model should have been seen, had it been there.
        exposed = seen.mask & (view.depth > seen.depth - _INLIER_M)
        both += jnp.sum(met)
        either += jnp.sum(view.own | exposed)
        own += jnp.sum(view.own)
        shown += jnp.sum(seen.mask)
        seen_own += jnp.sum(met)
    middle = jnp.nanmedian(jnp.concatenate(gaps))
    share = lambda part, whole: part / jnp.maximum(whole, 1)
    return Agreement(
        residual_mm=1e3 * jnp.nan_to_num(middle),
        inlier_share=share(explained, own),
        overlap=share(both, either),
        visible_share=share(seen_own, shown),
    )
