"""A gallery in the vector database Milvus: a server, a cluster, or a local file.

A collection holds one gallery and is called `NAME_image` or `NAME_speech`. Its fields:

  key               hash of the id. Not the id itself, because Milvus copies keys unescaped into
                    filter expressions, where a quote or backslash would break the expression
  id                the item's name in the gallery: a POSIX path
  digest            hash of the vector, so that a second export skips unchanged rows
  vector_<hex>      the vector. <hex> is the fingerprint of the model that made it, so that the
                    collection cannot hold vectors of another model

`uri` is `http://host:19530` for a server or cluster, or a local `*.db` file, which one process at a
time can open.
"""

import contextlib
import hashlib
import logging
import os
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from sir_jax.errors import UserError

BATCH = 1000  # rows in a request; 1 MB of vectors at width 256
MAX_ID = 4096  # bytes
TIMEOUT = 10  # seconds to reach a server
# Index types of a new collection. AUTOINDEX: the server chooses; FLAT: exact; DISKANN: only on
# servers.
INDEXES = ("AUTOINDEX", "FLAT", "IVF_FLAT", "HNSW", "DISKANN")
MAX_K = 16_384  # Milvus's limit on the results of a query
_QUERIES = 1000  # queries in a request
_COLUMN = "vector_"
# Searches see the rows that this client wrote, without waiting for the writes of other clients.
_CONSISTENCY = "Session"


class Upserted(NamedTuple):
    """The outcome of an upsert: the number of rows written and of rows that were unchanged."""

    written: int
    unchanged: int


def export_index(
    ids: Sequence[str],
    vectors: np.ndarray,
    fingerprint: str,
    uri: str,
    name: str,
    of: str,
    *,
    index: str = "AUTOINDEX",
    token: str = "",
) -> Upserted:
    """Write a gallery to a vector database; after an interrupt the same call continues.

    Rows of the database whose ids are not given stay; `RemoteGallery.delete` removes rows.

    Args:
      ids: one id per row, without repetition.
      vectors: float32[G, E], finite; a memory map is read piece by piece.
      fingerprint: the fingerprint of the model that made the vectors.
      uri: `http://host:port` of a Milvus server, or a local `*.db` file.
      name: the gallery's name: letters, digits and underscores.
      of: the kind of the items, "image" or "speech".
      index: the index type of a new collection, one of `INDEXES`.
      token: "user:password" or an API key, if the server requires one.

    Raises:
      UserError: an argument cannot be used, the package or the server is missing, or the
        collection holds another model's vectors.
    """
    vectors = _check_vectors(vectors)
    with RemoteGallery(
        fingerprint, uri, name, of, width=vectors.shape[1], index=index, token=token
    ) as gallery:
        return gallery.upsert(ids, vectors)


class RemoteGallery:
    """A gallery in a vector database; close it, or use it in a `with` statement."""

    def __init__(
        self,
        fingerprint: str,
        uri: str,
        name: str,
        of: str,
        *,
        width: int | None = None,
        index: str = "AUTOINDEX",
        token: str = "",
    ):
        """Open a gallery.

        Args:
          fingerprint: the fingerprint of the model whose vectors are searched or written.
          uri: `http://host:port` of a Milvus server, or a local `*.db` file.
          name: the gallery's name: letters, digits and underscores.
          of: the kind of the items, "image" or "speech".
          width: E; a missing gallery is then created. None: the gallery must exist.
          index: the index type of a new collection, one of `INDEXES`.
          token: "user:password" or an API key, if the server requires one.

        Raises:
          UserError: an argument cannot be used, the package or the server is missing, the
            collection holds another model's vectors, or there is no such gallery.
        """
        if of not in ("image", "speech"):
            raise UserError(f"of={of!r}: give 'image' or 'speech'")
        if not re.fullmatch(r"[A-Za-z_]\w{0,199}", name, re.ASCII):
            raise UserError(f"name {name!r}: start with a letter; use letters, digits, underscores")
        if not re.fullmatch("[0-9a-f]{8,200}", fingerprint):
            raise UserError(f"fingerprint {fingerprint!r} is not that of a model: hexadecimal")
        if index not in INDEXES:
            raise UserError(f"index {index!r}: give one of {', '.join(INDEXES)}")
        self.collection, self.uri = f"{name}_{of}", uri
        self._column = _COLUMN + fingerprint
        self._client = _connect(uri, token)
        try:
            with self._errors():
                if width is not None and not self._client.has_collection(self.collection):
                    self._create(width, index)
                self.width = self._check_collection()
                self._client.load_collection(self.collection)
        except BaseException:
            self.close()
            raise

    def __len__(self) -> int:
        """Return the number of rows."""
        with self._errors():
            # A query with an empty filter, because the collection's statistics are out of date.
            answer = self._client.query(self.collection, filter="", output_fields=["count(*)"])
        return int(answer[0]["count(*)"])

    def __enter__(self) -> "RemoteGallery":
        return self

    def __exit__(self, *exception) -> None:
        self.close()

    def upsert(self, ids: Sequence[str], vectors: np.ndarray) -> Upserted:
        """Write rows, replacing rows of the same ids; unchanged rows are not sent.

        Args:
          ids: n ids, without repetition.
          vectors: float32[n, E], finite.

        Raises:
          UserError: an argument cannot be used, or the server fails.
        """
        vectors = self._check_width(_check_vectors(vectors))
        keys = _keys(ids)
        if len(keys) != len(vectors):
            raise UserError(f"{len(keys)} ids for {len(vectors)} vectors; give one each")
        if len(set(keys)) < len(keys):
            twice = next(i for n, i in enumerate(ids) if i in ids[:n])
            raise UserError(f"id {twice!r} is given twice; ids must differ")
        written = 0
        for start in range(0, len(keys), BATCH):
            part = slice(start, start + BATCH)
            written += self._upsert_batch(keys[part], ids[part], vectors[part], start)
        return Upserted(written, len(keys) - written)

    def delete(self, ids: Sequence[str]) -> None:
        """Remove rows; ids that the gallery does not have are ignored.

        Raises:
          UserError: an id is not text, or the server fails.
        """
        keys = _keys(ids)
        for start in range(0, len(keys), BATCH):
            with self._errors():
                self._client.delete(self.collection, ids=keys[start : start + BATCH])

    def search(self, z: np.ndarray, k: int) -> tuple[list[list[str]], np.ndarray]:
        """Find the rows with the largest inner product with each query.

        Args:
          z: float32[n, E], finite.
          k: most hits per query, 1 to `MAX_K`.

        Returns:
          (n lists of m ids, float32[n, m] scores), best first; m is the largest number of hits of a
          query. An approximate index may return fewer hits for some queries: their lists are padded
          with '' and their scores with -inf.

        Raises:
          UserError: an argument cannot be used, or the server fails.
        """
        z = self._check_width(_check_vectors(z))
        if not np.isfinite(z).all():
            row = int(np.argmin(np.isfinite(z).all(1)))
            raise UserError(f"query {row} is not finite; leave it out")
        if not 1 <= k <= MAX_K:
            raise UserError(f"k is {k}; give 1 to {MAX_K}")
        results = []
        for start in range(0, len(z), _QUERIES):
            with self._errors():
                results += self._client.search(
                    self.collection,
                    list(z[start : start + _QUERIES]),
                    anns_field=self._column,
                    limit=k,
                    search_params={"metric_type": "IP"},
                    output_fields=["id"],
                )
        longest = max((len(hits) for hits in results), default=0)
        ids = [[""] * longest for _ in results]
        scores = np.full((len(results), longest), -np.inf, np.float32)
        for row, hits in enumerate(results):
            for rank, hit in enumerate(hits):
                ids[row][rank] = hit["entity"]["id"]
                scores[row, rank] = hit["distance"]
        return ids, scores

    def close(self) -> None:
        """Close the connection and release the lock of a local file."""
        self._client.close()
        if not _is_server(self.uri):
            from milvus_lite.server_manager import server_manager_instance

            # pymilvus would keep the file's server, and with it the lock, until the process ends.
            server_manager_instance.release_server(self.uri)

    def _create(self, width: int, index: str) -> None:
        from pymilvus import DataType

        schema = self._client.create_schema(auto_id=False)
        schema.add_field("key", DataType.VARCHAR, is_primary=True, max_length=32)
        schema.add_field("id", DataType.VARCHAR, max_length=MAX_ID)
        schema.add_field("digest", DataType.VARCHAR, max_length=32)
        schema.add_field(self._column, DataType.FLOAT_VECTOR, dim=width)
        params = self._client.prepare_index_params()
        params.add_index(self._column, index_type=index, metric_type="IP")
        self._client.create_collection(
            self.collection, schema=schema, index_params=params, consistency_level=_CONSISTENCY
        )

    def _check_collection(self) -> int:
        """Return E; refuse a collection of another model or one that sir_jax did not create."""
        if not self._client.has_collection(self.collection):
            raise UserError(f"{self.uri} has no collection {self.collection}; export the index")
        fields = self._client.describe_collection(self.collection)["fields"]
        columns = {f["name"]: f for f in fields if f["name"].startswith(_COLUMN)}
        if self._column in columns:
            return int(columns[self._column]["params"]["dim"])
        if not columns:
            raise UserError(
                f"{self.uri}: collection {self.collection} is none of ours; give another name"
            )
        theirs, ours = next(iter(columns)).removeprefix(_COLUMN), self._column[len(_COLUMN) :]
        raise UserError(
            f"{self.uri}: collection {self.collection} holds vectors of the model {theirs[:12]}, "
            f"not of {ours[:12]}; use that model, or give another name"
        )

    def _upsert_batch(self, keys: list[str], ids: Sequence[str], vectors, start: int) -> int:
        vectors = np.ascontiguousarray(vectors)
        finite = np.isfinite(vectors).all(1)
        if not finite.all():
            row = start + int(np.argmin(finite))
            raise UserError(f"vector {row} ({ids[row - start]}) is not finite; leave it out")
        digests = [hashlib.blake2b(v.tobytes(), digest_size=16).hexdigest() for v in vectors]
        with self._errors():
            present = self._client.get(self.collection, ids=keys, output_fields=["key", "digest"])
            digest_of = {row["key"]: row["digest"] for row in present}
            rows = [
                {"key": key, "id": name, "digest": digest, self._column: vector}
                for key, name, digest, vector in zip(keys, ids, digests, vectors, strict=True)
                if digest_of.get(key) != digest
            ]
            if rows:
                self._client.upsert(self.collection, rows)
        return len(rows)

    def _check_width(self, vectors: np.ndarray) -> np.ndarray:
        if vectors.shape[1] != self.width:
            raise UserError(
                f"vectors are {vectors.shape[1]} wide, collection {self.collection} {self.width}; "
                "encode both with one model"
            )
        return vectors

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        from pymilvus import MilvusException

        try:
            yield
        except MilvusException as error:
            raise UserError(f"{self.uri}, collection {self.collection}: {_line(error)}") from error


def _connect(uri: str, token: str):
    if not _is_server(uri) and not uri.endswith(".db"):
        raise UserError(f"{uri} is neither http://host:port of a Milvus server nor a local *.db")
    # Otherwise gRPC prints messages about lost connections, which the client reopens.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    try:
        if not _is_server(uri):
            # Imported here because pymilvus's own error message would name another package.
            import milvus_lite  # noqa: F401
        from pymilvus import MilvusClient, MilvusException
    except ImportError as error:
        raise UserError(
            f"{error.name} is not installed; a vector database needs it: "
            "pip install 'sir_jax[vectordb]'"
        ) from error
    # These loggers print tracebacks of errors that are raised anyway, and the server of a local
    # file prints those of calls that only a cluster supports, which the client recovers from.
    for name in ("pymilvus", "milvus_lite", *([] if _is_server(uri) else ["grpc._server"])):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        return MilvusClient(uri=uri, token=token, timeout=TIMEOUT)
    except MilvusException as error:
        remedy = (
            "see that the server runs" if _is_server(uri) else "see that no other process has it"
        )
        raise UserError(f"{uri} cannot be opened ({_line(error)}); {remedy}") from error


def _is_server(uri: str) -> bool:
    return "://" in uri


def _line(error: Exception) -> str:
    text = getattr(error, "message", "") or str(error)
    return (text.splitlines() or [type(error).__name__])[0][:200]


def _keys(ids: Sequence[str]) -> list[str]:
    keys = []
    for name in ids:
        if not isinstance(name, str):
            raise UserError(f"id {name!r} is {type(name).__name__}; give text")
        # A file name that is not UTF-8 contains surrogates, which a database cannot store.
        try:
            data = name.encode()
        except UnicodeEncodeError:
            raise UserError(f"id {name!r} is no UTF-8; rename the file") from None
        if not 1 <= len(data) <= MAX_ID:
            raise UserError(f"id {name[:40]!r} has {len(data)} bytes; give 1 to {MAX_ID}")
        keys.append(hashlib.blake2b(data, digest_size=16).hexdigest())
    return keys


def _check_vectors(vectors: np.ndarray) -> np.ndarray:
    vectors = np.asanyarray(vectors)
    if vectors.dtype != np.float32 or vectors.ndim != 2:
        raise UserError(
            f"vectors are {vectors.dtype} {list(vectors.shape)}; give float32 [rows, width]"
        )
    return vectors
