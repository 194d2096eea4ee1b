"""AnchorDR's embedding in plain NumPy, written from the description of the architecture and not from the port."""

import math

import numpy as np


def bucket(rel: int, buckets: int) -> int:
    half = buckets // 2
    exact, top = half // 2, half - 1
    n = abs(rel)
    if n >= exact:
        steps = np.log(np.float32(n) / np.float32(exact)) / np.float32(math.log(127 / exact)) * np.float32(top - exact)
        n = min(exact + math.ceil(steps), top)
    return int(np.sign(rel)) * n + top


def norm(x, state, name, eps):
    centred = x - x.mean(-1, keepdims=True)
    scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + eps)
    return scaled * state[f"{name}.weight"] + state[f"{name}.bias"]


def softmax(scores):
    e = np.exp(scores - scores.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


class NumpyAnchorDR:
    def __init__(self, config, state):
        self.c = config
        self.s = {name: tensor.double().numpy() for name, tensor in state.items()}

    def linear(self, x, name):
        y = x @ self.s[f"{name}.weight"].T
        return y + self.s[f"{name}.bias"] if f"{name}.bias" in self.s else y

    def embed(self, ids, side):
        pad, rows, seen = self.c.pad_token_id, [], 0
        for token in ids:
            seen += token != pad
            rows.append(pad if token == pad else pad + seen)
        x = self.s["shared.weight"][ids] + self.s[f"{side}.pos_embed.weight"][rows]
        return norm(x, self.s, f"{side}.first_layer_norm", self.c.layer_norm_epsilon)

    def attention(self, x, source, bias, name):
        heads, size = self.c.num_heads, self.c.d_kv
        scale = (self.c.d_model // heads) ** -0.5
        split = lambda y: y.reshape(len(y), heads, size).transpose(1, 0, 2)  # noqa: E731
        q, k, v = (split(self.linear(y, f"{name}.{p}")) for y, p in ((x, "q"), (source, "k"), (source, "v")))
        weights = softmax(q * scale @ k.transpose(0, 2, 1) + bias)
        return self.linear((weights @ v).transpose(1, 0, 2).reshape(len(x), -1), f"{name}.o")

    def network(self, x, name):
        if self.c.feed_forward_proj == "relu":
            return self.linear(np.maximum(self.linear(x, f"{name}.wi"), 0), f"{name}.wo")
        g = self.linear(x, f"{name}.wi_0")
        gelu = 0.5 * g * (1 + np.tanh(math.sqrt(2 / math.pi) * (g + 0.044715 * g**3)))
        return self.linear(gelu * self.linear(x, f"{name}.wi_1"), f"{name}.wo")

    def sub(self, x, change, name):
        return norm(x + change, self.s, f"{name}.layer_norm", self.c.layer_norm_epsilon)

    def __call__(self, ids, mask):
        """The encoder's states (T, d) and the embedding (d,)."""
        ids, lowest = np.asarray(ids), float(np.finfo(np.float32).min)
        keys = np.where(np.asarray(mask) == 1, 0.0, lowest)[None, None, :]
        last = len(ids) - 1
        bucket_of = [bucket(rel, self.c.relative_attention_num_buckets) for rel in range(-last, last + 1)]
        rows = [bucket_of[last - i : 2 * last + 1 - i] for i in range(len(ids))]  # row i: distances 0 - i ...
        x = self.embed(ids, "encoder")
        for i in range(self.c.num_layers):
            a, f = f"encoder.block.{i}.layer.0", f"encoder.block.{i}.layer.1"
            table = self.s[f"{a}.SelfAttention.relative_attention_bias.weight"]
            x = self.sub(x, self.attention(x, x, table[rows].transpose(2, 0, 1) + keys, f"{a}.SelfAttention"), a)
            x = self.sub(x, self.network(x, f"{f}.DenseReluDense"), f)
        y = self.embed(np.array([0]), "decoder")
        for i in range(self.c.num_decoder_layers):
            a, b, f = (f"decoder.block.{i}.layer.{n}" for n in range(3))
            y = self.sub(y, self.attention(y, y, 0.0, f"{a}.SelfAttention"), a)
            y = self.sub(y, self.attention(y, x, keys, f"{b}.EncDecAttention"), b)
            y = self.sub(y, self.network(y, f"{f}.DenseReluDense"), f)
        return x, y[0]
