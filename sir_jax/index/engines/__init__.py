"""Ways to search a gallery: exact, FAISS, a vector database."""
