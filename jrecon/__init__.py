"""One depth map in, a posed parametric 3D model out.

The public names, grouped by stage. They are imported on first use, so that `import jrecon` (and
with it `jrecon --help`) does not wait for JAX.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jrecon.geometry.camera import (
        Camera as Camera,
        make_camera as make_camera,
        project as project,
        unproject as unproject,
    )
    from jrecon.io.export import (
        export_glb as export_glb,
        export_obj as export_obj,
        export_ply as export_ply,
    )
    from jrecon.model.build import build_model as build_model, read_meshes as read_meshes
    from jrecon.model.formats import load_model as load_model, save_model as save_model
    from jrecon.model.jacobian import jacobian as jacobian
    from jrecon.model.parametric import (
        ParametricModel as ParametricModel,
        Params as Params,
        Posed as Posed,
        at_level as at_level,
        make_model as make_model,
        pose as pose,
        zeros as zeros,
    )
    from jrecon.programs import keep_compiled as keep_compiled
    from jrecon.reconstructor import (
        Reconstruction as Reconstruction,
        Reconstructor as Reconstructor,
        load as load,
        reconstruct as reconstruct,
        start_track as start_track,
        track as track,
    )

__version__ = "0.1.0"

_STAGES = {
    "jrecon.geometry.camera": "Camera make_camera project unproject",
    "jrecon.model.parametric": "ParametricModel Params Posed at_level make_model pose zeros",
    "jrecon.model.jacobian": "jacobian",
    "jrecon.model.formats": "load_model save_model",
    "jrecon.model.build": "build_model read_meshes",
    "jrecon.io.export": "export_glb export_obj export_ply",
    "jrecon.programs": "keep_compiled",
    "jrecon.reconstructor": "Reconstruction Reconstructor load reconstruct start_track track",
}
_HOME = {name: module for module, names in _STAGES.items() for name in names.split()}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'jrecon' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
