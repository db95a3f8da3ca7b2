"""Finding people and hands in depth maps: scenes with exact masks, real frames, refusals."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jrecon.geometry.camera import make_camera
from jrecon.io.depth import read_depth, read_mask
from jrecon.io.intrinsics import read_camera
from jrecon.io.planes import find_floor, make_grid
from jrecon.io.segment import find_objects
from jrecon.synth.surroundings import SurroundingsConfig, surround

CAMERA = make_camera(290, 290, 159.5, 119.5, 320, 240)
RAYS = np.stack(
    [
        *np.meshgrid((np.arange(320) - 159.5) / 290, (np.arange(240) - 119.5) / 290),
        np.ones((240, 320)),
    ],
    -1,
)
# Limbs of a standing person as capsules: (from, to, radius), metres, x right, y up, feet at y = 0.
LIMBS = (
    ((0, 0.95, 0), (0, 1.42, 0), 0.15), ((0, 1.50, 0), (0, 1.60, 0), 0.10),
    ((-0.19, 1.38, 0), (-0.32, 0.85, 0.05), 0.05), ((0.19, 1.38, 0), (0.32, 0.85, 0.05), 0.05),
    ((-0.09, 0.90, 0), (-0.12, 0.08, 0), 0.075), ((0.09, 0.90, 0), (0.12, 0.08, 0), 0.075),
)  # fmt: skip


def capsule(start, end, radius):
    """Depth of a capsule along the rays; infinite where it is missed."""
    a, b = np.asarray(start, float), np.asarray(end, float)
    axis = (b - a) / np.linalg.norm(b - a)
    along, best = RAYS @ axis, np.full(RAYS.shape[:2], np.inf)
    across = RAYS - along[..., None] * axis
    origin = -(a - (a @ axis) * axis)
    qa, qb, qc = (across**2).sum(-1), 2 * across @ origin, origin @ origin - radius**2
    with np.errstate(invalid="ignore"):
        t = (-qb - np.sqrt(qb**2 - 4 * qa * qc)) / (2 * qa)
    inside = (t * along >= a @ axis) & (t * along <= b @ axis)
    best = np.where(np.isfinite(t) & inside & (t > 0), t, best)
    for centre in (a, b):
        half = RAYS @ centre
        with np.errstate(invalid="ignore"):
            t = (half - np.sqrt(half**2 - (RAYS**2).sum(-1) * (centre @ centre - radius**2))) / (
                RAYS**2
            ).sum(-1)
        best = np.where(np.isfinite(t) & (t > 0), np.minimum(best, t), best)
    return best


def person(x, z, height=0.9):
    """Depth of a person standing at (x, z), seen from `height` above the floor."""
    at = lambda point: (x + point[0], height - point[1], z - point[2])
    return np.min([capsule(at(a), at(b), r) for a, b, r in LIMBS], axis=0)


def floor(height=0.9):
    with np.errstate(divide="ignore"):
        depth = height / RAYS[..., 1]
    return np.where(depth > 0, depth, np.inf)


def wall(z):
    return np.full(RAYS.shape[:2], float(z))


def scene(*surfaces, noise=0.0, rng=None):
    depth = np.min(surfaces, axis=0)
    depth = np.where(np.isfinite(depth), depth, 0)
    if rng is not None:
        depth = depth + noise * depth**2 * rng.standard_normal(depth.shape) * (depth > 0)
    return depth.astype(np.float32)


def overlap(a, b):
    return np.count_nonzero(a & b) / np.count_nonzero(a | b)


@pytest.mark.parametrize("noise", (0.0, 0.002))
@pytest.mark.parametrize("x, z", [(0.0, 2.2), (-0.5, 2.6), (0.3, 3.2)])
def test_a_person_on_a_floor_before_a_wall(rng, x, z, noise):
    body = person(x, z)
    depth = scene(body, floor(), wall(z + 0.8), noise=noise, rng=rng)
    found = find_objects(depth, CAMERA)
    assert found.plane is not None
    np.testing.assert_allclose(found.plane, (0, -1, 0, 0.9), atol=0.03)
    np.testing.assert_allclose(found.up, (0, -1, 0), atol=0.03)
    best = found.segments[0]
    truth = np.isfinite(body) & (body <= np.minimum(floor(), wall(z + 0.8)))
    assert overlap(best.mask, truth) > 0.8
    assert best.height_m == pytest.approx(1.65, abs=0.12)
    assert best.median_depth_m == pytest.approx(z, abs=0.2)
    assert best.points == np.count_nonzero(best.mask)
    u0, v0, u1, v1 = best.box
    assert best.mask[v0:v1, u0:u1].sum() == best.points and best.mask[v0, u0:u1].any()


def test_every_pixel_is_accounted_for_once(rng):
    depth = scene(person(0, 2.5), floor(), wall(3.5), noise=0.002, rng=rng)
    depth[:20] = 8
    found = find_objects(depth, CAMERA)
    reasons = [mask for name, mask in found.removed.items()]
    total = sum(mask.astype(int) for mask in reasons)
    claimed = np.any([segment.mask for segment in found.segments], axis=0)
    assert set(found.removed) == {"range", "flying pixels", "floor", "background", "small"}
    np.testing.assert_array_equal(total + claimed, depth > 0)
    assert found.removed["range"][:20].all()
    assert found.removed["floor"].sum() > 5000 and found.removed["background"].sum() > 10000


def test_two_people_are_two_segments():
    left, right = person(-0.6, 2.6), person(0.45, 2.9)
    found = find_objects(scene(left, right, floor(), wall(4)), CAMERA)
    assert len(found.segments) >= 2
    assert not np.any(found.segments[0].mask & found.segments[1].mask)
    overlaps = [
        [overlap(segment.mask, np.isfinite(body) & (body < floor())) for body in (left, right)]
        for segment in found.segments[:2]
    ]
    assert sorted(np.argmax(overlaps, axis=1)) == [0, 1] and np.max(overlaps, axis=1).min() > 0.8


def test_an_arm_before_the_chest_does_not_part_a_body():
    arm = capsule((-0.3, 0.25, 1.8), (0.35, 0.0, 1.8), 0.05)
    body = np.minimum(person(0, 2.2), arm)
    found = find_objects(scene(body, wall(3.5)), CAMERA)
    assert overlap(found.segments[0].mask, np.isfinite(body)) > 0.85


def test_a_box_says_where_to_look():
    left, right = person(-0.6, 2.6), person(0.45, 2.9)
    depth = scene(left, right, floor(), wall(4))
    for box, body in (((0, 0, 150, 240), left), ((150, 0, 320, 240), right)):
        segment = find_objects(depth, CAMERA, box=box).segments[0]
        assert overlap(segment.mask, np.isfinite(body) & (body < floor())) > 0.8
        assert box[0] <= segment.box[0] and segment.box[2] <= box[2]


@pytest.mark.parametrize("depth", [wall(2), floor(), np.minimum(floor(), wall(3)), wall(9)])
def test_rooms_without_anyone(depth):
    assert not find_objects(scene(depth), CAMERA).segments


@pytest.mark.parametrize("value", (0.0, np.nan, np.inf, 65.535))
def test_maps_without_depth(value):
    found = find_objects(np.full((240, 320), value, np.float32), CAMERA)
    assert found.segments == () and found.plane is None


def test_small_things_are_no_people_and_hands_are_found_as_hands():
    ball = capsule((0, 0, 0.6), (0.05, 0.06, 0.6), 0.05)
    depth = scene(ball, wall(1.5))
    assert not find_objects(depth, CAMERA).segments
    hand = find_objects(depth, CAMERA, size_m=(0.08, 0.3)).segments[0]
    assert overlap(hand.mask, np.isfinite(ball)) > 0.8


def test_flying_pixels_are_removed():
    body = person(0, 2.2)
    mask = np.isfinite(body)
    depth = scene(body, wall(4))
    # A ramp of two pixels from the body to the wall, left of it.
    rim = ~mask & (np.roll(mask, -1, 1) | np.roll(mask, -2, 1))
    near = np.roll(mask, -1, 1)
    depth[rim & near], depth[rim & ~near] = 2.8, 3.4
    found = find_objects(depth, CAMERA)
    flying = found.removed["flying pixels"]
    assert flying[rim].mean() > 0.9 and flying[mask].mean() < 0.05


def test_surroundings_of_the_synthesis():
    """Floor and wall drawn by `jrecon.synth`, which knows what is seen of the body."""
    body = person(0, 2.4)
    depth = jnp.asarray(np.where(np.isfinite(body), body, 0), jnp.float32)
    config = SurroundingsConfig(
        nothing_rate=0.0,
        floor_rate=1.0,
        wall_rate=1.0,
        clutter_rate=0.0,
        occluder_rate=0.0,
        wall_gap_m=(0.5, 2.0),
    )
    run = jax.jit(
        lambda key: surround(
            config, key, depth, jnp.zeros((240, 320, 3)), CAMERA, jnp.array([0.0, -1.0, 0.0])
        )
    )
    for seed in range(4):
        drawn = run(jax.random.key(seed))
        found = find_objects(np.asarray(drawn.depth), CAMERA, far=8.0)
        assert overlap(found.segments[0].mask, np.asarray(drawn.object)) > 0.8, seed


@pytest.mark.parametrize("size", [(1, 1), (3, 2), (17, 5), (64, 64)])
def test_any_size_and_any_numbers(rng, size):
    width, height = size
    camera = make_camera(60, 60, width / 2, height / 2, width, height)
    for depth in (rng.uniform(0, 7, (height, width)), rng.normal(2, 0.3, (height, width))):
        depth[rng.random(depth.shape) < 0.3] = 0
        found = find_objects(depth, camera)
        assert all(segment.mask.shape == (height, width) for segment in found.segments)


def test_settings_that_contradict_themselves():
    depth = scene(wall(2))
    contradictions: tuple[tuple[dict[str, Any], str], ...] = (
        ({"near": 2.0, "far": 1.0}, "near, far"),
        ({"size_m": (0.0, 1.0)}, "size_m"),
        ({"box": (10, 10, 10, 20)}, "box"),
        ({"box": (400, 0, 500, 20)}, "box"),
    )
    for options, match in contradictions:
        with pytest.raises(ValueError, match=match):
            find_objects(depth, CAMERA, **options)
    with pytest.raises(ValueError, match="320 x 240"):
        find_objects(depth.T, CAMERA)


def test_the_floor_is_found_from_a_tilted_camera():
    turn = np.radians(25)
    up = np.array([0, -np.cos(turn), -np.sin(turn)])
    with np.errstate(divide="ignore"):
        depth = -1.5 / (RAYS @ up)
    depth = np.where((depth > 0) & (depth < 5), depth, 0).astype(np.float32)
    plane = find_floor(make_grid(depth, CAMERA), np.array([0, -1.0, 0]))
    assert plane is not None
    np.testing.assert_allclose(plane, (*up, 1.5), atol=0.01)
    # A wall is no floor.
    assert find_floor(make_grid(scene(wall(2)), CAMERA), np.array([0, -1.0, 0])) is None


def test_the_standing_man_is_found_in_real_frames(shared_dir):
    folder = shared_dir / "data/people_d435"
    camera = read_camera(folder / "intrinsics.json")
    overlaps = []
    for path in sorted(folder.glob("*_depth.png"))[::3]:
        depth = read_depth(path).depth
        truth = read_mask(str(path).replace("_depth", "_mask"), (640, 480))
        overlaps.append(overlap(find_objects(depth, camera).segments[0].mask, truth))
    assert min(overlaps) > 0.5 and np.median(overlaps) > 0.7


def test_real_hands_are_found(shared_dir):
    folder = shared_dir / "data/hand_sr305"
    camera = read_camera(folder / "intrinsics.json")
    overlaps = []
    for path in sorted(folder.glob("*_depth.png")):
        depth = read_depth(path, unit="sr305").depth
        truth = read_mask(str(path).replace("_depth", "_mask"), (640, 480))
        found = find_objects(depth, camera, size_m=(0.1, 0.4), far=0.8)
        overlaps.append(max([overlap(one.mask, truth) for one in found.segments[:1]], default=0))
    assert min(overlaps) > 0.7 and np.median(overlaps) > 0.85
