"""Where captions come from: lists, texts beside pictures, the pictures' own fields, data sets."""
