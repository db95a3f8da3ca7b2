"""Principal components of a population, turned so that the first ones have a meaning.

In units of one standard deviation the components of a population are uncorrelated, and stay so
under any rotation. The rotation chosen here makes coefficient 0 the stature itself, 1 what stature
leaves of the mass, and so on (Gram-Schmidt on the gradients of the measures); the remaining ones
are the principal components of what is left, in order of the surface they move.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np


@dataclasses.dataclass(frozen=True)
class Components:
    """A linear shape space: points = mean + coefficients . basis."""

    mean: np.ndarray
    """(d,) flattened points."""
    basis: np.ndarray
    """(s, d) metres per standard deviation of the population."""

    def coefficients(self, data: np.ndarray) -> np.ndarray:
        """Least-squares coefficients (b, s) of flattened bodies (b, d)."""
        gram = self.basis @ self.basis.T
        return np.linalg.solve(gram, self.basis @ (data - self.mean).T).T

    def points(self, coefficients: np.ndarray) -> np.ndarray:
        """Flattened bodies (b, d)."""
        return self.mean + coefficients @ self.basis


def principal_components(data: np.ndarray, count: int) -> Components:
    """The first `count` components of bodies (b, d), with unit variance each.

    Through the b x b Gram matrix: there are far fewer bodies than coordinates.
    """
    mean = data.mean(0)
    centred = data - mean
    gram = np.zeros((len(data), len(data)))
    for start in range(0, data.shape[1], 4096):
        block = centred[:, start : start + 4096].astype(np.float64)
        gram += block @ block.T
    values, vectors = np.linalg.eigh(gram)
    values, vectors = values[::-1][:count], vectors[:, ::-1][:, :count]
    basis = (vectors.T @ centred) / np.sqrt(len(data))
    return Components(mean.astype(np.float64), _fixed_sign(basis.astype(np.float64)))


def _fixed_sign(basis: np.ndarray) -> np.ndarray:
    """The sign of an eigenvector is arbitrary: make the largest entry positive."""
    largest = np.argmax(np.abs(basis), 1)
    return basis * np.sign(np.take_along_axis(basis, largest[:, None], 1))


def truncation_errors(components: Components, data: np.ndarray, vertices: int, counts) -> dict:
    """Vertex error in millimetres of held-out bodies (b, d) against the number of components."""
    centred = data - components.mean
    result = {}
    for count in counts:
        basis = components.basis[:count]
        unit = basis / np.linalg.norm(basis, axis=1, keepdims=True)
        rest = centred - (centred @ unit.T) @ unit
        error = 1e3 * np.linalg.norm(rest.reshape(len(rest), -1, 3)[:, :vertices], axis=2)
        result[str(count)] = dict(
            mean=round(float(error.mean()), 3),
            rms=round(float(np.sqrt((error**2).mean())), 3),
            p95=round(float(np.percentile(error, 95)), 3),
            max=round(float(error.max()), 2),
        )
    return result


def readable(components: Components, gradients: Sequence[np.ndarray]) -> Components:
    """The same space with its first coefficients along `gradients`, in their order.

    Args:
      components: uncorrelated components of unit variance.
      gradients: (s,) each: how a measure changes with the coefficients. A later one is reduced to
        what the earlier ones do not explain.
    """
    size = len(components.basis)
    leading, _ = np.linalg.qr(np.stack(gradients, 1))
    leading *= np.sign((leading * np.stack(gradients, 1)).sum(0))
    rest = np.eye(size) - leading @ leading.T
    values, vectors = np.linalg.eigh(rest)
    rest = vectors[:, values > 0.5]
    remaining = rest.T @ components.basis
    values, vectors = np.linalg.eigh(remaining @ remaining.T)
    remaining = _fixed_sign(vectors[:, ::-1].T @ remaining)
    return Components(components.mean, np.concatenate([leading.T @ components.basis, remaining]))
