"""flickr8k_audio: 40,000 read captions of 8,000 Flickr photographs."""
