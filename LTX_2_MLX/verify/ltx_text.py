"""LTX-2's text side from prompt to contexts."""

import shutil

import mlx.core as mx
import numpy as np

from LTX_2_MLX.checkpoints.block_run import BlockRun, whole_states
from LTX_2_MLX.checkpoints.gemma3 import TextEncoder, encode_prompts, load_gemma
from LTX_2_MLX.checkpoints.gemma4 import load_gemma4
from LTX_2_MLX.checkpoints.load import load
from LTX_2_MLX.checkpoints.reader import Checkpoint
from LTX_2_MLX.models.ltx.text_features import TextFeatures
from LTX_2_MLX.verify.case import Case, Outputs


def gemma(case: Case, run: BlockRun | None = None) -> Outputs:
    """Prompts through tokenizer, language model, feature extractor and connectors.

    ``run`` are the layers of each process, where several share them.
    """
    folder = case.scratch / "gemma"
    folder.mkdir()
    for file in case.path.glob("*.json"):
        if file.name != "case.json":
            shutil.copy(file, folder)
    checkpoint = Checkpoint(case.write_checkpoint("gemma/model.safetensors"))
    return _outputs(case, load_gemma(folder, dtype=case.text_dtype, run=run), checkpoint, run)


def gemma4(case: Case, run: BlockRun | None = None) -> Outputs:
    """The same with the text encoder of 2.5, whose tokenizer is in its file."""
    checkpoint = case.checkpoint()
    return _outputs(case, load_gemma4(checkpoint.path, dtype=case.text_dtype, run=run), checkpoint, run)


def _outputs(case: Case, encoder: TextEncoder, checkpoint: Checkpoint, run: BlockRun | None) -> Outputs:
    prompts = case.parameter("prompts")
    length = case.parameter("max_length")
    ids, _ = encoder.tokenizer(prompts, length)
    states, mask = encode_prompts(encoder, prompts, max_length=length)
    if run is not None:
        states = whole_states(run, states)
    video, audio = load(TextFeatures, checkpoint, dtype=case.text_dtype)(states, mask)
    return {
        "input_ids": ids,
        "attention_mask": np.array(mask),
        "hidden_states": mx.stack(states, axis=-1),
        "video_context": video,
        "audio_context": audio,
    }
