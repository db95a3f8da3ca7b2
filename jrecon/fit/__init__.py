"""Refinement: parameters that make the rendered model agree with what a camera saw."""
