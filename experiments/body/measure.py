"""Anthropometric measures of a body in the rest pose, named and defined as in ANSUR II.

A girth is the perimeter of the convex hull of a plane section (a tape does not follow hollows).
Where ANSUR II palpates bone, a joint or a fixed surface vertex stands in; those measures carry a
constant offset of definition, `DEFINITION_DIFFERS`, and only their spread can be compared.

Input frame: y up, z front, metres; lengths are returned in millimetres, mass in kilograms.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from body import skeleton
from body.skeleton import INDEX

# Whole-body density in kg per cubic metre with air in the lungs, as used for volume scans.
DENSITY = 985.0

MEASURES = (
    "stature", "weightkg", "chestcircumference", "chestbreadth", "chestdepth",
    "waistcircumference", "waistbreadth", "waistdepth", "waistheightomphalion",
    "buttockcircumference", "hipbreadth", "thighcircumference", "calfcircumference",
    "anklecircumference", "neckcircumference", "wristcircumference", "crotchheight",
    "kneeheightmidpatella", "acromialheight", "acromionradialelength", "radialestylionlength",
    "biacromialbreadth", "handlength", "footlength", "headcircumference", "headlength",
    "chestheight", "cervicaleheight",
)  # fmt: skip
DEFINITION_DIFFERS = (
    "chestbreadth", "chestdepth", "waistbreadth", "waistdepth", "waistheightomphalion",
    "hipbreadth", "anklecircumference", "wristcircumference", "kneeheightmidpatella",
    "acromialheight", "acromionradialelength", "radialestylionlength", "biacromialbreadth",
    "handlength", "headcircumference", "headlength", "chestheight", "cervicaleheight",
)  # fmt: skip

# Landmarks: vertices of MakeHuman's base mesh.
NAVEL, CROTCH, CERVICALE, NIPPLES = 4121, 4376, 856, (1778, 8450)

_ANGLES = np.linspace(0, 2 * np.pi, 90, endpoint=False)
_DIRECTIONS = np.stack([np.cos(_ANGLES), np.sin(_ANGLES)])


def girth(points: np.ndarray) -> float:
    """Perimeter of the convex hull of points (n, 2): Cauchy's formula over 90 directions (-0.1 %
    at most for a polygon with long edges)."""
    return float(2 * np.pi * (points @ _DIRECTIONS).max(0).mean()) if len(points) else np.nan


def volume(vertices: np.ndarray, faces: np.ndarray) -> float:
    """Signed volume of a closed mesh, cubic metres."""
    a, b, c = np.moveaxis(vertices[faces], 1, 0)
    return float(np.einsum("fi,fi->", np.cross(a, b), c) / 6)


def _section(vertices, edges, origin, frame) -> np.ndarray:
    """Points (n, 2), in the first two axes of `frame` (3, 3), where edges cross the plane through
    `origin` whose normal is the third."""
    height = (vertices - origin) @ frame[:, 2]
    a, b = edges[(height[edges[:, 0]] > 0) != (height[edges[:, 1]] > 0)].T
    share = height[a] / (height[a] - height[b])
    points = vertices[a] + share[:, None] * (vertices[b] - vertices[a])
    return (points - origin) @ frame[:, :2]


_LEVEL = np.array([[1.0, 0, 0], [0, 0, 1], [0, 1, 0]])  # axes x, z in a horizontal plane


def _across(direction: np.ndarray) -> np.ndarray:
    """A frame whose third axis is `direction`."""
    third = direction / np.linalg.norm(direction)
    first = np.cross(third, [0.0, 1.0, 0.0] if abs(third[1]) < 0.9 else [0.0, 0.0, 1.0])
    first /= np.linalg.norm(first)
    return np.stack([first, np.cross(third, first), third], 1)


@dataclasses.dataclass(frozen=True)
class Tape:
    """What is needed to measure bodies of one topology. Build with `make_tape`."""

    faces: np.ndarray
    torso: np.ndarray
    leg: np.ndarray
    arm: np.ndarray
    neck: np.ndarray
    head: np.ndarray
    """Edges (e, 2) of each region."""
    landmark: dict[str, int]
    nipples: tuple[int, int]


def make_tape(vertices, joints, weights, faces, base_index) -> Tape:
    """A tape for bodies with these `faces`.

    Args:
      vertices: (v, 3) some body, to find landmarks on.
      joints: (52, 3) its joints.
      weights: (v, 52) skinning weights, which tell regions apart.
      faces: (f, 3) closed mesh.
      base_index: (v,) MakeHuman's number of each vertex.
    """
    edges = np.unique(np.sort(faces[:, [[0, 1], [1, 2], [2, 0]]].reshape(-1, 2), 1), axis=0)

    def share(*parts: str) -> np.ndarray:
        return weights[:, [i for n, i in INDEX.items() if any(p in n for p in parts)]].sum(1)

    def within(mask: np.ndarray) -> np.ndarray:
        return edges[mask[edges].all(1)]

    left = vertices[:, 0] > 0
    fingers = tuple(skeleton.FINGERS)
    arms = share("shoulder", "elbow", "wrist", *fingers)
    head, neck = share("head"), share("neck")
    near = np.linalg.norm(
        vertices[:, [0, 2]] - (joints[INDEX["left_shoulder"], [0, 2]] + [0.012, 0]), axis=1
    )
    third = np.flatnonzero(weights[:, INDEX["left_middle3"]] > 0.5)
    reach = np.linalg.norm(vertices[third] - joints[INDEX["left_wrist"]], axis=1)
    number = {int(base): index for index, base in enumerate(base_index)}
    landmark = dict(
        acromion=int(np.argmax(np.where(near < 0.02, vertices[:, 1], -np.inf))),
        fingertip=int(third[np.argmax(reach)]),
        navel=number[NAVEL],
        crotch=number[CROTCH],
        cervicale=number[CERVICALE],
    )
    return Tape(
        faces=faces,
        torso=within(arms < 0.5),
        leg=within((arms < 0.5) & left),
        arm=within((arms > 0.5) & left),
        neck=within((neck > 0.02) & (head < 0.9)),
        head=within(head > 0.5),
        landmark=landmark,
        nipples=(number[NIPPLES[0]], number[NIPPLES[1]]),
    )


def measure(tape: Tape, v: np.ndarray, joints: np.ndarray) -> np.ndarray:
    """The values of `MEASURES` for one body: vertices (v, 3), joints (52, 3), in metres."""
    j = {name: joints[index] for name, index in INDEX.items()}
    floor, top = v[:, 1].min(), v[:, 1].max()
    result = dict(stature=top - floor, weightkg=DENSITY * volume(v, tape.faces) / 1e3)
    result |= _trunk(tape, v, floor, top - floor)
    result |= _limbs(tape, v, j, floor, top - floor)
    result |= _head_and_neck(tape, v, j, floor, top)
    return 1e3 * np.array([result[name] for name in MEASURES])


def _cut(v: np.ndarray, edges: np.ndarray, height: float) -> np.ndarray:
    return _section(v, edges, np.array([0, height, 0]), _LEVEL)


def _trunk(tape: Tape, v: np.ndarray, floor: float, stature: float) -> dict[str, Any]:
    mark, scale = tape.landmark, stature / 1.7
    chest_height = float(v[list(tape.nipples), 1].mean())
    crotch, navel = float(v[mark["crotch"], 1]), float(v[mark["navel"], 1])
    chest, waist = _cut(v, tape.torso, chest_height), _cut(v, tape.torso, navel)
    hips = [
        _cut(v, tape.torso, height)
        for height in np.linspace(crotch + 0.02, crotch + 0.2 * scale, 8).tolist()
    ]
    return dict(
        chestheight=chest_height - floor,
        chestcircumference=girth(chest),
        chestbreadth=np.ptp(chest[:, 0]),
        chestdepth=np.ptp(chest[:, 1]),
        waistheightomphalion=navel - floor,
        waistcircumference=girth(waist),
        waistbreadth=np.ptp(waist[:, 0]),
        waistdepth=np.ptp(waist[:, 1]),
        buttockcircumference=max(map(girth, hips)),
        hipbreadth=max(np.ptp(section[:, 0]) for section in hips[:7]),
        crotchheight=crotch - floor,
        thighcircumference=girth(_cut(v, tape.leg, crotch - 0.025 * scale)),
    )


def _limbs(tape: Tape, v: np.ndarray, j: dict, floor: float, stature: float) -> dict[str, Any]:
    knee, ankle = j["left_knee"][1], j["left_ankle"][1]

    def shank(shares) -> list[float]:
        return [girth(_cut(v, tape.leg, ankle + t * (knee - ankle))) for t in shares]

    elbow, wrist = j["left_elbow"], j["left_wrist"]
    forearm = (wrist - elbow) / np.linalg.norm(wrist - elbow)
    across = _across(forearm)
    wrists = [
        girth(_section(v, tape.arm, wrist - t * forearm, across)) for t in (5e-3, 0.02, 0.035)
    ]
    acromion = v[tape.landmark["acromion"]]
    foot = v[(v[:, 0] > 0) & (v[:, 1] < floor + 0.06), 2]
    return dict(
        calfcircumference=max(shank(np.linspace(0.45, 0.85, 5))),
        anklecircumference=min(shank(np.linspace(0.08, 0.3, 4))),
        kneeheightmidpatella=knee - floor,
        footlength=np.ptp(foot),
        acromialheight=acromion[1] - floor,
        biacromialbreadth=2 * acromion[0],
        acromionradialelength=np.linalg.norm(elbow - acromion),
        radialestylionlength=np.linalg.norm(wrist - elbow),
        wristcircumference=min(wrists),
        handlength=np.linalg.norm(v[tape.landmark["fingertip"]] - wrist),
    )


def _head_and_neck(tape: Tape, v: np.ndarray, j: dict, floor: float, top: float) -> dict[str, Any]:
    axis = j["head"] - j["neck"]
    across = _across(axis)
    necks = []
    for share in (0.2, 0.3, 0.4):
        points = _section(v, tape.neck, j["neck"] + share * axis, across)
        necks.append(girth(points[np.linalg.norm(points, axis=1) < 0.14]))
    scale = (top - j["head"][1]) / 0.22
    skulls = [_cut(v, tape.head, top - t * scale) for t in np.linspace(0.07, 0.11, 4).tolist()]
    return dict(
        neckcircumference=min(necks),
        cervicaleheight=v[tape.landmark["cervicale"], 1] - floor,
        headcircumference=max(map(girth, skulls)),
        headlength=max(np.ptp(points[:, 1]) for points in skulls),
    )
