"""The config of Gemma 3 12B for files without one: its published values, where all tensors have its shapes."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from LTX_2_MLX.errors import CheckpointError
from LTX_2_MLX.models.interfaces import Header

if TYPE_CHECKING:
    from LTX_2_MLX.checkpoints.gemma3 import GemmaConfig

# ``text_config`` of google/gemma-3-12b-it, config.json; the other fields are the class's defaults.
TEXT_CONFIG: dict[str, Any] = {
    "hidden_size": 3840,
    "intermediate_size": 15_360,
    "num_attention_heads": 16,
    "num_hidden_layers": 48,
    "num_key_value_heads": 8,
    "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
    "sliding_window": 1024,
}


def check_shapes(header: Header, config: "GemmaConfig", parameter_name: Callable[[str], str | None]) -> None:
    """Refuse a language model whose tensors are not those of the published config.

    Args:
        header: Of the text encoder's file.
        config: From ``TEXT_CONFIG``.
        parameter_name: From published names to those of ``Gemma``.

    Raises:
        CheckpointError: If a tensor is missing, has another shape, or belongs to a further layer.
    """
    found = {}
    for name, info in header.tensors.items():
        path = parameter_name(name)
        if path is not None:
            found[path] = info.shape
    expected = _shapes(config)
    further = f"model.layers.{config.num_hidden_layers}."
    for path, shape in expected.items():
        if found.get(path) != shape:
            own = "missing" if path not in found else f"of shape {found[path]}"
            raise CheckpointError(_other_model(f"{path} is {own}, expected {shape}"))
    if any(path.startswith(further) for path in found):
        raise CheckpointError(_other_model(f"there are more than {config.num_hidden_layers} layers"))


def _other_model(reason: str) -> str:
    return (
        f"This text encoder has no config in it, and is no Gemma 3 12B by its tensors ({reason}). Put the config.json "
        f"of its repository beside the file, or use Gemma 3 12B."
    )


def _shapes(config: "GemmaConfig") -> Mapping[str, tuple[int, ...]]:
    width, inner, head = config.hidden_size, config.intermediate_size, config.head_dim
    queries, keys = head * config.num_attention_heads, head * config.num_key_value_heads
    layer: dict[str, tuple[int, ...]] = {
        "self_attn.q_proj": (queries, width),
        "self_attn.k_proj": (keys, width),
        "self_attn.v_proj": (keys, width),
        "self_attn.o_proj": (width, queries),
        "self_attn.q_norm": (head,),
        "self_attn.k_norm": (head,),
        "mlp.gate_proj": (inner, width),
        "mlp.up_proj": (inner, width),
        "mlp.down_proj": (width, inner),
    }
    norms = ("input", "post_attention", "pre_feedforward", "post_feedforward")
    layer |= {f"{name}_layernorm": (width,) for name in norms}
    shapes = {"model.embed_tokens.weight": (config.vocab_size, width), "model.norm.weight": (width,)}
    for number in range(config.num_hidden_layers):
        shapes |= {f"model.layers.{number}.{name}.weight": shape for name, shape in layer.items()}
    return shapes
