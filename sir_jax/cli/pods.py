"""sir-jax pods check   --config=configs/FILE.py[:arg] --topology=v5e:4x4 [--slices=N]
sir-jax pods check   --all
sir-jax pods explain --config=configs/FILE.py[:arg] --topology=v5e:4x4 [--slices=N]

`check` compiles the train step, both encoders and the match step of a config with the TPU's own
compiler, no TPU attached, and prints what a chip holds, does and sends; status 1 where a program
does not fit. `--all` does so for every slice that a config under configs/ declares, keeps results
in launch/pods.json, and rewrites the table of launch/README.md. `explain` compiles nothing: it
prints how every array of the state lies on the mesh, and what a step should send.

Options:
  --programs=train,embed,match   which to compile
  --samples=N                    the length bucket; the longest where not given
  --config.any.field=value       as of `sir-jax train`
"""

from pathlib import Path

from sir_jax.cli.options import asks_for_help, print_help
from sir_jax.errors import UserError


def check(argv: list[str]) -> int:
    """Run `sir-jax pods check`.

    Args:
      argv: arguments after the words.

    Returns:
      0; 1 where a program does not fit.

    Raises:
      UserError: on anything the user can mend.
    """
    if asks_for_help(argv):
        return print_help(argv, __doc__)
    from sir_jax.data.media.audio import longest_window
    from sir_jax.pods.programs import NAMES
    from sir_jax.pods.survey import check_config, survey
    from sir_jax.pods.topology import on_cpu

    on_cpu()
    if "--all" in argv:
        rest = [arg for arg in argv if arg != "--all"]
        if rest:
            raise UserError(f"{rest[0]}: --all stands alone")
        fits = survey(Path("configs"), Path("launch/pods.json"), Path("launch/README.md"), NAMES)
        return 0 if fits else 1
    setup, topology, programs, samples = read(argv)
    axes = " x ".join(f"{axis} {size}" for axis, size in setup.mesh.shape.items())
    samples = samples or longest_window(setup.cfg.data)
    print(
        f"{topology.name}: {topology.chips} chips, mesh {axes}, "
        f"batch {setup.cfg.data.batch_size}, clips of {samples / 16_000:g} s",
        flush=True,
    )
    return 1 if check_config(setup, topology, programs, samples)["problems"] else 0


def explain(argv: list[str]) -> int:
    """Run `sir-jax pods explain`; see `check`."""
    if asks_for_help(argv):
        return print_help(argv, __doc__)
    from sir_jax.data.media.audio import longest_window
    from sir_jax.pods.expected import expected_traffic
    from sir_jax.pods.explain_sharding import explain as explained
    from sir_jax.pods.topology import on_cpu

    on_cpu()
    setup, *_, samples = read(argv)
    print(explained(setup))
    expected = expected_traffic(setup, samples or longest_window(setup.cfg.data))
    print(f"a step should send, of whole arrays, {expected.text}")
    return 0


def read(argv: list[str]) -> tuple:
    """Read the options of both.

    Returns:
      The `Setup` on the topology's mesh, the `Topology`, the names of the programs, and the samples
      of a clip, 0 for the longest.

    Raises:
      UserError: on anything the user can mend.
    """
    from sir_jax.config.command_line import parse_options
    from sir_jax.pods.programs import NAMES
    from sir_jax.pods.topology import Topology
    from sir_jax.training.setup import prepare

    defaults = {"topology": "", "slices": "1", "programs": ",".join(NAMES), "samples": ""}
    cfg, options = parse_options(argv, defaults)
    if not options["topology"]:
        raise UserError("give --topology, e.g. --topology=v5e:4x4")
    for name in ("slices", "samples"):
        if options[name] and not (options[name].isdecimal() and int(options[name])):
            raise UserError(f"--{name}={options[name]!r}: give a whole number from 1 up")
    programs = tuple(options["programs"].split(","))
    unknown = [name for name in programs if name not in NAMES]
    if unknown:
        raise UserError(f"--programs: no {unknown[0]!r}; choose among {', '.join(NAMES)}")
    topology = Topology.parse(options["topology"], int(options["slices"]))
    setup = prepare(cfg, topology.mesh(cfg.mesh))
    return setup, topology, programs, int(options["samples"] or 0)
