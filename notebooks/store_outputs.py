"""Make the .ipynb files of the scripts beside this one, run, with their outputs stored.

python notebooks/store_outputs.py [NAME ...]

The ablation notebook reads docs/ablations.csv. Change a script, run this, look at the pictures.
"""

import base64
import io
import os
import sys
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient
from PIL import Image

FOLDER = Path(__file__).parent


def smaller(png: str) -> str:
    """Return a picture in base64 with at most 256 colours: a third of the bytes."""
    picture, out = Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB"), io.BytesIO()
    picture.quantize(256).save(out, "PNG", optimize=True)
    return base64.b64encode(out.getvalue()).decode()


def run(script: Path) -> nbformat.NotebookNode:
    """Return a script's notebook with the outputs of a fresh kernel.

    Args:
      script: a percent script.
    """
    notebook = jupytext.read(script)
    NotebookClient(
        notebook,
        timeout=600,
        kernel_name="python3",
        record_timing=False,
        coalesce_streams=True,
        resources={"metadata": {"path": str(FOLDER)}},
    ).execute()
    # What differs from run to run or between machines, and cell ids, which differ every time.
    notebook.metadata["language_info"] = {"name": "python"}
    for number, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{number}"
        for output in cell.get("outputs", ()):
            data = output.get("data", {})
            if "image/png" in data:
                data["image/png"] = smaller(data["image/png"])
                data.pop("text/plain", None)  # "<Figure size ..>"
    return notebook


def main(names: list[str]) -> None:
    """Store the notebooks of these names; all where none is given."""
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    os.environ.setdefault("SIR_JAX_ABLATIONS", str(FOLDER.parent / "docs" / "ablations.csv"))
    scripts = [FOLDER / f"{name}.py" for name in names] or [
        path for path in sorted(FOLDER.glob("*.py")) if path != Path(__file__)
    ]
    for script in scripts:
        path = script.with_suffix(".ipynb")
        nbformat.write(run(script), path)
        print(f"{path.name}: {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main(sys.argv[1:])
