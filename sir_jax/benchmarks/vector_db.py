"""sir-jax bench vector_db: compare the installed vector databases that have an embedded mode.

Milvus Lite, LanceDB and Qdrant's local mode get the same vectors, in batches. They are searched
with one query at a time and with all at once, exactly and with the usual approximate index. Recall
is measured against a full product in NumPy.
"""

import argparse
import importlib.metadata
import importlib.util
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from sir_jax.benchmarks.timing import OtherLoad
from sir_jax.errors import UserError

NAME = "items"
# Dimension of the subspace that the vectors lie near, as those of a trained model do (of 256
# components) [I]. Vectors in random directions would have no near neighbours to find.
_RANK = 32


class Milvus:
    """Milvus Lite: pymilvus on a local file, served by a thread of this process."""

    modules, packages = ("pymilvus", "milvus_lite"), ("pymilvus", "milvus-lite")
    indexes = ("FLAT", "HNSW")
    cluster = "same client, another URI: Milvus Standalone, Milvus Distributed on Kubernetes"

    def __init__(self, folder: Path, width: int, index: str):
        from pymilvus import DataType, MilvusClient

        self.uri = str(folder / "milvus.db")
        self.client = MilvusClient(uri=self.uri)
        schema = MilvusClient.create_schema(auto_id=False)
        schema.add_field("id", DataType.VARCHAR, is_primary=True, max_length=64)
        schema.add_field("vector", DataType.FLOAT_VECTOR, dim=width)
        params = self.client.prepare_index_params()
        options = {"M": 16, "efConstruction": 200} if index == "HNSW" else {}
        params.add_index("vector", index_type=index, metric_type="IP", params=options)
        self.client.create_collection(NAME, schema=schema, index_params=params)
        self.options = {"ef": 64} if index == "HNSW" else {}

    def upsert(self, ids: list[str], vectors: np.ndarray) -> None:
        """Write rows, replacing rows of the same ids."""
        rows = [{"id": i, "vector": v} for i, v in zip(ids, vectors, strict=True)]
        self.client.upsert(NAME, rows)

    def finish(self) -> None:
        """Bring the index up to date."""
        from pymilvus import MilvusClient

        self.client.flush(NAME)
        # The index is built in the background; until then searches read every row. Only closing
        # the file waits for the index.
        self.close()
        self.client = MilvusClient(uri=self.uri)
        self.client.load_collection(NAME)

    def search(self, queries: np.ndarray, k: int) -> list[list[str]]:
        """Return the ids of the k best for each query."""
        params = {"metric_type": "IP", "params": self.options}
        results = self.client.search(NAME, list(queries), limit=k, search_params=params)
        return [[hit["id"] for hit in hits] for hits in results]

    def close(self) -> None:
        """Close the database."""
        from milvus_lite.server_manager import server_manager_instance

        self.client.close()
        server_manager_instance.release_server(self.uri)


class Lance:
    """LanceDB: tables of columns in files, read in this process."""

    modules, packages = ("lancedb",), ("lancedb",)
    indexes = ("none", "IVF_HNSW_SQ")
    cluster = "tables on s3:// or gs://, any number of readers; servers only in its paid editions"

    def __init__(self, folder: Path, width: int, index: str):
        import lancedb
        import pyarrow

        self.pyarrow, self.index = pyarrow, index
        vector = pyarrow.list_(pyarrow.float32(), width)
        self.schema = pyarrow.schema([("id", pyarrow.string()), ("vector", vector)])
        self.table = lancedb.connect(str(folder)).create_table(NAME, schema=self.schema)

    def upsert(self, ids: list[str], vectors: np.ndarray) -> None:
        """Write rows, replacing rows of the same ids."""
        flat = self.pyarrow.array(np.ascontiguousarray(vectors).reshape(-1))
        columns = [ids, self.pyarrow.FixedSizeListArray.from_arrays(flat, vectors.shape[1])]
        rows = self.pyarrow.table(columns, schema=self.schema)
        merge = self.table.merge_insert("id").when_matched_update_all()
        merge.when_not_matched_insert_all().execute(rows)

    def finish(self) -> None:
        """Bring the index up to date."""
        self.table.optimize()
        if self.index != "none":
            self.table.create_index(metric="dot", index_type=self.index)

    def search(self, queries: np.ndarray, k: int) -> list[list[str]]:
        """Return the ids of the k best for each query."""
        query = self.table.search(queries if len(queries) > 1 else queries[0])
        hits = query.distance_type("dot").select(["id", "_distance"]).limit(k).to_arrow()
        ids = hits["id"].to_pylist()
        if len(queries) == 1:
            return [ids]
        rows: list[list[str]] = [[] for _ in queries]
        for row, name in zip(hits["query_index"].to_pylist(), ids, strict=True):
            rows[row].append(name)
        return rows

    def close(self) -> None:
        """Close the database."""


class Qdrant:
    """Qdrant's local mode: NumPy in this process, always exact."""

    modules, packages = ("qdrant_client",), ("qdrant-client",)
    indexes = ("none",)
    cluster = "same client, another URI: Qdrant server, one or many; ids must be numbers or UUIDs"

    def __init__(self, folder: Path, width: int, index: str):
        from qdrant_client import QdrantClient, models

        self.models, self.client = models, QdrantClient(path=str(folder / "qdrant"))
        config = models.VectorParams(size=width, distance=models.Distance.DOT)
        self.client.create_collection(NAME, vectors_config=config)

    def upsert(self, ids: list[str], vectors: np.ndarray) -> None:
        """Write rows, replacing rows of the same ids."""
        numbers, payloads = [int(i.rpartition("_")[2]) for i in ids], [{"id": i} for i in ids]
        batch = self.models.Batch(ids=numbers, vectors=vectors.tolist(), payloads=payloads)
        self.client.upsert(NAME, points=batch)

    def finish(self) -> None:
        """Bring the index up to date."""

    def search(self, queries: np.ndarray, k: int) -> list[list[str]]:
        """Return the ids of the k best for each query."""
        requests = [
            self.models.QueryRequest(query=query, limit=k, with_payload=True)
            for query in queries.tolist()
        ]
        results = self.client.query_batch_points(NAME, requests)
        return [[point.payload["id"] for point in each.points] for each in results]

    def close(self) -> None:
        """Close the database."""
        self.client.close()


DATABASES = {"milvus": Milvus, "lancedb": Lance, "qdrant": Qdrant}


def make_vectors(count: int, width: int, seed: int) -> np.ndarray:
    """Draw unit vectors near a subspace of dimension `_RANK`.

    Args:
      count: n.
      width: E.
      seed: seed of the vectors; the subspace is always the same.

    Returns:
      float32[n, E].
    """
    rng = np.random.default_rng(seed)
    directions = np.random.default_rng(0).standard_normal((min(_RANK, width), width))
    x = rng.standard_normal((count, len(directions))) @ directions
    x += 0.1 * np.linalg.norm(x, axis=1).mean() / width**0.5 * rng.standard_normal((count, width))
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def measure(database: type, index: str, gallery, queries, k: int, batch: int) -> dict:
    """Write and search one database.

    Args:
      database: one of `DATABASES`.
      index: one of the database's `indexes`.
      gallery: float32[G, E].
      queries: float32[n, E].
      k: results per query.
      batch: rows of an upsert.

    Returns:
      Figures by name: rows per second, milliseconds per query, recall, megabytes.
    """
    ids = [f"item_{i}" for i in range(len(gallery))]
    with tempfile.TemporaryDirectory() as folder:
        db = database(Path(folder), gallery.shape[1], index)
        try:
            start = time.perf_counter()
            for i in range(0, len(gallery), batch):
                db.upsert(ids[i : i + batch], gallery[i : i + batch])
            written = time.perf_counter() - start
            finished = _seconds(db.finish)
            db.search(queries[:1], k)
            results: list[list[str]] = []
            single = _seconds(lambda: results.extend(db.search(q[None], k)[0] for q in queries))
            batched = min(_seconds(lambda: db.search(queries, k)) for _ in range(3))
            size = sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())
        finally:
            db.close()
    exact = np.argsort(-(queries @ gallery.T), axis=1)[:, :k]
    right = sum(
        len({ids[i] for i in row} & set(hits)) for row, hits in zip(exact, results, strict=True)
    )
    return {
        "rows/s": len(gallery) / written,
        "index s": finished,
        "ms/query": 1e3 * single / len(queries),
        "ms batched": 1e3 * batched / len(queries),
        f"recall@{k}": right / exact.size,
        "disk MB": size / 1e6,
    }


def _seconds(function: Callable[[], None]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def _installed() -> dict[str, type]:
    return {
        name: database
        for name, database in DATABASES.items()
        if all(importlib.util.find_spec(module) for module in database.modules)
    }


def main(argv: list[str]) -> int:
    """Run `sir-jax bench vector_db`.

    Args:
      argv: the arguments after the benchmark's name.

    Raises:
      UserError: none of the databases is installed, or an option is wrong.
    """
    parser = argparse.ArgumentParser(
        prog="sir-jax bench vector_db", description=__doc__, allow_abbrev=False
    )
    parser.add_argument("--rows", type=int, default=100_000, help="vectors (default 100000)")
    parser.add_argument("--width", type=int, default=256, help="of a vector (default 256)")
    parser.add_argument("--queries", type=int, default=100, help="default 100")
    parser.add_argument("-k", type=int, default=10, help="results a query (default 10)")
    parser.add_argument("--batch", type=int, default=5_000, help="rows of an upsert (default 5000)")
    parser.add_argument("--json", default="", help="write the figures there as well")
    args = parser.parse_args(argv)
    for option in ("rows", "width", "queries", "k", "batch"):
        if getattr(args, option) < 1:
            raise UserError(f"--{option} is {getattr(args, option)}; give 1 or more")
    installed = _installed()
    if not installed:
        packages = ", ".join("+".join(database.packages) for database in DATABASES.values())
        raise UserError(f"none of {packages} is installed; pip install 'sir_jax[vectordb]'")
    gallery = make_vectors(args.rows, args.width, 1)
    queries = make_vectors(args.queries, args.width, 2)
    print(
        f"{args.rows} x {args.width}, {args.queries} queries, k={args.k}, upserts of {args.batch}"
    )
    load, results = OtherLoad(), []
    for name, database in installed.items():
        version = " ".join(f"{p} {importlib.metadata.version(p)}" for p in database.packages)
        print(f"\n{name}: {version}\n  cluster: {database.cluster}")
        for index in database.indexes:
            figures = measure(database, index, gallery, queries, args.k, args.batch)
            results.append({"database": name, "version": version, "index": index, **figures})
            line = "  ".join(f"{key} {value:.4g}" for key, value in figures.items())
            print(f"  {index:<12}{line}", flush=True)
    share = load.share()
    if share is not None:
        print(f"\nother processes took {100 * share:.0f} % of the machine meanwhile")
    if args.json:
        Path(args.json).write_text(json.dumps(results, indent=2) + "\n")
    return 0
