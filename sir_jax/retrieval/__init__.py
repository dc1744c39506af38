"""Use a trained retriever: encode, search a folder by voice, draw the result."""
