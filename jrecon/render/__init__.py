"""Depth rendering of triangle meshes: exact, batched, differentiable."""

from jrecon.render.depth import View as View, render as render
from jrecon.render.rasterize import Fragments as Fragments, rasterize as rasterize
