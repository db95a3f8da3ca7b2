"""Derivatives at silhouettes: how an image changes when an occlusion boundary moves over it.

The image is sharp and stays so: nothing here changes its value. Wherever two neighbouring pixels
see different surfaces, a boundary runs between them. Averaged over the area of pixels, the image
then changes by (value before the boundary - value behind it) times the distance by which the
boundary moves towards the far pixel. Half of that goes to either pixel, so that a loss that is
quadratic in the value gets its exact difference (Li et al. 2018, "Differentiable Monte Carlo Ray
Tracing through Edge Sampling"; Pidhorskyi et al. 2024, "Rasterized Edge Gradients"). Pairs along u
take the motion along u, pairs along v that along v: a slanted boundary crosses as many pairs of
either kind as its normal has of either component, so their sum is the motion along the normal.

- **Which pairs**: one of them is background, or their surfaces are apart where both planes are
  extended to the middle between them. Geometry decides, not the number of the face: neighbours on a
  fine mesh are no boundary, an arm before a torso is.
- **Which point moves**: the place where the near surface ends. On a round body it lies behind what
  the near pixel sees, and moves differently. So the mesh is asked: of all edges that cross the line
  between the two pixel centres before the far surface, it is the one nearest to the far pixel, be
  its triangle ever so small.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jrecon.geometry.camera import Camera
from jrecon.render.columns import cross, dot, minus
from jrecon.render.rasterize import gather_corners, pixel_rays
from jrecon.render.triangles import NEAR, project

# Surfaces are apart when their planes are, half-way between two pixels, by more than this share of
# the distance between two pixels at that depth.
_APART = 0.5
# An edge that is nearer than the far surface by less than this share of the gap belongs to it.
_FAR_SIDE = 0.25
# Crossings of edges with lines of pixels, so many at once.
_CHUNK = 4096
# Places this near a pixel centre count as being there: that many pixels.
_AT_CENTRE = 1e-3
# Projected places are told apart up to so many pixels outside of the image.
_OUTSIDE = 2.0


@jax.custom_jvp
def with_silhouettes(
    vertices: Float[Array, "v 3"],
    focal: Float[Array, " 2"],
    center: Float[Array, " 2"],
    faces: Int[Array, "f 3"],
    face_id: Int[Array, "h w"],
    depth: Float[Array, "h w"],
) -> tuple[Float[Array, "h w"], Float[Array, "h w"]]:
    """`depth`, and the mask as 0 and 1, with their derivatives at silhouettes added."""
    return depth, (face_id >= 0).astype(jnp.float32)


@with_silhouettes.defjvp
def _(primals: tuple, tangents: tuple) -> tuple:
    vertices, focal, center, faces, face_id, depth = primals
    camera = Camera(focal, center, face_id.shape[1], face_id.shape[0])
    pairs = find_pairs(vertices, faces, face_id, camera)
    rims = find_rims(vertices, faces, pairs, camera)
    depth_dot, coverage_dot = tangents[5], jnp.zeros_like(depth)
    for axis, (pair, rim) in enumerate(zip(pairs, rims, strict=True)):

        def place(
            vertices: Array, focal: Array, center: Array, axis: int = axis, rim: Rim = rim
        ) -> Array:
            along, ahead = (_on_edge(vertices[:, i], rim) for i in (axis, 2))
            return along / jnp.where(rim.found, ahead, 1.0) * focal[axis] + center[axis]

        _, motion = jax.jvp(place, primals[:3], tangents[:3])
        # The near surface grows where its rim moves towards the far pixel.
        grows = jnp.where(rim.found, jnp.where(pair.first_is_near, 0.5, -0.5), 0.0) * motion
        depth_dot += _to_both(axis, (rim.depth - rim.far) * grows)
        coverage_dot += _to_both(axis, pair.borders_nothing * grows)
    return with_silhouettes(*primals), (depth_dot, coverage_dot)


class Pairs(NamedTuple):
    """Each pixel, first, with its neighbour along an axis, second."""

    split: Bool[Array, "h w"]
    """Whether a silhouette runs between the two."""
    first_is_near: Bool[Array, "h w"]
    borders_nothing: Float[Array, "h w"]
    """1 where the far pixel is background, else 0."""
    inward: Bool[Array, "h w"]
    """Whether the near pixel sees the inside of a surface."""
    near: Float[Array, "h w"]
    """Inverse depth that the near pixel sees, 1 / m."""
    far: Float[Array, "h w"]
    """Inverse depth of the far surface at the first pixel, where its plane is extended to it."""
    far_slope: Float[Array, "h w"]
    """How that changes from the first pixel to the second."""


class Rim(NamedTuple):
    """Where the near surface of each pair ends: a point on an edge of the mesh."""

    found: Bool[Array, "h w"]
    ends: tuple[Int[Array, "h w"], Int[Array, "h w"]]
    """The edge, as indices of vertices."""
    share: Float[Array, "h w"]
    """Of the second end in the point; the rest is that of the first."""
    depth: Float[Array, "h w"]
    """Of the point, metres."""
    far: Float[Array, "h w"]
    """Depth of the surface behind it, 0 for background."""


def find_pairs(
    vertices: Float[Array, "v 3"],
    faces: Int[Array, "f 3"],
    face_id: Int[Array, "h w"],
    camera: Camera,
) -> tuple[Pairs, ...]:
    """The pairs along u and along v."""
    a, b, c = gather_corners(vertices, faces, face_id)
    normal = cross(minus(b, a), minus(c, a))
    height = dot(normal, a)
    mask = (face_id >= 0) & (height != 0)
    # On the plane of a face inverse depth is linear in the pixel: normal . ray / height.
    plane = [jnp.where(mask, axis / jnp.where(mask, height, 1.0), 0.0) for axis in normal]
    inverse = dot(plane, [*pixel_rays(camera), 1.0])
    return tuple(
        _pairs_along(axis, mask, inverse, plane[axis] / camera.focal[axis], height > 0, camera)
        for axis in range(2)
    )


def _pairs_along(
    axis: int, mask: Array, inverse: Array, slope: Array, inward: Array, camera: Camera
) -> Pairs:
    mask_next, inverse_next, slope_next = (_next(axis, x) for x in (mask, inverse, slope))
    exists = np.ones((camera.height, camera.width), bool)
    exists[(slice(None), -1) if axis == 0 else -1] = False
    low, high = jnp.minimum(inverse, inverse_next), jnp.maximum(inverse, inverse_next)
    first_is_near = inverse > inverse_next
    # Planes are extended, but not beyond the other surface: a grazing plane would go anywhere.
    here = 1.0 / jnp.maximum(jnp.clip(inverse + slope / 2, low, high), 1e-9)
    there = 1.0 / jnp.maximum(jnp.clip(inverse_next - slope_next / 2, low, high), 1e-9)
    gap = jnp.where(first_is_near, there - here, here - there)
    apart = mask & mask_next & (gap * high * camera.focal[axis] > _APART)
    return Pairs(
        split=jnp.asarray(exists) & (apart | (mask != mask_next)),
        first_is_near=first_is_near,
        borders_nothing=(mask != mask_next).astype(jnp.float32),
        inward=jnp.where(first_is_near, inward, _next(axis, inward)),
        near=high,
        far=jnp.where(first_is_near, inverse_next - slope_next, inverse),
        far_slope=jnp.where(first_is_near, slope_next, slope),
    )


def find_rims(
    vertices: Float[Array, "v 3"],
    faces: Int[Array, "f 3"],
    pairs: tuple[Pairs, ...],
    camera: Camera,
) -> tuple[Rim, ...]:
    """The edges that bound the near surface of each pair that a silhouette splits.

    As with visibility, there is one list of all crossings of edges with lines of pixels, worked off
    in chunks by a loop of dynamic length. Only faces near a silhouette contribute to it.
    """
    vertices, pairs, camera = jax.lax.stop_gradient((vertices, pairs, camera))
    pixels = _places(vertices, camera)
    ends = jnp.cumsum(_crossings(pixels, faces, pairs, camera).reshape(-1))
    area, count = camera.width * camera.height, len(faces)
    # The place along the line and the number of the edge share 32 bits. With a million edges a
    # pixel still has 1/1000 of its width told apart, and one of two such edges is as good.
    bits = (3 * count - 1).bit_length()
    # No more of the place than a float32 has digits.
    place_bits = min(32 - bits, 23)
    limit, limit_slope, first_is_near = (
        jnp.stack(x).reshape(-1)
        for x in zip(*((*_limit(pair), pair.first_is_near) for pair in pairs), strict=True)
    )

    def visit(state: tuple[Array, Array]) -> tuple[Array, Array]:
        start, best = state
        slot = start + jnp.arange(_CHUNK)
        owner = jnp.minimum(jnp.searchsorted(ends, slot, side="right"), 2 * count - 1)
        axis, face = owner // count, owner % count
        # Counted from the end of the face's share of the list.
        edge, line = _edge_and_line(ends[owner] - 1 - slot, axis, face, pixels, faces, camera)
        share, position, depth = _cross(axis, line, edge, vertices, faces, camera)
        pixel, index = _pair_of(position, axis, line, limit, camera)
        step = position - pixel
        valid = (slot < ends[-1]) & (share >= 0) & (share <= 1) & (depth > NEAR)
        valid &= (step > -_AT_CENTRE) & (step < 1 + _AT_CENTRE)
        valid &= 1.0 / depth > limit[index] + step * limit_slope[index]
        toward = jnp.where(first_is_near[index], step, 1.0 - step) * (1 << place_bits)
        toward = jnp.clip(toward, 1.0, (1 << place_bits) - 1.0).astype(jnp.uint32)
        key = toward << bits | edge.astype(jnp.uint32)
        return start + _CHUNK, best.at[jnp.where(valid, index, 2 * area)].max(key, mode="drop")

    state = jnp.zeros((), jnp.int32), jnp.zeros(2 * area, jnp.uint32)
    _, best = jax.lax.while_loop(lambda state: state[0] < ends[-1], visit, state)
    winner = jnp.where(best > 0, (best & np.uint32((1 << bits) - 1)).astype(jnp.int32), 3 * count)
    return tuple(
        _rim(axis, edge, vertices, faces, pair, camera)
        for axis, (edge, pair) in enumerate(
            zip(winner.reshape(2, camera.height, camera.width), pairs, strict=True)
        )
    )


def _limit(pair: Pairs) -> tuple[Array, Array]:
    """The inverse depth at the first pixel that an edge must exceed to be of the near surface, and
    how that changes to the second; infinite where there is no silhouette."""
    limit = pair.far + _FAR_SIDE * (pair.near - pair.far)
    return jnp.where(pair.split, limit, jnp.inf), (1 - _FAR_SIDE) * pair.far_slope


def _places(vertices: Float[Array, "v 3"], camera: Camera) -> tuple[Array, Array]:
    """Pixel coordinates u and v of vertices, clipped a little outside of the image, where all is
    the same; without a projection as `project` has them."""
    *_, u, v = project(vertices, camera)
    return (
        jnp.clip(u, -_OUTSIDE, camera.width - 1 + _OUTSIDE),
        jnp.clip(v, -_OUTSIDE, camera.height - 1 + _OUTSIDE),
    )


def _crossings(
    pixels: tuple[Array, ...], faces: Array, pairs: tuple[Pairs, ...], camera: Camera
) -> Int[Array, "2 f"]:
    """How many lines of pixels along u, then along v, the edges of each face cross in all; none for
    faces that cannot hold the rim of any pair."""
    u, v = ([x[faces[:, k]] for k in range(3)] for x in pixels)
    behind = [jnp.isnan(x) for x in u]
    broken = [away & ~jnp.isnan(x) for away, x in zip(behind, v, strict=True)]
    known, seen = ~(behind[0] | behind[1] | behind[2]), ~(behind[0] & behind[1] & behind[2])
    seen &= ~(broken[0] | broken[1] | broken[2])
    lowest, highest = (
        [pick(pick(x[0], x[1]), x[2]) for x in (u, v)] for pick in (jnp.minimum, jnp.maximum)
    )
    # A rim belongs to a face that turns the same side to the camera as what the near pixel sees.
    inward = (u[1] - u[0]) * (v[2] - v[0]) >= (u[2] - u[0]) * (v[1] - v[0])
    # Clipped or without a projection, a face may have turned.
    whole = (lowest[0] > -_OUTSIDE) & (lowest[1] > -_OUTSIDE)
    whole &= (highest[0] < camera.width - 1 + _OUTSIDE) & (
        highest[1] < camera.height - 1 + _OUTSIDE
    )
    counts = []
    for axis, pair in enumerate(pairs):
        low = [
            jnp.floor(x - _AT_CENTRE) if i == axis else jnp.ceil(x) for i, x in enumerate(lowest)
        ]
        high = [x + _AT_CENTRE if i == axis else x for i, x in enumerate(highest)]
        kept = seen & (_count_within(pair.split, low, high, known) > 0)
        sides = [jnp.any(pair.split & side) for side in (pair.inward, ~pair.inward)]
        kept &= ~whole | jnp.where(inward, *sides)
        across = (v, u)[axis]
        lines = [_lines_between(across[k], across[k - 2], axis, camera)[1] for k in range(3)]
        counts.append(jnp.where(kept, lines[0] + lines[1] + lines[2], 0))
    return jnp.stack(counts)


def _pair_of(
    position: Array, axis: Array, line: Array, limit: Array, camera: Camera
) -> tuple[Float[Array, "*n"], Int[Array, "*n"]]:
    """First pixel of the pairs that hold places on lines along an axis, and the numbers of these
    pairs. At a pixel centre, within rounding, two pairs meet: it is the one that is split."""

    def number(first: Array) -> tuple[Array, Array]:
        last = jnp.maximum(jnp.where(axis == 0, camera.width, camera.height) - 2, 0)
        # Clamped to the image; the caller tells places outside from their distance.
        first = jnp.clip(first, 0, last)
        along, across = first.astype(jnp.int32), line
        row, column = jnp.where(axis == 0, across, along), jnp.where(axis == 0, along, across)
        return first, axis * camera.width * camera.height + row * camera.width + column

    centre = jnp.round(position)
    at_centre = jnp.abs(position - centre) < _AT_CENTRE
    before, number_before = number(jnp.where(at_centre, centre - 1, jnp.floor(position)))
    after, number_after = number(jnp.where(at_centre, centre, jnp.floor(position)))
    split = jnp.isfinite(limit[number_before])
    return jnp.where(split, before, after), jnp.where(split, number_before, number_after)


def _lines_between(
    a: Array, b: Array, axis: Array | int, camera: Camera
) -> tuple[Int[Array, "*n"], Int[Array, "*n"]]:
    """First line of pixels along an axis between two places across it, and their number. All
    lines where one place is unknown (NaN), none where both are."""
    last = jnp.where(axis == 0, camera.height, camera.width) - 1.0
    known, unknown = ~jnp.isnan(a) & ~jnp.isnan(b), jnp.isnan(a) & jnp.isnan(b)
    begin = jnp.where(known, jnp.maximum(jnp.ceil(jnp.minimum(a, b)), 0.0), 0.0)
    end = jnp.where(known, jnp.minimum(jnp.floor(jnp.maximum(a, b)), last), last)
    count = jnp.where(unknown, 0.0, jnp.maximum(end - begin + 1.0, 0.0))
    return begin.astype(jnp.int32), count.astype(jnp.int32)


def _edge_and_line(
    number: Array,
    axis: Array,
    face: Array,
    pixels: tuple[Array, ...],
    faces: Array,
    camera: Camera,
) -> tuple[Int[Array, "*n"], Int[Array, "*n"]]:
    """The edge and the line of one of the crossings of a face, by its number among them; edge
    number = corner * (number of faces) + face."""
    vertex_count = len(pixels[0])
    columns = jnp.concatenate(pixels[::-1])
    across = [columns[axis * vertex_count + faces[:, k][face]] for k in range(3)]
    edge, line = face, jnp.zeros_like(face)
    for k in range(3):
        first, count = _lines_between(across[k], across[k - 2], axis, camera)
        here = (number >= 0) & (number < count)
        edge, line = (
            jnp.where(here, k * len(faces) + face, edge),
            jnp.where(here, first + number, line),
        )
        number -= count
    return edge, line


def _count_within(image: Array, low: list[Array], high: list[Array], known: Array) -> Array:
    """How many pixels are true in boxes from `low` to `high`, (u, v), both included; all of them
    where the box is not known."""
    total = jnp.cumsum(jnp.cumsum(image.astype(jnp.int32), 0), 1)
    height, width = image.shape
    total = jnp.pad(total, ((1, 0), (1, 0))).reshape(-1)
    begin, end = [], []
    for i, limit in enumerate((width, height)):
        begin.append(jnp.where(known, jnp.clip(low[i], 0, limit), 0).astype(jnp.int32))
        after = jnp.clip(jnp.floor(high[i]) + 1.0, begin[i], limit)
        end.append(jnp.where(known, after, limit).astype(jnp.int32))

    def until(u: Array, v: Array) -> Array:
        return total[v * (width + 1) + u]

    rows = [until(end[0], y) - until(begin[0], y) for y in (begin[1], end[1])]
    return rows[1] - rows[0]


def _ends(edge: Array, faces: Array) -> tuple[Array, Array]:
    """The vertices of edges; edge number = corner * (number of faces) + face. Those of edges out of
    range are out of range."""
    corners = faces.T.reshape(-1)
    following = jnp.roll(faces.T, -1, 0).reshape(-1)
    fill = 2**31 - 1
    return (
        corners.at[edge].get(mode="fill", fill_value=fill),
        following.at[edge].get(mode="fill", fill_value=fill),
    )


def _cross(
    axis: Array | int, line: Array, edge: Array, vertices: Array, faces: Array, camera: Camera
) -> tuple[Array, Array, Array]:
    """Where edges cross the lines of pixels along an axis: share of the second end, place along
    the line in pixels, depth. Without projecting the ends, which may be behind the camera."""
    (x, y, z), (x_end, y_end, z_end) = (
        [vertices[:, i].at[end].get(mode="fill", fill_value=1.0) for i in range(3)]
        for end in _ends(edge, faces)
    )
    along_u = axis == 0
    across = jnp.where(along_u, camera.focal[1], camera.focal[0])
    offset = jnp.where(along_u, camera.center[1], camera.center[0]) - line
    begin = across * jnp.where(along_u, y, x) + offset * z
    end = across * jnp.where(along_u, y_end, x_end) + offset * z_end
    share = begin / jnp.where(begin == end, 1.0, begin - end)
    depth = z + share * (z_end - z)
    depth = jnp.where(depth > NEAR, depth, NEAR)
    there = jnp.where(along_u, x + share * (x_end - x), y + share * (y_end - y))
    focal = jnp.where(along_u, camera.focal[0], camera.focal[1])
    center = jnp.where(along_u, camera.center[0], camera.center[1])
    return share, there / depth * focal + center, depth


def _rim(axis: int, edge: Array, vertices: Array, faces: Array, pair: Pairs, camera: Camera) -> Rim:
    grid = np.indices(edge.shape)
    found = edge < 3 * len(faces)
    share, position, depth = _cross(axis, grid[axis], edge, vertices, faces, camera)
    far = pair.far + (position - grid[1 - axis]) * pair.far_slope
    # The far surface cannot be before the rim; extended, a steep plane could be.
    far = jnp.where(pair.borders_nothing > 0, 0.0, 1.0 / jnp.clip(far, 1e-9, 1.0 / depth))
    return Rim(found, _ends(edge, faces), jnp.where(found, share, 0.0), depth, far)


def _on_edge(column: Float[Array, " v"], rim: Rim) -> Float[Array, "h w"]:
    """A coordinate of the points on the rim, from that of the vertices."""
    # Out of range is filled in, and dropped in reverse: pairs without a rim load no vertex.
    begin, end = (column.at[index].get(mode="fill", fill_value=0.0) for index in rim.ends)
    return begin + rim.share * (end - begin)


def _next(axis: int, image: Array) -> Array:
    """The neighbour to the right (axis 0, along u) or below (axis 1, along v)."""
    return jnp.roll(image, -1, axis=1 - axis)


def _to_both(axis: int, pairs: Array) -> Array:
    """What each pixel gets as the first of one pair and as the second of another."""
    return pairs + jnp.roll(pairs, 1, axis=1 - axis)
