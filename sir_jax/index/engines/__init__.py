"""Ways to search a gallery: exact, FAISS, a vector database."""

# The values of `Index.way`; `faiss_search` explains them.
WAYS = ("auto", "exact", "ivf", "hnsw")
