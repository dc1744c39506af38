"""Convert a released checkpoint to the safetensors that sir_jax and transformers load."""

import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import ml_dtypes
import numpy as np

from sir_jax.errors import UserError, first_few
from sir_jax.pretrained.files import METADATA, SINGLE, Tensors, open_tensors, read_metadata
from sir_jax.pretrained.hub import BIN, BIN_INDEX, find_weights, resolve
from sir_jax.pretrained.load import leaf_shapes, processor_fields, read_spec, write_encoder
from sir_jax.pretrained.pickled import open_pickled
from sir_jax.pretrained.processor import FILE as PREPROCESSOR
from sir_jax.pretrained.rules import Plan, make_plan
from sir_jax.runtime.files import whole_folder

DTYPES = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}
_OURS = {"config.json", SINGLE, PREPROCESSOR}


class Leaves(Mapping):
    """A checkpoint's leaves by path, each read when asked for; the last tensor's are kept."""

    def __init__(self, plan: Plan, tensors: Tensors):
        self._plan, self._tensors = plan, tensors
        self._where = {path: name for name, (_, paths) in plan.reads.items() for path in paths}
        self._last: tuple[str, dict[str, np.ndarray]] = "", {}

    def __getitem__(self, path: str) -> np.ndarray:
        name = self._where[path]
        if self._last[0] != name:
            rule, paths = self._plan.reads[name]
            values = rule.split(self._tensors.read(name))
            self._last = name, dict(zip(paths, values, strict=True))
        return self._last[1][path]

    def __iter__(self) -> Iterator[str]:
        return iter(self._where)

    def __len__(self) -> int:
        return len(self._where)


class Conversion(NamedTuple):
    """What was read and written.

    Attributes:
      family: model_type's rule table, by its module's name.
      tensors: the source's.
      plan: which of them were read, which dropped.
      parameters: how many were written.
      preprocessor: whether the source said how its input is prepared.
    """

    family: str
    tensors: Tensors
    plan: Plan
    parameters: int
    preprocessor: bool


def convert(source: str, folder: Path, dtype: str = "float32") -> Conversion:
    """Write a checkpoint's encoder: config, `model.safetensors`, and the processor's config.

    No more than one tensor is held in memory, besides what PyTorch maps of a `.bin`.

    Args:
      source: as `load` takes it; may have `pytorch_model.bin` in place of safetensors.
      folder: where to write, made where missing.
      dtype: of the weights, float32, float16 or bfloat16.

    Raises:
      UserError: as `load`; on a pickle that holds code; and on weights too large for float16.
    """
    origin = resolve(source)
    family, spec = read_spec(origin, source)
    fields = processor_fields(family, origin)
    try:
        family.preprocessing(fields)
    except UserError as error:
        raise UserError(f"{source}: {error}") from error
    weights = find_weights(origin)
    if weights is None:
        raise UserError(f"{source} has neither {SINGLE} nor {BIN}; get the whole checkpoint")
    tensors = open_pickled(origin) if weights in (BIN, BIN_INDEX) else open_tensors(origin)
    plan = make_plan(tensors.shapes, family.RULES, leaf_shapes(spec), source, family.PREFIXES)
    parameters = write_encoder(folder, spec, Leaves(plan, tensors), DTYPES[dtype])
    if fields:
        (folder / PREPROCESSOR).write_text(json.dumps(fields, indent=2) + "\n")
    name = family.__name__.rpartition(".")[2]
    return Conversion(name, tensors, plan, parameters, bool(fields))


def check_out(out: Path) -> None:
    """Refuse a place that holds anything but a checkpoint that sir_jax wrote.

    Raises:
      UserError: naming what is there.
    """
    if not out.exists():
        return
    if not out.is_dir():
        raise UserError(f"{out} is a file; give a folder")
    names = {path.name for path in out.iterdir()}
    ours = names <= _OURS and (out / SINGLE).is_file()
    if names and not (ours and read_metadata(out / SINGLE).get("writer") == METADATA["writer"]):
        some = first_few(sorted(names), joint=", ")
        raise UserError(
            f"{out} holds files that sir_jax did not write ({some}); give another folder"
        )


@contextlib.contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """Yield a folder to write to, and put it in the place of another once nothing has failed.

    Args:
      out: the place; what `check_out` refuses is left alone.

    Raises:
      UserError: the place is taken or cannot be written to.
    """
    target = out.resolve()
    check_out(target)
    try:
        with whole_folder(target, replace=True) as part:
            yield part
    except OSError as error:
        raise UserError(f"{out} cannot be written: {error}") from error


def summary(source: str, done: Conversion) -> str:
    """Return what was read and what was left out, one line each."""
    files = first_few([path.name for path in done.tensors.files], 2, ", ")
    lines = [
        f"{source}: {done.family}, {files}, {len(done.tensors.shapes)} tensors, "
        f"{done.tensors.bytes / 1e6:,.1f} MB"
    ]
    groups = []
    for rule, names in sorted(done.plan.dropped.items()):
        pattern = rule.replace("{any}", "*").replace("{n}", "*")
        groups.append(f"{pattern} ({len(names)})" if "*" in pattern else pattern)
    count = sum(map(len, done.plan.dropped.values()))
    what = f"left out {count} of them, not the encoder's: {', '.join(groups)}"
    lines.append(what if count else "left out none")
    if not done.preprocessor:
        lines.append(f"no {PREPROCESSOR} there: how its input is prepared is not known")
    return "\n".join(lines)


def compare_with_pytorch(source: str, folder: Path) -> list:
    """Return how far a conversion is from PyTorch on the source, a `Difference` for each output.

    Raises:
      UserError: PyTorch is not installed, or its encoder cannot read the source.
    """
    try:
        from sir_jax.pretrained.verify import compare

        return compare(resolve(source), folder)
    except ImportError as error:
        raise UserError(
            f"the comparison with PyTorch needs {error.name}: pip install 'sir_jax[convert]'"
        ) from error
    except OSError as error:
        why = str(error).splitlines()[0]
        raise UserError(f"transformers cannot read {source}: {why}") from error


def check_equal(source: str, differences: list, bound: float) -> None:
    """Refuse a conversion that gives other numbers than PyTorch.

    Args:
      source: that was converted, for the message.
      differences: of `compare_with_pytorch`.
      bound: the largest relative one that is no mistake, of `verify.BOUNDS`.

    Raises:
      UserError: naming the outputs that differ.
    """
    # Written so that not-a-number fails too.
    wrong = [x.name for x in differences if not x.relative <= bound]
    if wrong:
        raise UserError(
            f"{', '.join(wrong)} of {source} differ from PyTorch's by more than {bound:g}; "
            "nothing was written"
        )
