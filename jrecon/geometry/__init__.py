"""Rotations, cameras and triangle meshes."""
