"""What the tests of `sir-jax data prepare manifest` share."""

import dataclasses
import json

from sir_jax.data.builders.manifest.layout import manifest_layout


def layout_of(manifest):
    """Return the layout of a manifest, published at 16 kHz."""
    return dataclasses.replace(manifest_layout(manifest, "mine", manifest.parent), rate=16_000)


def listed_in(root):
    """Return the lines of the corpus' quarantine."""
    lines = (root / "manifest/mine/quarantine.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]
