"""Synthetic depth: from a parametric model to what a real sensor would return."""

from jrecon.synth.example import Example as Example
from jrecon.synth.generate import (
    Source as Source,
    SynthConfig as SynthConfig,
    make_batch as make_batch,
    make_example as make_example,
    make_examples as make_examples,
    make_source as make_source,
)
from jrecon.synth.settings import config_from as config_from, settings as settings
