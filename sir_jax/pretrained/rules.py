"""The rule engine: checkpoint tensors to parameter leaves and back, strict both ways."""

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import numpy as np

from sir_jax.errors import UserError

Shape = tuple[int, ...]


class Transform(NamedTuple):
    """A change of layout and its inverse.

    Of a rule with several paths, `to_flax` returns a tuple of arrays in their order, and
    `to_torch` takes them as so many arguments.
    """

    to_flax: Callable[[np.ndarray], np.ndarray | tuple[np.ndarray, ...]]
    to_torch: Callable[..., np.ndarray]


KEEP = Transform(lambda x: x, lambda x: x)
LINEAR = Transform(lambda x: x.T, lambda x: x.T)  # [out, in] <-> [in, out]
CONV1D = Transform(lambda x: x.transpose(2, 1, 0), lambda x: x.transpose(2, 1, 0))  # OIW <-> WIO
CONV2D = Transform(lambda x: x.transpose(2, 3, 1, 0), lambda x: x.transpose(3, 2, 0, 1))  # OIHW


class Rule(NamedTuple):
    """One kind of tensor.

    Attributes:
      name: the checkpoint's name, with `{n}` for a number (a layer's), or, where the tensor is
        dropped, `{any}` for any characters.
      path: the leaf's '/'-joined path, with `{n}` or `{n:02d}` for the same number; a tuple of
        them where one tensor holds several leaves; None drops the tensor.
      transform: change of layout.
    """

    name: str
    path: str | tuple[str, ...] | None
    transform: Transform = KEEP

    @property
    def pattern(self) -> str:
        """Return the regex that the whole name must match."""
        return re.escape(self.name).replace(r"\{n\}", r"(\d+)").replace(r"\{any\}", ".*")

    @property
    def templates(self) -> tuple[str, ...]:
        """Return the paths, none where the tensor is dropped."""
        if self.path is None:
            return ()
        return self.path if isinstance(self.path, tuple) else (self.path,)

    def leaves(self, name: str) -> tuple[str, ...]:
        """Return the leaves' paths for a checkpoint name that `pattern` matches."""
        number = re.fullmatch(self.pattern, name).groups()
        # The path's own format says how many digits: layers_{n:02d}, but conv_{n}.
        return tuple(t.format(n=int(number[0]) if number else 0) for t in self.templates)

    def split(self, tensor: np.ndarray) -> tuple[np.ndarray, ...]:
        """Return a tensor as leaves, in the order of `templates`."""
        value = self.transform.to_flax(tensor)
        return value if isinstance(self.path, tuple) else (value,)


class Plan(NamedTuple):
    """Which tensors of a checkpoint to read, and which not.

    Attributes:
      reads: tensor name -> its rule and the paths of its leaves.
      dropped: name of a rule without a path -> the tensors that it drops.
    """

    reads: dict[str, tuple[Rule, tuple[str, ...]]]
    dropped: dict[str, list[str]]


def pair(name: str, path: str, norm: bool = False) -> list[Rule]:
    """Return the rules of a weight and its bias: of a norm, or else of a dense layer."""
    weight = (
        Rule(f"{name}.weight", f"{path}/scale")
        if norm
        else Rule(f"{name}.weight", f"{path}/kernel", LINEAR)
    )
    return [weight, Rule(f"{name}.bias", f"{path}/bias")]


def make_plan(
    tensors: Mapping[str, Shape],
    rules: list[Rule],
    shapes: Mapping[str, Shape],
    source: str,
    prefixes: tuple[str, ...] = (),
) -> Plan:
    """Match a checkpoint's tensors to leaves, each exactly once, before anything is read.

    Args:
      tensors: the shape of every tensor of the checkpoint, by name.
      rules: the family's table; the first rule that matches a name wins.
      shapes: the expected shape of every leaf, by path.
      source: what to call the checkpoint in errors.
      prefixes: what may stand before a name, as a larger model's file has it.

    Raises:
      UserError: naming every unknown, missing, repeated and wrongly shaped tensor together.
    """
    plan = Plan({}, {})
    taken: set[str] = set()
    problems: list[str] = []
    before: Counter[str] = Counter()
    for name in sorted(tensors):
        bare = _strip(name, prefixes)
        rule = next((r for r in rules if re.fullmatch(r.pattern, bare)), None)
        if rule is None:
            problems.append(f"tensor {name} is unknown")
            continue
        paths = rule.leaves(bare)
        if not paths:
            plan.dropped.setdefault(rule.name, []).append(name)
            continue
        before[name.removesuffix(bare)] += 1
        if absent := [p for p in paths if p not in shapes]:
            problems.append(f"tensor {name} has no {_leaf(absent)} in this config")
            continue
        if again := [p for p in paths if p in taken]:
            problems.append(f"tensor {name} gives {_leaf(again)} a second time")
            continue
        taken.update(paths)
        wanted = _tensor_shape(rule, paths, shapes)
        if tuple(tensors[name]) != wanted:
            problems.append(f"tensor {name} has shape {tuple(tensors[name])}, not {wanted}")
        plan.reads[name] = rule, paths
    # A missing tensor is named with the prefix that its neighbours have.
    prefix = before.most_common(1)[0][0] if before else ""
    missing = tensor_names([p for p in shapes if p not in taken], rules, allow_partial=True)
    problems += [f"tensor {prefix}{k} is missing ({_leaf(v[1])})" for k, v in missing.items()]
    if problems:
        raise UserError(f"{source} does not fit its config: " + "; ".join(problems))
    return plan


def _strip(name: str, prefixes: tuple[str, ...]) -> str:
    for prefix in prefixes:
        name = name.removeprefix(prefix)
    return name


def _leaf(paths) -> str:
    return f"{'leaf' if len(paths) == 1 else 'leaves'} {', '.join(paths)}"


def _tensor_shape(rule: Rule, paths: tuple[str, ...], shapes: Mapping[str, Shape]) -> Shape:
    # Views of a single byte: changing their layout costs next to nothing.
    views = (np.broadcast_to(np.zeros((), np.bool_), shapes[path]) for path in paths)
    return rule.transform.to_torch(*views).shape


def read_leaves(plan: Plan, read: Callable[[str], np.ndarray]) -> Iterator[tuple[str, np.ndarray]]:
    """Yield every leaf of a plan: its path, and its value as a contiguous float32 array.

    Args:
      plan: from `make_plan`.
      read: returns one tensor by name; called once a tensor, so that the file may be lazy.
    """
    for name, (rule, paths) in plan.reads.items():
        for path, value in zip(paths, rule.split(read(name)), strict=True):
            yield path, np.asarray(value, np.float32, order="C")


def tensor_names(
    paths, rules: list[Rule], allow_partial: bool = False
) -> dict[str, tuple[Rule, tuple[str, ...]]]:
    """Return the tensors that hold some leaves, by the first rule that gives each path.

    Args:
      paths: of the leaves.
      rules: the family's table.
      allow_partial: accept leaves without the others of their tensor.

    Returns:
      Tensor name -> its rule and the paths of its leaves, in the order of `paths`.

    Raises:
      ValueError: where no rule gives a leaf, or a tensor lacks some of its leaves.
    """
    tensors, wanted = {}, set(paths)
    for path in paths:
        for rule in rules:
            number = _number(rule, path)
            if number is not None:
                together = tuple(t.format(n=number) for t in rule.templates)
                if not allow_partial and not wanted.issuperset(together):
                    raise ValueError(f"leaf {path} lacks its others: {', '.join(together)}")
                tensors[rule.name.replace("{n}", str(number))] = rule, together
                break
        else:
            raise ValueError(f"no rule gives leaf {path}")
    return tensors


def _number(rule: Rule, path: str) -> int | None:
    """Return the `{n}` with which a rule gives a path (0 where it has none), or else None."""
    for template in rule.templates:
        found = re.fullmatch(re.sub(r"\\{n(:02d)?\\}", r"(\\d+)", re.escape(template)), path)
        if found:
            return int(found[1]) if found.groups() else 0
    return None


def tensor_shapes(shapes: Mapping[str, Shape], rules: list[Rule]) -> dict[str, Shape]:
    """Return the shape of every tensor that leaves of these shapes make, by name."""
    names = tensor_names(shapes, rules)
    return {name: _tensor_shape(rule, paths, shapes) for name, (rule, paths) in names.items()}


def to_tensor(rule: Rule, paths: tuple[str, ...], leaves: Mapping[str, np.ndarray]) -> np.ndarray:
    """Turn the leaves that one tensor holds back into it, float32; it may be a view of them.

    Args:
      rule: the tensor's, from `tensor_names`.
      paths: of its leaves, from `tensor_names`.
      leaves: arrays by path; a mapping that reads them only when asked will do.
    """
    return rule.transform.to_torch(*(np.asarray(leaves[path], np.float32) for path in paths))
