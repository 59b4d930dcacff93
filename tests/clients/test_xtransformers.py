"""A language model of x-transformers: its table of tokens is its output layer, too."""

from __future__ import annotations

import torch
from films import ratings
from harness import assert_same, compare, fit
from torch import Tensor
from x_transformers import AutoregressiveWrapper, Decoder, TransformerWrapper

LENGTH = 64


class Titles:
    """Learns the titles of films, byte by byte."""

    def __init__(self) -> None:
        text = "\n".join(ratings().titles).encode()
        self.bytes = torch.frombuffer(bytearray(text), dtype=torch.uint8).long()

    def build(self) -> torch.nn.Module:
        net = TransformerWrapper(
            num_tokens=256,
            max_seq_len=LENGTH,
            tie_embedding=True,
            attn_layers=Decoder(dim=64, depth=2, heads=4, attn_dim_head=16),
        )
        return AutoregressiveWrapper(net)

    def train(self, model: torch.nn.Module) -> list[float]:
        model.train()
        optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
        starts = torch.randint(len(self.bytes) - LENGTH, (60, 16, 1))
        return fit(optimizer, starts + torch.arange(LENGTH), lambda at: model(self.bytes[at]))

    def evaluate(self, model: torch.nn.Module) -> Tensor:
        model.eval()
        with torch.no_grad():
            return model.net(self.bytes[: 8 * LENGTH].view(8, LENGTH))


def test_a_language_model_with_a_tied_table() -> None:
    client = Titles()
    comparison = compare("x-transformers, tied", 2, client)
    # Only lookups would leave the bytes that no title has without a gradient.
    assert comparison.ours.gradients["net.token_emb.emb.weight"].any(1).all()
    assert_same(comparison)
