"""The work that implementations are timed at: a transformer block or the video decoder, at one size."""

from dataclasses import dataclass

WORKS = ("block20", "block23", "vae20", "vae23")


@dataclass(frozen=True)
class Work:
    """One call of a network with random weights: time and memory depend on shapes alone.

    Attributes:
        name: Of ``WORKS``: block20 or block23, a transformer with the flags of that generation; vae20 or vae23, its
            video decoder.
        shape: Frames, rows and columns of the latent.
        heads: Of the block: 128 features each in the video stream, 64 in the audio stream.
        layers: Blocks.
        text: Text tokens.
        audio: Audio tokens; 0 for a block without an audio stream.
        dtype: Of the weights, by MLX's name.
    """

    name: str
    shape: tuple[int, int, int]
    heads: int = 32
    layers: int = 1
    text: int = 256
    audio: int = 70
    dtype: str = "float32"

    @property
    def is_block(self) -> bool:
        """Whether the work is a transformer block."""
        return self.name.startswith("block")

    @property
    def is_2_3(self) -> bool:
        """Whether the network has the flags of 2.3: gated attention, modulated text."""
        return self.name.endswith("23")

    @property
    def tokens(self) -> int:
        """Video tokens."""
        frames, rows, columns = self.shape
        return frames * rows * columns

    @staticmethod
    def from_json(values: dict) -> "Work":
        """The work that a worker is given on its command line."""
        return Work(**(values | {"shape": tuple(values["shape"])}))
