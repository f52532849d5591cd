"""A tiny random language model in GGUF: it talks noise, but a real server really loads it, samples from it and streams.

The architecture is Llama's, small enough to be written in a moment (0.6 MB). Same seed, same bytes: at temperature 0 it always says
the same. The chat template is ChatML, whose generation prompt ends in a control token, as constrained sampling demands.
"""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np

WIDTH, LAYERS, HEADS, HIDDEN = 64, 2, 4, 128
CONTEXT_TOKENS = 2048
WORDS = """
a about after all also and answer any as at back be because both but by call can come could day do down each even every few find first
for from get give go good great has have he her here him his how i if in into is it its just know large last leave let like line little
long look made make man many may me might more most much must my name never new no not now number of off old on one only or other our
out over own part people place play point read right said same say see she should show side small so some sound still such take tell
than that the their them then there these they thing think this those three through time to too turn two under up us use very want water
way we well went were what when where which while who why will with word work world would write year you your
""".split()  # noqa: SIM905  (a list would be ten times as long)
SIGNS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,:;!?'\"()[]{}<>-_+*/=\\\n"
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def _vocabulary() -> tuple[list[str], list[gguf.TokenType]]:
    """Control tokens, every byte (so that no text is unknown), words, signs."""
    kinds = {"<unk>": gguf.TokenType.UNKNOWN, "<s>": gguf.TokenType.CONTROL}
    kinds |= {"<|im_start|>": gguf.TokenType.CONTROL, "<|im_end|>": gguf.TokenType.CONTROL}
    kinds |= {f"<0x{byte:02X}>": gguf.TokenType.BYTE for byte in range(256)}
    kinds |= {f"\u2581{word}": gguf.TokenType.NORMAL for word in WORDS}  # U+2581 is SentencePiece's space
    kinds |= dict.fromkeys(("\u2581", *SIGNS), gguf.TokenType.NORMAL)
    return list(kinds), list(kinds.values())


def write(path: Path, seed: int = 7) -> None:
    """Write the model to `path`."""
    tokens, kinds = _vocabulary()
    model = gguf.GGUFWriter(str(path), "llama")
    model.add_name("tiny")
    model.add_file_type(gguf.LlamaFileType.ALL_F32)
    model.add_context_length(CONTEXT_TOKENS)
    model.add_embedding_length(WIDTH)
    model.add_block_count(LAYERS)
    model.add_feed_forward_length(HIDDEN)
    model.add_head_count(HEADS)
    model.add_head_count_kv(HEADS)
    model.add_layer_norm_rms_eps(1e-5)
    model.add_rope_dimension_count(WIDTH // HEADS)
    model.add_vocab_size(len(tokens))
    model.add_tokenizer_model("llama")
    model.add_token_list(tokens)
    model.add_token_scores([-1000.0 if kind == gguf.TokenType.BYTE else -float(rank) for rank, kind in enumerate(kinds)])
    model.add_token_types(kinds)
    model.add_unk_token_id(tokens.index("<unk>"))
    model.add_bos_token_id(tokens.index("<s>"))
    model.add_eos_token_id(tokens.index("<|im_end|>"))
    model.add_add_bos_token(True)
    model.add_add_space_prefix(False)
    model.add_chat_template(TEMPLATE)
    for name, values in _weights(len(tokens), np.random.default_rng(seed)).items():
        model.add_tensor(name, values)
    model.write_header_to_file()
    model.write_kv_data_to_file()
    model.write_tensors_to_file()
    model.close()


def _weights(words: int, random: np.random.Generator) -> dict[str, np.ndarray]:
    def noise(rows: int, columns: int, scale: float) -> np.ndarray:
        return (random.standard_normal((rows, columns)) * scale).astype(np.float32)

    even = np.ones(WIDTH, np.float32)
    head = noise(words, WIDTH, 1.0)
    head[:260] *= 0.05  # words and signs come first; raw bytes, and an early end, seldom
    weights = {"token_embd.weight": noise(words, WIDTH, 0.5), "output.weight": head, "output_norm.weight": even}
    for layer in range(LAYERS):
        shapes = {f"attn_{part}": (WIDTH, WIDTH) for part in ("q", "k", "v", "output")}
        shapes |= {"ffn_gate": (HIDDEN, WIDTH), "ffn_up": (HIDDEN, WIDTH), "ffn_down": (WIDTH, HIDDEN)}
        weights |= {f"blk.{layer}.{part}.weight": noise(*shape, 0.05) for part, shape in shapes.items()}
        weights |= {f"blk.{layer}.{part}_norm.weight": even for part in ("attn", "ffn")}
    return weights
