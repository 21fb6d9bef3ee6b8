"""Video, image and audio files to streams of frames, and back."""
