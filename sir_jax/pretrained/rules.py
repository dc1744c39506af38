"""The rule engine: checkpoint tensors to parameter leaves and back, strict both ways."""

import re
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from sir_jax.errors import UserError


class Transform(NamedTuple):
    """A change of layout and its inverse."""

    to_flax: Callable[[np.ndarray], np.ndarray]
    to_torch: Callable[[np.ndarray], np.ndarray]


KEEP = Transform(lambda x: x, lambda x: x)
LINEAR = Transform(lambda x: x.T, lambda x: x.T)  # [out, in] <-> [in, out]
CONV1D = Transform(lambda x: x.transpose(2, 1, 0), lambda x: x.transpose(2, 1, 0))  # OIW <-> WIO
CONV2D = Transform(lambda x: x.transpose(2, 3, 1, 0), lambda x: x.transpose(3, 2, 0, 1))  # OIHW


class Rule(NamedTuple):
    """One kind of tensor.

    Attributes:
      name: the checkpoint's name, with `{n}` for a number (a layer's).
      path: the leaf's '/'-joined path, with `{n}` or `{n:02d}` for the same number; None drops
        the tensor.
      transform: change of layout.
    """

    name: str
    path: str | None
    transform: Transform = KEEP

    def leaf(self, name: str) -> str | None:
        """Return the path for a checkpoint name that `pattern` matches."""
        number = re.fullmatch(self.pattern, name).groups()
        # The path's own format says how many digits: layers_{n:02d}, but conv_{n}.
        return self.path and self.path.format(n=int(number[0]) if number else 0)

    @property
    def pattern(self) -> str:
        """Return the regex that the whole name must match."""
        return re.escape(self.name).replace(r"\{n\}", r"(\d+)")


def pair(name: str, path: str, norm: bool = False) -> list[Rule]:
    """Return the rules of a weight and its bias: of a norm, or else of a dense layer."""
    weight = Rule(f"{name}.weight", f"{path}/scale") if norm else Rule(
        f"{name}.weight", f"{path}/kernel", LINEAR
    )  # fmt: skip
    return [weight, Rule(f"{name}.bias", f"{path}/bias")]


def to_leaves(
    names: list[str],
    read: Callable[[str], np.ndarray],
    rules: list[Rule],
    shapes: Mapping[str, tuple[int, ...]],
    source: str,
) -> dict[str, np.ndarray]:
    """Turn a checkpoint's tensors into float32 leaves; each tensor and each leaf exactly once.

    Args:
      names: the checkpoint's tensor names.
      read: returns one tensor by name; called once a tensor, so that the file may be lazy.
      rules: the family's table; the first rule that matches a name wins.
      shapes: the expected shape of every leaf, by path.
      source: what to call the checkpoint in errors.

    Returns:
      Leaves by path.

    Raises:
      UserError: naming every unknown, missing, repeated and wrongly shaped tensor together.
    """
    leaves: dict[str, np.ndarray] = {}
    problems: list[str] = []
    for name in sorted(names):
        rule = next((r for r in rules if re.fullmatch(r.pattern, name)), None)
        if rule is None:
            problems.append(f"tensor {name} is unknown")
            continue
        path = rule.leaf(name)
        if path is None:
            continue
        if path not in shapes:
            problems.append(f"tensor {name} has no leaf {path} in this config")
        elif path in leaves:
            problems.append(f"tensor {name} gives leaf {path} a second time")
        else:
            value = rule.transform.to_flax(read(name))
            if value.shape != tuple(shapes[path]):
                problems.append(f"tensor {name} has shape {value.shape}, not {shapes[path]}")
            leaves[path] = np.ascontiguousarray(value, np.float32)
    problems += [f"leaf {path} has no tensor" for path in sorted(set(shapes) - set(leaves))]
    if problems:
        raise UserError(f"{source} does not fit its config: " + "; ".join(problems))
    return leaves


def to_tensors(leaves: Mapping[str, np.ndarray], rules: list[Rule]) -> dict[str, np.ndarray]:
    """Turn leaves back into a checkpoint's tensors, by the first rule that gives each path.

    Args:
      leaves: arrays by path.
      rules: the family's table.

    Raises:
      ValueError: where no rule gives a leaf.
    """
    tensors = {}
    for path, value in leaves.items():
        for rule in rules:
            pattern = rule.path and re.sub(r"\\{n(:02d)?\\}", r"(\\d+)", re.escape(rule.path))
            found = pattern and re.fullmatch(pattern, path)
            if found:
                number = int(found[1]) if found.groups() else 0
                value = rule.transform.to_torch(np.asarray(value, np.float32))
                tensors[rule.name.replace("{n}", str(number))] = np.ascontiguousarray(value)
                break
        else:
            raise ValueError(f"no rule gives leaf {path}")
    return tensors
