"""Parametric models of a class of objects: posing, file formats, building from meshes."""
