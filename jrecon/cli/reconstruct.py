"""`jrecon reconstruct`: a depth map to a rigged, posed model."""

from __future__ import annotations

import dataclasses
import json
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import Positional, arg

from jrecon.cli.command import Command, Report, require_free, require_suffix

if TYPE_CHECKING:
    import numpy as np

    from jrecon.io.sequence import Frame
    from jrecon.reconstruct import Reconstruction, Reconstructor


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reconstruct(Command):
    """Turn a depth map into a rigged, posed, animatable model.

    The object is found in the image, unless a mask says where it is; its shape and pose are
    predicted by a learned function, and refined until the rendered model agrees with the depth.

    Example: jrecon reconstruct depth.png --camera d435 --out person.glb --preview person.png
    """

    file: Annotated[Positional[Path], arg(metavar="FILE")]
    """Depth map: 16-bit PNG, NPY, NPZ, TIFF, or a point cloud; see docs/inputs.md."""
    camera: Annotated[str | None, arg(metavar="CAMERA")] = None
    """File with intrinsics, `fx,fy,cx,cy`, or the name of a sensor (d435, kinect2, ...)."""
    unit: Annotated[str | None, arg(metavar="UNIT")] = None
    """Of depth: m, mm, tum, or metres for one count; by the format if left out."""
    mask: Annotated[Path | None, arg(metavar="FILE")] = None
    """Where the object is: a grey PNG of the same size, not 0."""
    function: str = "body"
    """What to look for: `body`, or a file that `jrecon train` wrote."""
    out: Annotated[Path, arg(metavar="FILE")] = Path("person.glb")
    """The rigged model, .glb, in front of the camera and facing as it was seen."""
    report: Annotated[Path | None, arg(metavar="FILE")] = None
    """Write what is printed to a file, .json, with all parameters."""
    preview: Annotated[Path | None, arg(metavar="FILE")] = None
    """Draw the depth map, the model over it, their difference, and the model: .png, .jpg."""
    overwrite: bool = False
    """Replace existing files."""

    def run(self) -> Report:
        require_suffix(self.out, (".glb",))
        require_free(self.out, self.overwrite)
        for path, suffixes in ((self.report, (".json",)), (self.preview, (".png", ".jpg"))):
            if path is not None:
                require_suffix(path, suffixes)
                require_free(path, self.overwrite)

        keep_compiled()
        from jrecon.io.export import export_glb
        from jrecon.io.sequence import open_capture
        from jrecon.reconstruct import load, reconstruct

        began = time.perf_counter()
        capture = open_capture(self.file, camera=self.camera, unit=self.unit)
        if len(capture) != 1:
            raise ValueError(
                f"{self.file}: got {len(capture)} frames, need one depth map; name one of them."
            )
        frame = capture.read(0)
        mask, found = self._object(frame)
        read = time.perf_counter()
        recon = load(self.function)
        result = reconstruct(recon, frame.depth, frame.camera, mask)
        report = summary(recon, result, frame, mask)
        done = time.perf_counter()
        report |= {
            "object": found,
            "notes": list(frame.notes),
            "seconds": {"reading": round(read - began, 2), "reconstruction": round(done - read, 2)},
        }
        export_glb(self.out, recon.model, result.params, frame="camera", overwrite=self.overwrite)
        if self.preview is not None:
            from jrecon.pictures import write_image

            write_image(self.preview, draw(recon, result, frame, mask), overwrite=self.overwrite)
        if self.report is not None:
            full = report | {"parameters": parameters(recon, result)}
            part = self.report.with_name(self.report.name + ".part")
            part.write_text(json.dumps(full, indent=2, allow_nan=False) + "\n")
            part.replace(self.report)
        return {"model": str(self.out), **report}

    def _object(self, frame: Frame) -> tuple[np.ndarray, str]:
        """The mask, and how it was come by."""
        import numpy as np

        from jrecon.io.depth import read_mask
        from jrecon.io.segment import find_objects

        if not np.any(frame.depth > 0):
            raise ValueError(
                f"{frame.name}: no pixel has a depth; is it the right file, and the right unit?"
            )
        if self.mask is not None:
            mask = read_mask(self.mask, (frame.camera.width, frame.camera.height))
            return mask, f"given by {self.mask}"
        found = find_objects(frame.depth, frame.camera)
        if not found.segments:
            raise ValueError(
                f"{frame.name}: nothing of the size of a person stands out (0.5 to 2.3 m, at 0.3 "
                "to 6 m). Check --unit and --camera, or say where it is with --mask."
            )
        best = found.segments[0]
        others = len(found.segments) - 1
        return best.mask, (
            f"{best.height_m:.2f} m high at {best.median_depth_m:.2f} m, {best.points} pixels"
            + (f"; {others} more that may be one" if others else "")
        )


def keep_compiled() -> None:
    """Compiled programs are kept on disk, unless the user has said where or that they are not: a
    minute the first time, seconds afterwards."""
    import jax

    if jax.config.values["jax_compilation_cache_dir"] is None:
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        jax.config.update("jax_compilation_cache_dir", str(home / "jrecon" / "jax"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)


def summary(
    recon: Reconstructor, result: Reconstruction, frame: Frame, mask: np.ndarray
) -> dict[str, Any]:
    """What people want to know of a result."""
    import numpy as np

    from jrecon.fit.solve import STATUS
    from jrecon.reconstruct import stature

    fit = result.fit
    agreement = fit.agreement
    return {
        "status": STATUS[int(fit.status)],
        "residual_mm": round(float(agreement.residual_mm), 1),
        "explained": round(float(agreement.inlier_share), 3),
        "overlap": round(float(agreement.overlap), 3),
        "vertex_std_mm": round(1e3 * float(np.mean(fit.vertex_std)), 1),
        "height_m": round(float(stature(recon.model, result.params.shape)), 3),
        "distance_m": round(float(np.linalg.norm(np.asarray(result.joints)[0])), 3),
        "pixels": int(mask.sum()),
        "camera": f"{frame.camera.width} x {frame.camera.height}",
    }


def parameters(recon: Reconstructor, result: Reconstruction) -> dict[str, Any]:
    """All of them, by name, in the frame of the camera."""
    import numpy as np

    model = recon.model
    shape, pose = np.asarray(result.params.shape), np.asarray(result.params.pose)
    return {
        "shape": dict(zip(model.shape_names, map(float, shape), strict=True)),
        "pose": {name: row.tolist() for name, row in zip(model.joint_names, pose, strict=True)},
        "translation": np.asarray(result.params.translation).tolist(),
    }


def draw(
    recon: Reconstructor, result: Reconstruction, frame: Frame, mask: np.ndarray
) -> np.ndarray:
    """Depth with the object's outline bright, model over depth, difference, model from its side."""
    import jax.numpy as jnp
    import numpy as np

    from jrecon.geometry.camera import crop
    from jrecon.pictures import color_map, shade, sheet
    from jrecon.render import render

    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    margin = 10 + len(rows) // 6
    v0, v1 = max(rows[0] - margin, 0), min(rows[-1] + margin, mask.shape[0] - 1)
    u0, u1 = max(columns[0] - margin, 0), min(columns[-1] + margin, mask.shape[1] - 1)
    part = slice(v0, v1 + 1), slice(u0, u1 + 1)
    camera = crop(frame.camera, float(u0), float(v0), int(u1 - u0 + 1), int(v1 - v0 + 1))
    depth, own = frame.depth[part], mask[part]
    low, high = np.percentile(depth[own & (depth > 0)], [2, 98]) + [-0.3, 0.8]
    seen = color_map(-depth, -high, -low, depth > 0)
    dim = np.where(own[..., None], seen, seen // 2 + 100).astype(seen.dtype)
    view = render(result.vertices, recon.model.faces, camera)
    shaded, covered = shade(view), np.asarray(view.mask)
    over = np.where(covered[..., None], shaded, dim)
    gap = np.where(covered & own & (depth > 0), np.asarray(view.depth) - depth, 0.0)
    apart = color_map(gap, -0.1, 0.1, covered & own & (depth > 0))
    middle = result.vertices.mean(axis=0, keepdims=True)
    turn = jnp.array([[0.0, 0.0, 1.0], [0.0, 1.0, 0.0], [-1.0, 0.0, 0.0]])
    side = jnp.matmul(result.vertices - middle, turn.T) + middle
    aside = shade(render(side, recon.model.faces, camera))
    return sheet(
        [dim, over, apart, aside],
        columns=4,
        captions=["depth", "model over it", "difference, +-100 mm", "from the side"],
    )
