"""What sound files hold, checked before a decoder sees them: WAV, Ogg, MPEG, and the rest."""
