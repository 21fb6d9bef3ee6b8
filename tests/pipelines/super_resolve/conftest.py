from pathlib import Path

import pytest
from tiny_flashvsr import write_decoder, write_flashvsr, write_tiny_autoencoder


@pytest.fixture(scope="session")
def flashvsr(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("flashvsr")
    write_flashvsr(folder)
    write_decoder("light_vae", folder / "lightvaew2_1.safetensors")
    write_decoder("wan_vae_2_1", folder / "Wan2.1_VAE.safetensors")
    for name in ("taew2_1", "lighttaew2_1"):
        write_tiny_autoencoder(folder / f"{name}.safetensors")
    return folder
