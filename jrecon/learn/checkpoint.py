"""Checkpoints of a training run: written while training goes on, verified when read.

Orbax writes and commits them; it does not notice damaged arrays, so a checksum of every array is
kept beside them. A checkpoint that is damaged or half-written is put aside for the one before it,
with a message. Arrays come back on whatever devices the reader has.
"""

from __future__ import annotations

import logging
import shutil
import warnings
import zlib
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

Tree = Any
_STATE, _META = "state", "meta"


class Checkpoints:
    """The checkpoints of one run, in one folder."""

    def __init__(self, folder: str | Path, *, keep: int = 2) -> None:
        logging.getLogger("absl").setLevel(logging.ERROR)
        self.folder = Path(folder).absolute()
        options = ocp.CheckpointManagerOptions(
            max_to_keep=keep, cleanup_tmp_directories=True, enable_async_checkpointing=True
        )
        self._manager = ocp.CheckpointManager(
            self.folder, options=options, item_names=(_STATE, _META)
        )

    def save(self, step: int, state: Tree, meta: dict[str, Any], *, wait: bool = False) -> None:
        """Keep the state of a step (arrays in dicts and tuples) and a note in plain JSON.

        Returns as soon as the state may be changed again; `wait` for the disk.
        """
        if step in self._manager.all_steps():
            return
        note = {"note": meta, "checksums": checksums(state)}
        saved = self._manager.save(
            step,
            args=ocp.args.Composite(
                **{_STATE: ocp.args.StandardSave(state), _META: ocp.args.JsonSave(note)}
            ),
        )
        if not saved:
            raise RuntimeError(
                f"{self.folder}: step {step} was not saved; there are later checkpoints "
                f"({self._manager.all_steps()}). Move those away, or use another folder."
            )
        if wait:
            self._manager.wait_until_finished()

    def latest(self, like: Tree) -> tuple[int, Tree, dict[str, Any]] | None:
        """The newest sound checkpoint (step, state, note), or None if there is none at all.

        Args:
          like: a state of the same structure: its arrays tell shapes, types and devices.

        Raises:
          ValueError: there are checkpoints, but none is sound; or they are of another structure.
        """
        damaged: list[str] = []
        for step in sorted(self._manager.all_steps(), reverse=True):
            try:
                state, note = self._read(step, like)
            except Exception as error:  # What orbax raises on damaged files is not documented.
                damaged.append(f"step {step}: {_first_line(error)}")
                continue
            wrong = [
                name
                for name, sum_ in checksums(state).items()
                if note["checksums"].get(name) != sum_
            ]
            if not wrong:
                if damaged:
                    aside = self._put_aside(step)
                    warnings.warn(
                        f"{self.folder}: passed over damaged checkpoints ({'; '.join(damaged)}), "
                        f"which are now in {aside}; going on from step {step}.",
                        stacklevel=2,
                    )
                return step, state, note["note"]
            damaged.append(f"step {step}: {wrong[0]} does not have its checksum")
        if damaged:
            raise ValueError(
                f"{self.folder}: no checkpoint can be used ({'; '.join(damaged)}). If the network "
                "or the class changed, use another folder; otherwise delete this one."
            )
        return None

    def _put_aside(self, sound: int) -> Path:
        """Checkpoints after a step to another folder: orbax saves no step before the newest one."""
        aside = self.folder.with_name(f"{self.folder.name}.damaged")
        if jax.process_index() == 0:
            aside.mkdir(exist_ok=True)
            for step in self._manager.all_steps():
                if step > sound:
                    target = aside / str(step)
                    if target.exists():
                        shutil.rmtree(target)
                    (self.folder / str(step)).rename(target)
        if jax.process_count() > 1:
            multihost_utils.sync_global_devices("checkpoints put aside")
        self._manager.reload()
        return aside

    def newest(self) -> int | None:
        """The step of the newest checkpoint."""
        return max(self._manager.all_steps(), default=None)

    def _read(self, step: int, like: Tree) -> tuple[Tree, dict[str, Any]]:
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        with warnings.catch_warnings():
            # It warns of other shardings, which is the point.
            warnings.simplefilter("ignore")
            found = self._manager.restore(
                step,
                args=ocp.args.Composite(
                    **{_STATE: ocp.args.StandardRestore(abstract), _META: ocp.args.JsonRestore()}
                ),
            )
        return found[_STATE], found[_META]

    def close(self) -> None:
        """Wait for what is being written."""
        self._manager.close()


def checksums(state: Tree) -> dict[str, str]:
    """CRC-32 of every array with its shape and type, by its path."""
    found = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(state):
        array = np.ascontiguousarray(leaf)
        head = f"{array.shape}{array.dtype}".encode()
        found[jax.tree_util.keystr(path)] = f"{zlib.crc32(array.tobytes(), zlib.crc32(head)):08x}"
    return found


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else ''}"[
        :160
    ]
