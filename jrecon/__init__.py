"""One depth map in, a posed parametric 3D model out."""

__version__ = "0.1.0"
