"""Contact sheets of examples, one for each sensor, to be looked at.

    python experiments/synth_sheets.py [--out experiments/out] [--count 64] [--size 96]

The depth maps of `count` examples by each sensor, with the outline of the mask in red, beside the
truth that explains them. The same people, poses and viewpoints are seen by all sensors.
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import jrecon
from jrecon.pictures import sheet, write_image
from jrecon.synth.generate import Source, SynthConfig, make_batch, make_source
from jrecon.synth.preview import captions, example_images

BATCH = 16


def only(source: Source, name: str) -> Source:
    """The source with all images taken by one sensor; it runs the same compiled code."""
    shares = jnp.array([float(sensor == name) for sensor in source.config.sensors])
    return dataclasses.replace(source, sensors=dataclasses.replace(source.sensors, shares=shares))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "out")
    parser.add_argument("--count", type=int, default=64)
    parser.add_argument("--size", type=int, default=96)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    model = jrecon.load_model("body", level="2k")
    source = make_source(model, SynthConfig(height=args.size, width=args.size))
    key = jax.random.key(0)
    for name in source.config.sensors:
        starts = range(0, args.count, BATCH)
        parts = [make_batch(only(source, name), key, start, BATCH) for start in starts]
        whole = jax.tree.map(lambda *leaves: np.concatenate(leaves)[: args.count], *parts)
        images = example_images(model, whole, least_pixels=args.size)
        texts = captions(source.config.sensors, whole)
        path = args.out / f"synth_{name}.png"
        drawn = sheet(images, columns=16, captions=texts, title=f"{name}: sensor, truth")
        write_image(path, drawn, overwrite=True)
        coverage = (whole.depth > 0).mean(), whole.mask.mean()
        print(f"{path}: {coverage[0]:.0%} of pixels have depth, {coverage[1]:.0%} are the object's")


if __name__ == "__main__":
    main()
