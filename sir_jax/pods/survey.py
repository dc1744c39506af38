"""Check all configs on the pods that they declare, and write a table of the results.

A config file declares its pods as `PODS` and takes each of them as its argument `pod`. Results are
stored in a JSON file, so that an interrupted survey can be continued. A config is checked again if
its fields, the code or the compilers have changed; a program is compiled again if it lowers to
another text.
"""

import dataclasses
import hashlib
import importlib.metadata
import json
from pathlib import Path
from typing import Any

from sir_jax.config.command_line import load_config, load_module
from sir_jax.config.compare import to_json
from sir_jax.data.media.audio import longest_window
from sir_jax.errors import UserError
from sir_jax.pods import program_report, programs
from sir_jax.pods.topology import GIB, Topology
from sir_jax.runtime.files import write_json, write_text
from sir_jax.training.setup import Setup, prepare

BEGIN, END = "<!-- pods table: begin -->", "<!-- pods table: end -->"

# The rooms whose code determines the programs.
_ROOMS = ("config", "models", "losses", "objective", "runtime", "training", "inference", "pods")


def declared(folder: Path) -> list[tuple[str, Topology]]:
    """Return (config with its argument, topology) for every pod that a folder's configs declare."""
    pods = []
    for path in sorted(folder.glob("*.py")):
        for pod in getattr(load_module(str(path)), "PODS", ()):
            pods.append((f"{path.as_posix()}:pod={pod}", Topology.parse(pod)))
    if not pods:
        raise UserError(f"{folder} holds no config that declares PODS; run this at the root")
    return pods


def survey(folder: Path, store: Path, page: Path, names: tuple[str, ...]) -> bool:
    """Check all declared pods, store the results and rewrite the table.

    Args:
      folder: the folder of the configs.
      store: the JSON file of the results.
      page: the page whose table, between its two marks, is rewritten.
      names: the programs to check, of `programs.NAMES`.

    Returns:
      Whether all programs passed.

    Raises:
      UserError: the page has no marks, or there is no TPU compiler.
    """
    split_page(page)
    kept = json.loads(store.read_text()) if store.exists() else {}
    programs_of_all = [p for row in kept.values() for p in row["programs"].values()]
    known = {fields["text"]: fields for fields in programs_of_all if "text" in fields}
    rows = []
    for spec, topology in declared(folder):
        cfg = load_config(spec)
        key = result_key(cfg, topology, names)
        if kept.get(spec, {}).get("key") != key:
            print(f"{spec} on {topology.name}", flush=True)
            setup = prepare(cfg, topology.mesh(cfg.mesh))
            row = check_config(setup, topology, names, known=known)
            row["problems"] += _traffic_problems(row)
            kept[spec] = {"key": key, **row}
            write_json(store, kept, indent=1)
        rows.append((spec, topology, kept[spec]))
        before, after = split_page(page)
        write_text(page, f"{before}{BEGIN}\n{table(rows)}\n{END}{after}")
    bad = [spec for spec, _, row in rows if row["problems"]]
    print(f"{page}: {len(rows)} rows, with a problem: {', '.join(bad) or 'none'}", flush=True)
    return not bad


def result_key(cfg, topology: Topology, names: tuple[str, ...]) -> str:
    """Return a hash of what a result depends on: config, topology, programs, code, compilers."""
    digest = hashlib.sha256()
    plain = [to_json(cfg), topology.name, names, _versions("jax", "libtpu", "flax", "optax")]
    digest.update(json.dumps(plain, sort_keys=True).encode())
    for room in _ROOMS:
        for path in sorted((Path(__file__).parent.parent / room).glob("*.py")):
            digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()


def check_config(
    setup: Setup,
    topology: Topology,
    names: tuple[str, ...],
    samples: int = 0,
    known: dict[str, dict] | None = None,
) -> dict[str, Any]:
    """Compile the programs of a config for a topology; print and return the results.

    Args:
      setup: the config on the topology's mesh.
      topology: the topology to compile for.
      names: the programs to compile, of `programs.NAMES`.
      samples: the length of the bucket; 0 for the longest one.
      known: results by `program_digest`. Programs in it are not compiled again, whichever config
        they came from; new results are added to it.
    """
    cfg, known = setup.cfg, {} if known is None else known
    samples = samples or longest_window(cfg.data)
    result: dict[str, Any] = {
        "batch": cfg.data.batch_size,
        "mesh": "x".join(map(str, setup.mesh.shape.values())),
        "seconds": samples / 16_000,
        "programs": {},
        "problems": [],
    }
    for program in programs.select_programs(setup, names, samples):
        lowered = program.lower()
        text = program_digest(lowered.as_text(), topology)
        try:
            if text in known:
                print(f"{program.name}: as before", flush=True)
            else:
                known[text] = _compiled(setup, program, lowered, topology, samples) | {"text": text}
            fields = known[text]
        except UserError as error:
            fields = {"problems": [str(error)]}
        if program.name == "train" and "peak" in fields:
            expected = program_report.expected_traffic(setup, samples)
            fields |= {"by_hand": expected._asdict(), "by_hand_total": expected.total}
        if "peak" in fields:
            result["programs"][program.name] = fields
        result["problems"] += fields["problems"]
    for problem in result["problems"]:
        print(f"  {problem}", flush=True)
    return result


def _traffic_problems(row: dict) -> list[str]:
    """Return a message if the train step's traffic differs from the expected by over a tenth."""
    train = row["programs"].get("train")
    if train is None:
        return []
    sent = sum(one["payload"] * one["times"] for one in train["collectives"])
    if abs(sent / train["by_hand_total"] - 1) <= 0.1:
        return []
    return [f"train sends {sent / 1e6:.1f} MB, expected {train['by_hand_total'] / 1e6:.1f} MB"]


def _compiled(setup, program, lowered, topology: Topology, samples: int) -> dict[str, Any]:
    report = program_report.check_program(program, lowered, topology, setup.mesh)
    print("\n".join(program_report.describe(report, topology)), flush=True)
    bound = program_report.roofline(report, topology)
    fields = dataclasses.asdict(report) | {
        "step_ms": 1e3 * bound.step,
        "utilisation": bound.utilisation,
        "peak": report.peak,
        "problems": program_report.problems(setup, report, topology),
    }
    if program.name == "train":
        print(program_report.describe_traffic(setup, samples, report), flush=True)
    return fields


def _versions(*names: str) -> list[str]:
    return [importlib.metadata.version(name) for name in names]


def program_digest(text: str, topology: Topology) -> str:
    """Return a hash of what a compiled program depends on.

    Args:
      text: text of the lowered program.
      topology: the topology to compile for.
    """
    plain = json.dumps([text, topology.name, _versions("jax", "libtpu")])
    return hashlib.sha256(plain.encode()).hexdigest()


def table(rows: list[tuple[str, Topology, dict]]) -> str:
    """Return a Markdown table of results."""
    lines = [
        "| config | slice | chips | batch | train: GiB a chip | of it | GB moved, of main memory | "
        "GB sent, whole arrays | expected | at least ms a step | of peak at most | "
        "embed, match: GiB | compiled in s |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for spec, topology, row in rows:
        name = Path(spec.partition(":")[0]).stem
        results, head = row["programs"], f"| `{name}` | {topology.name} | {topology.chips} |"
        if "train" not in results:
            lines.append(f"{head} {row['batch']} | {'; '.join(row['problems'])} | | | | | | | | |")
            continue
        train = results["train"]
        sent = sum(one["payload"] * one["times"] for one in train["collectives"])
        others = ", ".join(f"{results[p]['peak'] / GIB:.1f}" for p in results if p != "train")
        seconds = ", ".join(f"{results[p]['compile_seconds']:.0f}" for p in results)
        lines.append(
            f"{head} {row['batch']:,} | {train['peak'] / GIB:.1f} of {topology.chip.hbm / GIB:g} | "
            f"{100 * train['peak'] / topology.chip.hbm:.1f} % | {_moved_text(train)} | "
            f"{sent / 1e9:.2f} | "
            f"{train['by_hand_total'] / 1e9:.2f} | {train['step_ms']:.0f} | "
            f"{100 * train['utilisation']:.0f} % | {others} | {seconds} |"
        )
    return "\n".join(lines)


def _moved_text(train: dict) -> str:
    """Return the GB that a step moves, and of them those of the chip's main memory if known."""
    moved = [train["hbm_bytes"]]
    if train.get("traffic"):
        moved.append(sum(train["traffic"][2].values()))  # a `Traffic`; stored as JSON, a list
    return ", ".join(f"{size / 1e9:.0f}" for size in moved)


def split_page(page: Path) -> tuple[str, str]:
    """Return the text before and after the table of a page.

    Raises:
      UserError: the page has no marks for the table.
    """
    text = page.read_text()
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise UserError(f"{page} has no lines {BEGIN} and {END}; put them where the table goes")
    return before, after
