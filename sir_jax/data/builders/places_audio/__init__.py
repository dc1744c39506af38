"""places_audio: 400,000 spoken descriptions of photographs of places."""
