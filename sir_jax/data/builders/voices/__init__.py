"""voices: recordings of people with their text and without pictures, for pretraining."""
