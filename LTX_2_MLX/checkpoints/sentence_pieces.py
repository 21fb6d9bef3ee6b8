"""Gemma's tokenizer from a SentencePiece model, which the single files of ComfyUI hold."""

import re
from collections.abc import Sequence
from itertools import groupby
from typing import Any

from sentencepiece import SentencePieceProcessor

# ``<image_soft_token>`` follows the pieces of Gemma 3; its SentencePiece model does not have it.
_PIECES = 262_144
_AFTER_PIECES = {"<image_soft_token>": _PIECES}
# Special tokens of the published tokenizer that are ordinary symbols of the SentencePiece model.
_TURNS = ("<start_of_turn>", "<end_of_turn>")
_SPACE = "▁"
_BYTE = re.compile("<0x([0-9A-F]{2})>")


class Pieces:
    """Token ids of a text.

    Attributes:
        ids: ``<bos>``, then those of the text.
    """

    def __init__(self, ids: list[int], names: list[str]):
        self.ids = ids
        self._names = names

    @property
    def offsets(self) -> list[tuple[int, int]]:
        """Where each token begins and ends in the text, in characters; ``<bos>`` in front has none of it."""
        spans = [(0, 0)]
        end = 0
        for name in self._names:
            byte = _BYTE.fullmatch(name)
            begin = end
            # The first byte of a character does not begin with the bits 10; the others share its place.
            end += len(name) if byte is None else int(byte[1], 16) & 0xC0 != 0x80
            spans.append((begin if byte is None else end - 1, end))
        return spans


class PieceTokenizer:
    """A SentencePiece model with the methods of ``tokenizers.Tokenizer`` that are used here.

    As in the published ``tokenizer.json``, the names of control tokens stand for them in a text, and ``<bos>`` is in
    front.
    """

    def __init__(self, model: bytes):
        """Read the contents of ``tokenizer.model``.

        Raises:
            RuntimeError: If it is none.
        """
        self._pieces: Any = SentencePieceProcessor(model_proto=model)
        self._size: int = self._pieces.get_piece_size()
        self._control_ids = dict(_AFTER_PIECES) if self._size == _PIECES else {}
        for number in range(self._size):
            if self._pieces.is_control(number) or self._pieces.is_unknown(number):
                self._control_ids[self._pieces.id_to_piece(number)] = number
        names = sorted(self._control_ids, key=len, reverse=True)
        self._control = re.compile(f"({'|'.join(map(re.escape, names))})")
        self._special = {*self._control_ids.values(), *map(self.token_to_id, _TURNS)}

    def keeps_spaces(self) -> bool:
        """Whether every space of a text is a token's, and none is put in front, as Gemma has it."""
        text = "a  b "
        ids = self._pieces.encode(text)
        return bool(self._pieces.decode(ids) == text and not self._pieces.id_to_piece(ids[0]).startswith(_SPACE))

    def token_to_id(self, token: str) -> int | None:
        """Id of a token; None where there is no such token."""
        number: int = self._pieces.piece_to_id(token)
        return number if self._pieces.id_to_piece(number) == token else self._control_ids.get(token)

    def encode(self, text: str) -> Pieces:
        """Token ids of a text, those of special tokens that it names among them."""
        bos = self.token_to_id("<bos>")
        ids = [] if bos is None else [bos]
        names: list[str] = []
        # Every second part is the name of a control token.
        for number, part in enumerate(self._control.split(text)):
            if number % 2:
                ids.append(self._control_ids[part])
                names.append(part)
            else:
                found = self._pieces.encode(part)
                ids += found
                names += map(self._pieces.id_to_piece, found)
        return Pieces(ids, names)

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool) -> str:
        """The text of token ids; the network has more of them than there are pieces, and these have no text.

        Bytes that are no UTF-8 give one replacement character each, as with ``tokenizers``.
        """
        left_out = self._special if skip_special_tokens else ()
        kept = (number for number in ids if number < self._size and number not in left_out)
        text = ""
        for is_bytes, run in groupby(map(self._pieces.id_to_piece, kept), lambda name: bool(_BYTE.fullmatch(name))):
            names = list(run)
            text += _text_of_bytes(names) if is_bytes else "".join(names).replace(_SPACE, " ")
        return text


def _text_of_bytes(names: list[str]) -> str:
    try:
        return bytes(int(name[1:-1], 16) for name in names).decode("utf-8")
    except UnicodeDecodeError:
        return "\N{REPLACEMENT CHARACTER}" * len(names)
