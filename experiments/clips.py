"""Motion clips: which ones a pose prior may learn from, and which are kept for measuring."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from jrecon.model.parametric import ParametricModel
from jrecon.model.retarget import read_cmu, read_deepmimic, retarget

# Never used to learn a prior, or anything from its samples: what is measured on them is new to it.
HELD_OUT = frozenset(
    {
        "basketball_5", "basketball_signal_3", "directing_traffic_4", "jumping_4", "running_5",
        "soccer_3", "walking_5", "walking_17", "walking_22", "walking_24", "walking_30",
        "walking_36", "walking_41", "walking_47", "walking_52",
        "getup_facedown", "dance_a", "punch", "zombie_walk",
    }
)  # fmt: skip
# Those of the held-out clips in which people stoop, kneel, lie, dance or fight.
HARD = frozenset({"getup_facedown", "dance_a", "punch", "jumping_4"})
ANIMALS = "dog3d"


def read_clips(folder: Path, model: ParametricModel) -> dict[str, np.ndarray]:
    """Poses (n, j, 3) of the model in every human clip, within its limits; entry 0 orients the
    body in a frame with y up.

    Args:
      folder: holds `cmu_poses.npz` and `deepmimic/`.
    """
    clips: dict[str, np.ndarray] = {}
    with np.load(folder / "cmu_poses.npz") as stored:
        numbers, names = stored["clip"], [str(name) for name in stored["clip_names"]]
    poses = retarget(read_cmu(folder / "cmu_poses.npz"), model, limit=True).pose
    for index, name in enumerate(names):
        clips[name] = poses[numbers == index]
    skeleton = folder / "deepmimic" / "character_humanoid3d.txt"
    for path in sorted((folder / "deepmimic").glob("humanoid3d_*.txt")):
        name = path.stem.removeprefix("humanoid3d_")
        clips[name] = retarget(read_deepmimic(skeleton, path), model, limit=True).pose
    missing = HELD_OUT - clips.keys()
    if missing:
        raise ValueError(f"{folder}: no clips named {sorted(missing)}, which are to be held out.")
    return clips
