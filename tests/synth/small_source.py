"""A source of examples that compiles and runs fast; all tests share its one compilation."""

import dataclasses

from jrecon.synth.devices import SENSORS
from jrecon.synth.generate import Source, SynthConfig, make_source
from jrecon.synth.segmentation import RegionConfig, SegmentConfig
from jrecon.synth.surroundings import SurroundingsConfig
from tests.model.small_models import random_model

# A batch of the size that is compiled.
COUNT = 8
CONFIG = SynthConfig(
    height=20,
    width=24,
    surroundings=SurroundingsConfig(boxes=1, ellipsoids=1, occluders=1),
    regions=RegionConfig(count=1),
)


def small_source() -> Source:
    """All stages and all sensors, of a random triangle soup with seven joints."""
    return make_source(random_model(), CONFIG)


def undisturbed(source: Source) -> Source:
    """The same without surroundings and errors, seen by the ideal sensor. Compiles to the same."""
    config = dataclasses.replace(
        source.config,
        surroundings=dataclasses.replace(CONFIG.surroundings, nothing_rate=1.0),
        regions=dataclasses.replace(CONFIG.regions, rate=0.0),
        segmentation=SegmentConfig(exact_rate=1.0),
    )
    ideal = [float(name == "ideal") for name in SENSORS]
    shares = source.sensors.shares.at[:].set(ideal)
    sensors = dataclasses.replace(source.sensors, shares=shares)
    return dataclasses.replace(source, config=config, sensors=sensors)
