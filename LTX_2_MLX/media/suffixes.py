"""Suffixes of the image files that frames are written to, known without an image library."""

# One frame.
STILL_SUFFIXES = (".png", ".jpg", ".jpeg", ".jfif", ".avif", ".tif", ".tiff", ".bmp", ".jp2")
# One frame or a short loop.
LOOP_SUFFIXES = (".webp", ".gif")
IMAGE_OUTPUTS = (*STILL_SUFFIXES, *LOOP_SUFFIXES)
