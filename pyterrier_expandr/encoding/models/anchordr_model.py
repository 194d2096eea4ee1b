"""The encoder-decoder of AnchorDR and of retrievers fine-tuned from it, with the names of the reference checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor, nn
from transformers import T5Config
from transformers.modeling_outputs import Seq2SeqModelOutput
from transformers.modeling_utils import PreTrainedModel

from . import anchordr_checkpoint as checkpoint
from .anchordr_layers import MAX_POSITIONS, DecoderBlock, EncoderBlock, relative_buckets, token_positions


class AnchorDRConfig(T5Config):
    """T5's configuration under its own name, so that no T5 class opens the checkpoint and computes wrong results.

    Raises:
        ValueError: values that the architecture does not allow (`pad_token_id` 0, another activation, too few buckets).
    """

    model_type = "anchordr"

    @property
    def max_position_embeddings(self) -> int:
        """Maximum number of tokens in a text."""
        return MAX_POSITIONS

    def check(self) -> AnchorDRConfig:
        """This configuration, after checking that it is valid."""
        for name in ("vocab_size", "d_model", "d_kv", "d_ff", "num_layers", "num_heads"):
            if not isinstance(getattr(self, name), int):  # transformers 4 takes anything
                raise ValueError(f"{name} must be a whole number, got {getattr(self, name)!r}")
        pad = self.pad_token_id
        if pad is None or not 0 < pad < self.vocab_size:
            raise ValueError(
                f"pad_token_id must be between 1 and {self.vocab_size - 1}, got {pad}: the decoder reads token 0, and "
                "a pad token of 0 would mask it. AnchorDR uses 1; set it in config.json."
            )
        if self.feed_forward_proj not in ("relu", "gated-gelu"):
            raise ValueError(f"feed_forward_proj must be 'relu' or 'gated-gelu', got {self.feed_forward_proj!r}")
        if self.relative_attention_num_buckets < 4:
            raise ValueError(
                f"relative_attention_num_buckets must be 4 or more, got {self.relative_attention_num_buckets}"
            )
        if not 1 <= self.num_heads <= self.d_model:
            raise ValueError(f"num_heads must be between 1 and d_model ({self.d_model}), got {self.num_heads}")
        return self


class Stack(nn.Module):
    """The token embedding and the blocks of one side."""

    def __init__(self, config: AnchorDRConfig, embed_tokens: nn.Embedding, blocks: list[nn.Module]) -> None:
        super().__init__()
        self.pad_token_id: int = config.pad_token_id  # type: ignore[assignment]  # checked by the configuration
        self.embed_tokens = embed_tokens
        self.pos_embed = nn.Embedding(MAX_POSITIONS + self.pad_token_id + 1, config.d_model)
        self.first_layer_norm = nn.LayerNorm(config.d_model, eps=config.layer_norm_epsilon)
        self.dropout = nn.Dropout(config.dropout_rate)
        self.block = nn.ModuleList(blocks)

    def embed(self, input_ids: Tensor) -> Tensor:
        """Token ids (B, T) -> the blocks' first input (B, T, d). Raises ValueError on more than 1,024 tokens."""
        positions = token_positions(input_ids, self.pad_token_id)
        if input_ids.shape[1] > MAX_POSITIONS and int(positions.max()) > MAX_POSITIONS + self.pad_token_id:
            raise ValueError(
                f"a text has {int(positions.max()) - self.pad_token_id} tokens, but the model has {MAX_POSITIONS} "
                "positions: truncate it (max_seq_length)"
            )
        return self.dropout(self.first_layer_norm(self.embed_tokens(input_ids) + self.pos_embed(positions)))


class AnchorDRModel(PreTrainedModel):
    """The encoder-decoder; its embedding of a text is the decoder's state at its first and only token, `<s>`.

    The names and shapes in the state dict are those of the reference checkpoint (525 keys with the tied copies for the
    base size).

    Example:
        >>> config = AnchorDRConfig(vocab_size=50, d_model=8, d_kv=4, d_ff=16, num_layers=1, pad_token_id=1)
        >>> AnchorDRModel(config).embed(torch.tensor([[0, 7, 2]])).shape
        torch.Size([1, 8])
    """

    config_class = AnchorDRConfig
    config: AnchorDRConfig
    base_model_prefix = "anchordr"
    main_input_name = "input_ids"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _no_split_modules = ["EncoderBlock", "DecoderBlock"]  # noqa: RUF012  transformers reads a list
    _tied_weights_keys = {  # noqa: RUF012  transformers reads a dict
        "encoder.embed_tokens.weight": "shared.weight",
        "decoder.embed_tokens.weight": "shared.weight",
    }

    def __init__(self, config: AnchorDRConfig) -> None:
        super().__init__(config.check())
        self.shared = nn.Embedding(config.vocab_size, config.d_model)
        decoder_layers = config.num_decoder_layers or config.num_layers
        self.encoder = Stack(config, self.shared, [EncoderBlock(config) for _ in range(config.num_layers)])
        self.decoder = Stack(config, self.shared, [DecoderBlock(config) for _ in range(decoder_layers)])
        self.post_init()

    def get_input_embeddings(self) -> nn.Embedding:
        """The token embedding that both sides share."""
        return self.shared

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the token embedding of both sides."""
        for owner, name in ((self, "shared"), (self.encoder, "embed_tokens"), (self.decoder, "embed_tokens")):
            setattr(owner, name, value)

    def unused_parameters(self) -> dict[str, nn.Parameter]:
        """The parameters that no embedding depends on: how one decoder token attends to itself, and constant scores."""
        dead = ("SelfAttention.q.", "SelfAttention.k.", "EncDecAttention.k.bias")
        return {
            name: parameter
            for name, parameter in self.named_parameters()
            if name.startswith("decoder.") and any(part in name for part in dead)
        }

    def encode(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """The encoder's last states (B, T, d), and its keys to skip (B, 1, 1, T), None if there are none.

        Without a mask, all tokens are attended to, including pads.
        """
        masked = None
        if attention_mask is not None:
            if attention_mask.shape != input_ids.shape:
                raise ValueError(
                    f"attention_mask has shape {tuple(attention_mask.shape)}, but input_ids has "
                    f"{tuple(input_ids.shape)}"
                )
            skip = attention_mask == 0
            masked = skip[:, None, None, :] if bool(skip.any()) else None
        buckets = relative_buckets(input_ids.shape[1], self.config.relative_attention_num_buckets, input_ids.device)
        hidden = self.encoder.embed(input_ids)
        for block in self.encoder.block:
            hidden = block(hidden, buckets, masked)
        return hidden, masked

    def decode(self, decoder_input_ids: Tensor, source: Tensor, masked: Tensor | None) -> Tensor:
        """The decoder's last states (B, T, d), given the output of `encode`."""
        hidden = self.decoder.embed(decoder_input_ids)
        causal = None
        if (length := decoder_input_ids.shape[1]) > 1:
            ahead = torch.ones(length, length, dtype=torch.bool, device=hidden.device).triu(1)
            hidden_keys = ahead | (decoder_input_ids == self.decoder.pad_token_id)[:, None, None, :]
            causal = torch.where(hidden_keys, float("-inf"), hidden.new_zeros(()))
        for block in self.decoder.block:
            hidden = block(hidden, causal, source, masked)
        return hidden

    def embed(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Text embeddings (B, d): the decoder's state at one token of id 0, attending to the whole encoder."""
        source, masked = self.encode(input_ids, attention_mask)
        return self.decode(input_ids.new_zeros(len(input_ids), 1), source, masked).squeeze(1)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        decoder_input_ids: Tensor | None = None,
        **kwargs: Any,
    ) -> Seq2SeqModelOutput:
        """Last states of decoder and encoder; without `decoder_input_ids`, the decoder reads one token of id 0."""
        if ignored := {name for name, value in kwargs.items() if value is not None and name not in ("return_dict",)}:
            raise TypeError(
                f"AnchorDRModel takes input_ids, attention_mask and decoder_input_ids, not {sorted(ignored)}"
            )
        source, masked = self.encode(input_ids, attention_mask)
        if decoder_input_ids is None:
            decoder_input_ids = input_ids.new_zeros(len(input_ids), 1)
        last = self.decode(decoder_input_ids, source, masked)
        return Seq2SeqModelOutput(last_hidden_state=last, encoder_last_hidden_state=source)

    @classmethod
    def from_pretrained(  # type: ignore[override]  # strict and local: fewer options than transformers' own
        cls, name_or_folder: str | Path, *, revision: str | None = None, dtype: torch.dtype | None = None
    ) -> AnchorDRModel:
        """The model from a folder or the hub, in evaluation mode, on the CPU.

        Args:
            name_or_folder: a folder with config.json and model.safetensors (or, if the user allows pickles,
                pytorch_model.bin, from which only tensors are read), or a hub name.
            revision: the model's revision on the hub.
            dtype: dtype of the weights; None keeps that of the file.

        Raises:
            ValueError: the model does not exist, is another model (including stock T5), or has no decoder, unknown
                names or wrong shapes; the message lists all problems.
        """
        name = str(name_or_folder)
        settings = checkpoint.read_config(name, revision)
        path = checkpoint.weights_file(name, revision)
        weights = checkpoint.read_weights(path)
        checkpoint.refuse_t5(weights, path)  # first: errors about its configuration would sound like a small mistake
        try:
            config = AnchorDRConfig(**settings).check()
        except (ValueError, StrictDataclassError) as error:
            raise ValueError(f"config.json of {name!r}: {error}") from error
        with torch.device("meta"):  # the weights come from the file, so none are drawn at random
            model = cls(config)
        expected = model.state_dict()
        checkpoint.check_weights(weights, expected, path)
        kept = {key: weights["shared.weight" if key in checkpoint.COPIES else key] for key in expected}
        model.load_state_dict(kept, assign=True)
        model.config.name_or_path = name
        return nn.Module.to(model, dtype or weights["shared.weight"].dtype).eval()
