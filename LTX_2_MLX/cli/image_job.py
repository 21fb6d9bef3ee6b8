"""Upscaling of image files one after another, where one that cannot be done does not stop the others."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from LTX_2_MLX.errors import MediaError
from LTX_2_MLX.pipelines.requests import UpscaleRequest, upscaled_size
from LTX_2_MLX.runtime import launch

if TYPE_CHECKING:
    from LTX_2_MLX.media.image import ImageHeader, StillImage
    from LTX_2_MLX.runtime.runner import StageRunner


@dataclass
class ImageJob:
    """The images of one run.

    Attributes:
        pairs: Each image with the file to write.
        headers: Size of each, in the same order.
        failed: Why each of the other images is not done.
        notes: For the user, before the work.
        metadata: Whether EXIF and resolution are kept.
    """

    pairs: list[tuple[Path, Path]] = field(default_factory=list)
    headers: list["ImageHeader"] = field(default_factory=list)
    failed: dict[Path, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    metadata: bool = True

    @classmethod
    def of_file(cls, own: Any, request: UpscaleRequest) -> "ImageJob":
        """The job of one image.

        Raises:
            MediaError: If it cannot be read, or the result cannot be written.
        """
        job = cls(metadata=own.metadata)
        job.add(own.source, own.output, request)
        return job

    @classmethod
    def of_folder(cls, own: Any, request: UpscaleRequest) -> "ImageJob":
        """The job of a folder; images that a run before has finished are left as they are, unless ``yes``.

        Raises:
            MediaError: If the folder has no image, or is the output itself.
        """
        from LTX_2_MLX.media.image_folder import image_paths

        images, left_out = image_paths(own.source)
        if own.output.exists() and own.output.samefile(own.source):
            raise MediaError(f"{own.output} is the input itself. Give --output another folder.")
        job = cls(metadata=own.metadata)
        job._leave_out(left_out)
        for path, target in target_paths(images, own.output):
            try:
                job.add(path, target, request, finished=not own.yes)
            except MediaError as error:
                job.failed[path] = str(error)
        if num_finished := len(images) - len(job.failed.keys() & set(images)) - len(job.pairs):
            job.notes.append(f"Already in {own.output}: {num_finished} images. Pass --yes to upscale them again.")
        return job

    def _leave_out(self, left_out: dict[Path, str]) -> None:
        """Files that are no still images: those that look like images count as failed, others are named."""
        others = [path.name for path in left_out if not _looks_like_image(path)]
        self.failed = {path: why for path, why in left_out.items() if path.name not in others}
        if others:
            self.notes.append(f"Left out, since they are no images: {', '.join(others)}.")

    def add(self, path: Path, target: Path, request: UpscaleRequest, *, finished: bool = False) -> None:
        """Add an image, unless its result is there and is newer than it (``finished``).

        Raises:
            MediaError: If it cannot be read, or the result cannot be written.
        """
        from LTX_2_MLX.media.image import read_header
        from LTX_2_MLX.media.image_formats import check_image_output

        header = read_header(path)
        size = upscaled_size(header.height, header.width, request.scale)
        check_image_output(target, *size, alpha=header.alpha)
        if finished and _is_finished(path, target, size):
            return
        self.pairs.append((path, target))
        self.headers.append(header)

    def take_those_of_first(self) -> None:
        """Of several machines, do the images that the first one does: it knows which are finished.

        Raises:
            MediaError: If one of them is not here, or cannot be read.
        """
        if launch.RANK is None:
            return
        from LTX_2_MLX.runtime.machines import machines

        wanted = machines().exchange([path.name for path, _ in self.pairs])[0][1]
        found = {pair[0].name: (pair, header) for pair, header in zip(self.pairs, self.headers, strict=True)}
        missing = [name for name in wanted if name not in found]
        if missing:
            raise MediaError(f"{', '.join(missing)} cannot be read here, but on machine 1. Copy the folder from there.")
        self.pairs = [found[name][0] for name in wanted]
        self.headers = [found[name][1] for name in wanted]

    def run(self, request: UpscaleRequest, runner: "StageRunner") -> None:
        """Upscale the images one after another."""
        from LTX_2_MLX.media.image import write_image
        from LTX_2_MLX.pipelines.upscale import upscale_images

        targets: list[Path] = []
        for index, image in enumerate(upscale_images(self._read(targets), request, runner)):
            write_image(image if self.metadata else image.without_metadata(), targets[index])

    def _read(self, targets: list[Path]) -> Iterator["StillImage"]:
        """Images that can be read; the file to write for each is appended to ``targets``."""
        from LTX_2_MLX.media.image import read_image

        for path, target in self.pairs:
            try:
                image = read_image(path)
            except MediaError as error:
                self.failed[path] = str(error)
                continue
            targets.append(target)
            yield image

    def finish(self) -> None:
        """Raise ``MediaError`` if an image could not be done; names each with the reason."""
        if not self.failed:
            return
        reasons = [why if str(path) in why else f"{path}: {why}" for path, why in self.failed.items()]
        if len(reasons) == 1:
            raise MediaError(reasons[0])
        raise MediaError(f"{len(reasons)} images could not be upscaled. {' '.join(reasons)}")


def target_paths(images: list[Path], folder: Path) -> list[tuple[Path, Path]]:
    """Each image with the file to write: its own name, as .png where its format is only read."""
    from LTX_2_MLX.media.image_formats import IMAGE_SUFFIXES

    names = {path.name for path in images}
    pairs = []
    for path in images:
        name = path.name
        if path.suffix.lower() not in IMAGE_SUFFIXES:
            name = f"{path.stem}.png"
            if name in names:
                name = f"{path.name}.png"
            names.add(name)
        pairs.append((path, folder / name))
    return pairs


def _looks_like_image(path: Path) -> bool:
    from LTX_2_MLX.media.image_formats import IMAGE_SUFFIXES, UNREAD_SUFFIXES

    return path.suffix.lower() in (*IMAGE_SUFFIXES, *UNREAD_SUFFIXES)


def _is_finished(path: Path, target: Path, size: tuple[int, int]) -> bool:
    """Whether ``target`` is a whole image of the size that is written, and newer than ``path``."""
    from LTX_2_MLX.media.image import image_size

    if not target.is_file() or target.stat().st_mtime < path.stat().st_mtime:
        return False
    try:
        return image_size(target) == size
    except MediaError:
        return False
