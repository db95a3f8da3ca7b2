"""Parameters that are changed by hand, with undo and redo: values, never changed in place.

Angles are axis-angle components in radians, as in `Params`; pages show degrees.
"""

from __future__ import annotations

import dataclasses

import jax
import numpy as np

from jrecon.model.parametric import ParametricModel, Params

# Steps that can be undone.
_DEEPEST = 200


@dataclasses.dataclass(frozen=True, eq=False)
class Edits:
    """Where editing began, what came before and after now. Begin with `begin`."""

    start: Params
    now: Params
    past: tuple[Params, ...] = ()
    future: tuple[Params, ...] = ()
    last: str = ""
    """What the newest step changed: further changes of the same thing belong to that step."""


def begin(params: Params) -> Edits:
    """Nothing is changed yet."""
    fixed = jax.tree.map(np.asarray, params)
    return Edits(fixed, fixed)


def change(edits: Edits, what: str, params: Params) -> Edits:
    """The next step. A slider that is dragged is one step, however often it reports.

    Args:
      what: is changed, for example `shape 3`.
    """
    same = what == edits.last
    past = edits.past if same else (*edits.past, edits.now)[-_DEEPEST:]
    return Edits(edits.start, params, past, (), what)


def undo(edits: Edits) -> Edits:
    """Without the newest step; as it is if there is none."""
    if not edits.past:
        return edits
    return Edits(edits.start, edits.past[-1], edits.past[:-1], (edits.now, *edits.future))


def redo(edits: Edits) -> Edits:
    """With the step that was undone last; as it is if there is none."""
    if not edits.future:
        return edits
    past = (*edits.past, edits.now)
    return Edits(edits.start, edits.future[0], past, edits.future[1:])


def reset(edits: Edits) -> Edits:
    """Back to where editing began, as a step that can be undone."""
    return dataclasses.replace(change(edits, "reset", edits.start), last="")


def with_shape(params: Params, component: int, value: float) -> Params:
    """One shape coefficient set."""
    shape = np.array(params.shape, np.float32)
    shape[component] = value
    return dataclasses.replace(params, shape=shape)


def with_angle(params: Params, joint: int, axis: int, angle: float) -> Params:
    """One component of a joint's rotation set, radians."""
    turned = np.array(params.pose, np.float32)
    turned[joint, axis] = angle
    return dataclasses.replace(params, pose=turned)


def with_pose(params: Params, named: np.ndarray) -> Params:
    """All joints set but the root, which keeps its orientation."""
    turned = np.array(named, np.float32)
    turned[0] = np.asarray(params.pose)[0]
    return dataclasses.replace(params, pose=turned)


def shape_label(model: ParametricModel, component: int) -> str:
    """A name where the component has a meaning, else its number."""
    name = model.shape_names[component]
    numbered = name.rsplit("_", 1)
    return f"shape {int(numbered[1])}" if numbered[-1].isdecimal() else name.replace("_", " ")


def joint_label(model: ParametricModel, joint: int) -> str:
    """`left_knee` as `left knee`."""
    return model.joint_names[joint].replace("_", " ")
