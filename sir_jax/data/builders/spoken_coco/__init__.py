"""spoken_coco: COCO's captions read aloud, five or six per photograph."""
