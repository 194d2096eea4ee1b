"""The parts that AnchorDR is built from: positions, relative buckets, attention, and the blocks of its two stacks.

Every part differs from T5's: learned absolute positions in addition to relative ones, a relative table in each encoder
block, another bucket function, mean-centred norms after each sublayer instead of before, biases, and scaled scores.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer

if TYPE_CHECKING:
    from .anchordr_model import AnchorDRConfig

#: number of rows of each position table that a text may use; fixed by the architecture
MAX_POSITIONS = 1024
#: distance from which on all relative positions share a bucket
MAX_DISTANCE = 128


def relative_buckets(length: int, num_buckets: int, device: torch.device | None = None) -> Tensor:
    """Row of the relative table for each pair of positions: int64, shape (query, key).

    Distances below a quarter of the buckets have a bucket each; larger ones share buckets on a logarithmic scale that
    ends at 127. Keys to the right come after keys to the left, with distance 0 in between.

    Example:
        >>> relative_buckets(3, 32).tolist()
        [[15, 16, 17], [14, 15, 16], [13, 14, 15]]
    """
    exact, top = num_buckets // 4, num_buckets // 2 - 1
    distance = torch.arange(length, device=device)
    scale = torch.log(distance.clamp(min=1).float() / exact) / math.log((MAX_DISTANCE - 1) / exact)
    far = torch.clamp(exact + torch.ceil(scale * (top - exact)).long(), max=top)
    bucket = torch.where(distance < exact, distance, far)  # (length,)
    offset = distance[None, :] - distance[:, None]  # (query, key): key minus query
    return offset.sign() * bucket[offset.abs()] + top


def token_positions(input_ids: Tensor, pad_token_id: int) -> Tensor:
    """Row of the position table for each token (batch, length): `pad_token_id` for pads, then counting up for others.

    Pads are recognised by their id, wherever they are, so that neither left padding nor a pad inside shifts a position.

    Example:
        >>> token_positions(torch.tensor([[1, 0, 7, 1, 2]]), 1).tolist()
        [[1, 2, 3, 1, 4]]
    """
    live = (input_ids != pad_token_id).long()
    return live.cumsum(dim=1) * live + pad_token_id


def finite(hidden: Tensor) -> Tensor:
    """`hidden` with float16 overflows clipped to the largest finite numbers; other types unchanged."""
    if hidden.dtype != torch.float16:
        return hidden
    largest = torch.finfo(torch.float16).max
    limit = torch.where(torch.isinf(hidden).any(), largest - 1000, largest)
    return torch.clamp(hidden, min=-limit, max=limit)


class Attention(nn.Module):
    """Scaled multi-head attention with biases; the scale follows from `d_model // num_heads`, whatever `d_kv` is."""

    def __init__(self, config: AnchorDRConfig, relative: bool = False) -> None:
        super().__init__()
        inner = config.num_heads * config.d_kv
        self.heads, self.head_size = config.num_heads, config.d_kv
        self.scale = (config.d_model // config.num_heads) ** -0.5
        self.dropout = config.dropout_rate
        self.q = nn.Linear(config.d_model, inner)
        self.k = nn.Linear(config.d_model, inner)
        self.v = nn.Linear(config.d_model, inner)
        self.o = nn.Linear(inner, config.d_model)
        if relative:
            self.relative_attention_bias = nn.Embedding(config.relative_attention_num_buckets, config.num_heads)

    def split(self, states: Tensor) -> Tensor:
        """(batch, length, inner) -> (batch, heads, length, head)."""
        return states.unflatten(-1, (self.heads, self.head_size)).transpose(1, 2)

    def forward(self, hidden: Tensor, source: Tensor, bias: Tensor | None) -> Tensor:
        """Attention of `hidden` (B, T, d) over `source` (B, S, d); `bias` (B, H, T, S) is added to the scores."""
        context = F.scaled_dot_product_attention(
            self.split(self.q(hidden)),
            self.split(self.k(source)),
            self.split(self.v(source)),
            attn_mask=bias,
            dropout_p=self.dropout if self.training else 0.0,
            scale=self.scale,
        )
        return self.o(context.transpose(1, 2).flatten(2))

    def of_one_token(self, hidden: Tensor, source: Tensor, masked: Tensor | None) -> Tensor:
        """The same for one token `hidden` (B, 1, d), without computing keys and values for the whole source.

        In one head q·(W_k x + b_k) = (W_k^T q)·x + constant, and softmax drops the constant; the weighted sum of
        W_v x + b_v is W_v times the weighted sum of x, plus b_v. Both are computed on one vector per head, not per
        token.
        """
        shape = (self.heads, self.head_size)
        query = self.q(hidden).squeeze(1).unflatten(-1, shape) * self.scale  # (B, H, k)
        probe = torch.einsum("bhk,hkd->bhd", query, self.k.weight.unflatten(0, shape))
        scores = probe @ source.transpose(1, 2)  # (B, H, S)
        scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
        if masked is not None:
            scores = scores.masked_fill(masked.squeeze(1), torch.finfo(scores.dtype).min)
        weights = F.dropout(scores.softmax(-1), self.dropout, self.training).type_as(source)
        context = torch.einsum("bhd,hkd->bhk", weights @ source, self.v.weight.unflatten(0, shape))
        context = context + weights.sum(-1, keepdim=True) * self.v.bias.view(shape)
        return self.o(context.flatten(1)).unsqueeze(1)

    def to_itself(self, hidden: Tensor) -> Tensor:
        """Attention of one token (B, 1, d) to itself: its weight is 1, so that queries and keys do not matter."""
        weight = F.dropout(hidden.new_ones(len(hidden), 1, self.heads, 1), self.dropout, self.training)
        return self.o((self.v(hidden).unflatten(-1, (self.heads, self.head_size)) * weight).flatten(2))


class FeedForward(nn.Module):
    """The two-layer network of a block: `wo(relu(wi x))` with biases, or a gated GELU without."""

    def __init__(self, config: AnchorDRConfig) -> None:
        super().__init__()
        self.gated = config.feed_forward_proj == "gated-gelu"
        if self.gated:
            self.wi_0 = nn.Linear(config.d_model, config.d_ff, bias=False)
            self.wi_1 = nn.Linear(config.d_model, config.d_ff, bias=False)
        else:
            self.wi = nn.Linear(config.d_model, config.d_ff)
        self.wo = nn.Linear(config.d_ff, config.d_model, bias=not self.gated)
        self.dropout = nn.Dropout(config.dropout_rate)

    def forward(self, hidden: Tensor) -> Tensor:
        """(B, T, d) -> (B, T, d)."""
        if self.gated:
            inner = F.gelu(self.wi_0(hidden), approximate="tanh") * self.wi_1(hidden)
        else:
            inner = F.relu(self.wi(hidden))
        return self.wo(self.dropout(inner))


class Sublayer(nn.Module):
    """One part of a block, followed by its norm: `norm(x + dropout(part(x)))`."""

    def __init__(self, config: AnchorDRConfig, name: str, part: nn.Module) -> None:
        super().__init__()
        self.name = name
        self.add_module(name, part)
        self.layer_norm = nn.LayerNorm(config.d_model, eps=config.layer_norm_epsilon)
        self.dropout = nn.Dropout(config.dropout_rate)

    @property
    def part(self) -> Any:
        """The attention or the network, whatever its name in the checkpoint."""
        return getattr(self, self.name)

    def forward(self, hidden: Tensor, change: Tensor) -> Tensor:
        """`hidden` plus the output of the part, normalised."""
        return finite(self.layer_norm(hidden + self.dropout(change)))


class EncoderBlock(GradientCheckpointingLayer):
    """Self-attention with its own relative table, and the feed-forward network."""

    def __init__(self, config: AnchorDRConfig) -> None:
        super().__init__()
        attention = Attention(config, relative=True)
        self.layer = nn.ModuleList(
            [Sublayer(config, "SelfAttention", attention), Sublayer(config, "DenseReluDense", FeedForward(config))]
        )

    def forward(self, hidden: Tensor, buckets: Tensor, masked: Tensor | None) -> Tensor:
        """(B, T, d) -> (B, T, d); `buckets` (T, T) are table rows, `masked` (B, 1, 1, T) is true for keys to skip."""
        own: Any
        network: Any
        own, network = self.layer
        bias = own.part.relative_attention_bias(buckets).permute(2, 0, 1).unsqueeze(0)  # (1, H, T, T)
        if masked is not None:
            bias = torch.where(masked, torch.finfo(bias.dtype).min, bias)  # (B, H, T, T)
        hidden = own(hidden, own.part(hidden, hidden, bias))
        return network(hidden, network.part(hidden))


class DecoderBlock(GradientCheckpointingLayer):
    """Self-attention, attention to the encoder, and the feed-forward network."""

    def __init__(self, config: AnchorDRConfig) -> None:
        super().__init__()
        self.layer = nn.ModuleList(
            [
                Sublayer(config, "SelfAttention", Attention(config)),
                Sublayer(config, "EncDecAttention", Attention(config)),
                Sublayer(config, "DenseReluDense", FeedForward(config)),
            ]
        )

    def forward(self, hidden: Tensor, causal: Tensor | None, source: Tensor, masked: Tensor | None) -> Tensor:
        """(B, T, d) -> (B, T, d) given the encoder's states `source` (B, S, d) and its keys to skip, (B, 1, 1, S).

        `causal` (B, 1, T, T) is added to the decoder's own scores; None means that there is only one token.
        """
        own: Any
        cross: Any
        network: Any
        own, cross, network = self.layer
        if causal is None:
            hidden = own(hidden, own.part.to_itself(hidden))
            hidden = cross(hidden, cross.part.of_one_token(hidden, source, masked))
        else:
            hidden = own(hidden, own.part(hidden, hidden, causal))
            bias = None
            if masked is not None:
                bias = torch.where(masked, torch.finfo(hidden.dtype).min, hidden.new_zeros(()))
            hidden = cross(hidden, cross.part(hidden, source, bias))
        return network(hidden, network.part(hidden))
