"""tux_paint_stamps: 950 pictures of a children's drawing program, named aloud in many languages."""
