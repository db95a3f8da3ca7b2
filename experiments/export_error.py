"""What a GLB of the body loses: error of a motion against the number of corrective morph targets.

    python experiments/export_error.py

The motion is two seconds of squatting, stepping, reaching and bending of the elbows, at 30 frames
per second, by sinusoids of different phase: knees to 110 degrees, hips to 80, shoulders +-50,
elbows to 110. Writes experiments/results/export_error.json.
"""

from __future__ import annotations

import dataclasses
import json
import tempfile
from pathlib import Path

import numpy as np
from provenance import provenance

from jrecon.io.export import export_glb
from jrecon.model.formats import load_model
from jrecon.model.parametric import ParametricModel, Params, zeros

FRAMES, FPS = 60, 30.0
# Joint, axis, largest angle in degrees, phase in turns.
MOVES = (
    ("left_knee", (1, 0, 0), 110, 0.0),
    ("right_knee", (1, 0, 0), 110, 0.2),
    ("left_hip", (-1, 0, 0), 80, 0.0),
    ("right_hip", (-1, 0, 0), 80, 0.2),
    ("left_shoulder", (0, -0.6, 0.8), 50, 0.4),
    ("right_shoulder", (0, 0.6, -0.8), 50, 0.7),
    ("left_elbow", (0, -1, 0), 110, 0.5),
    ("right_elbow", (0, 1, 0), 110, 0.9),
)


def motion(model: ParametricModel) -> Params:
    """The motion described above, from the pose `stand`."""
    pose = np.tile(np.asarray(model.named_poses["stand"]), (FRAMES, 1, 1))
    turns = np.arange(FRAMES) / FRAMES
    for name, axis, degrees, phase in MOVES:
        swing = 0.5 - 0.5 * np.cos(2 * np.pi * (turns + phase))
        angle = np.radians(degrees) * swing
        pose[:, model.joint_names.index(name)] += angle[:, None] * np.array(axis)
    return dataclasses.replace(zeros(model), pose=pose)


def main() -> None:
    model = load_model("body")
    still = dataclasses.replace(zeros(model), pose=model.named_poses["stand"])
    moving = motion(model)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "body.glb"
        for targets, params in ((0, still), *((n, moving) for n in (0, 1, 2, 4, 8, 16))):
            report = export_glb(
                file, model, params, fps=FPS, corrective_targets=targets, overwrite=True
            )
            row = dataclasses.asdict(report) | dict(megabytes=file.stat().st_size / 1e6)
            rows.append(
                {
                    key: (value if isinstance(value, int) else float(f"{value:.3g}"))
                    for key, value in row.items()
                }
            )
            print(rows[-1])
    result = {**provenance("experiments/export_error.py"), "rows": rows}
    out = Path(__file__).parent / "results" / "export_error.json"
    out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
