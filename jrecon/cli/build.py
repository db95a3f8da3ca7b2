"""`jrecon build-model`: a statistical model of a class from registered meshes."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from jrecon.cli.command import Command, Report, require_free, require_suffix


@dataclasses.dataclass(frozen=True, kw_only=True)
class BuildModel(Command):
    """Build a parametric model of a class from registered meshes (one topology).

    Example: jrecon build-model scans/*.ply --out class.npz
    """

    meshes: Annotated[Positional[tuple[Path, ...]], arg(metavar="MESHES...")]
    """Meshes of instances of the class: .ply, .obj, .stl, .glb, .gltf, .off."""
    out: Path
    """Model file to write, .npz."""
    report: Annotated[Path | None, arg(metavar="FILE")] = None
    """Write the whole report there (.json), and a picture of the components beside it (.png)."""
    skeleton: Annotated[Path | None, arg(metavar="FILE")] = None
    """Joint tree, skin and joints for an articulated class: .json or .npz."""
    align: Literal["rigid", "similarity", "none"] = "rigid"
    """What is removed before shapes are compared: position and orientation; size, too; nothing."""
    components: Annotated[int | None, arg(metavar="INT")] = None
    """Number of shape components; as many as explain `variance` if left out."""
    variance: float = 0.98
    """Part of the variance to explain."""
    unit: Annotated[float | None, arg(metavar="METRES")] = None
    """Length of the files' unit in metres (0.001 for millimetres)."""
    name: str = "class"
    """Name of the class, kept in the model."""
    license: str = "unknown"
    """Licence of the model, kept in it."""
    provenance: str = ""
    """Where the meshes are from, kept in the model."""
    overwrite: bool = False
    """Replace existing files."""

    def run(self) -> Report:
        from jrecon.model.build import build_model, read_meshes, read_skeleton
        from jrecon.model.formats import save_model

        require_suffix(self.out, (".npz",))
        require_free(self.out, self.overwrite)
        if self.report is not None:
            require_suffix(self.report, (".json",))
            require_free(self.report, self.overwrite)
            require_free(self.report.with_suffix(".png"), self.overwrite)
        meshes = read_meshes(self.meshes, unit=self.unit)
        skeleton = None
        if self.skeleton is not None:
            skeleton = read_skeleton(self.skeleton, meshes.names, unit=self.unit)
        model, report = build_model(
            meshes,
            align_by=self.align,
            skeleton=skeleton,
            components=self.components,
            variance=self.variance,
            name=self.name,
            license=self.license,
            provenance=self.provenance,
        )
        save_model(self.out, model, overwrite=self.overwrite)
        written = [self.out]
        if self.report is not None:
            from jrecon.io.build_report import write_report

            written += write_report(report, model, self.report, overwrite=self.overwrite)
        return {
            "written": [str(path) for path in written],
            "meshes": len(meshes),
            "vertices": report.num_vertices,
            "faces": report.num_faces,
            "components": report.num_components,
            "variance_explained": float([0.0, *report.explained][report.num_components]),
            "held_out_rms_mm": {
                str(row.components): round(row.rms_mm, 4) for row in report.held_out
            },
            "warnings": list(report.warnings),
        }
