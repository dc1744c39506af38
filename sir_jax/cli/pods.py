"""sir-jax pods check   --config=configs/FILE.py[:arg] --topology=v5e:4x4 [--slices=N]
sir-jax pods check   --all
sir-jax pods explain --config=configs/FILE.py[:arg] --topology=v5e:4x4 [--slices=N]

`check` compiles the train step, both encoders and the match step of a config with the TPU's own
compiler, no TPU attached, and prints what a chip holds, does and sends; status 1 where a program
does not fit. `--all` does so for every slice that a config under configs/ declares, keeps results
in launch/pods.json, and rewrites the table of launch/README.md. `explain` prints how every array
of the state lies on the mesh.

Options:
  --programs=train,embed,match   which to compile
  --samples=N                    the length bucket; the longest where not given
  --config.any.field=value       as of `sir-jax train`
"""

from pathlib import Path

from sir_jax.config.command_line import parse_options
from sir_jax.errors import UserError
from sir_jax.pods.explain_sharding import explain
from sir_jax.pods.programs import NAMES
from sir_jax.pods.survey import check_config, survey
from sir_jax.pods.topology import Topology, on_cpu
from sir_jax.training.setup import prepare


def main(argv: list[str]) -> int:
    """Run the verb `pods`.

    Args:
      argv: arguments after the verb.

    Returns:
      0; 1 where a program does not fit.

    Raises:
      UserError: on anything the user can mend.
    """
    if not argv or "--help" in argv or "-h" in argv:
        print(__doc__.strip())
        return 0 if argv else 2
    action, *rest = argv
    if action not in ("check", "explain"):
        raise UserError(f"no action {action!r} of `sir-jax pods`; choose check or explain")
    on_cpu()
    if action == "check" and "--all" in rest:
        rest.remove("--all")
        if rest:
            raise UserError(f"{rest[0]}: --all stands alone")
        fits = survey(Path("configs"), Path("launch/pods.json"), Path("launch/README.md"), NAMES)
        return 0 if fits else 1
    defaults = {"topology": "", "slices": "1", "programs": ",".join(NAMES), "samples": "0"}
    cfg, options = parse_options(rest, defaults)
    if not options["topology"]:
        raise UserError("give --topology, e.g. --topology=v5e:4x4")
    for name in ("slices", "samples"):
        if not options[name].isdecimal():
            raise UserError(f"--{name}={options[name]!r}: give a number")
    wanted = options["programs"].split(",")
    unknown = [name for name in wanted if name not in NAMES]
    if unknown:
        raise UserError(f"--programs: no {unknown[0]!r}; choose among {', '.join(NAMES)}")
    topology = Topology.parse(options["topology"], int(options["slices"]))
    setup = prepare(cfg, topology.mesh(cfg.mesh))
    if action == "explain":
        print(explain(setup))
        return 0
    axes = " x ".join(f"{axis} {size}" for axis, size in setup.mesh.shape.items())
    samples = int(options["samples"]) or max(cfg.data.buckets)
    print(
        f"{topology.name}: {topology.chips} chips, mesh {axes}, batch {cfg.data.batch_size}, "
        f"clips of {samples / 16_000:g} s",
        flush=True,
    )
    return 1 if check_config(setup, topology, tuple(wanted), samples)["problems"] else 0
