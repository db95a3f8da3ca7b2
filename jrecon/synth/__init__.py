"""Synthetic depth: from a parametric model to what a real sensor would return."""

from jrecon.synth.example import Example as Example
