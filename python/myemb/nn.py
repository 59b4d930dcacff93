"""``torch.nn.Embedding`` and ``torch.nn.EmbeddingBag`` on the operators of this library.

Only ``forward`` is overridden: the constructor, ``from_pretrained``, initialisation, ``repr``,
``state_dict``, pickling and ``isinstance`` are PyTorch's own.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .functional import embedding, embedding_bag

__all__ = ["Embedding", "EmbeddingBag", "EmbeddingBagCollection", "Table"]


class Embedding(torch.nn.Embedding):
    """A table of ``num_embeddings`` rows of width ``embedding_dim``; see ``torch.nn.Embedding``.

    Beyond PyTorch: indices may be uint8 or int16, ``scale_grad_by_freq`` works with ``sparse``,
    16-bit gradients are accumulated in float32, and a refused index leaves a ``max_norm`` table
    unchanged.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Looks up the rows ``input``: ``(*)`` indices to ``(*, embedding_dim)``.

        Raises:
            IndexError: An index is not in ``[0, num_embeddings)``.
        """
        # nn.Module finds self.weight only when every other way has failed: half a microsecond. It
        # is elsewhere when it is parametrized, sharded or replicated.
        weight: Tensor | None = self._parameters.get("weight")
        return embedding(
            input,
            self.weight if weight is None else weight,
            self.padding_idx,
            self.max_norm,
            self.norm_type,
            self.scale_grad_by_freq,
            self.sparse,
        )


class EmbeddingBag(torch.nn.EmbeddingBag):
    """Sums, means or maxima of bags of rows; see ``torch.nn.EmbeddingBag``.

    Beyond PyTorch: ``per_sample_weights`` in every mode, second derivatives, forward-mode AD and
    ``vmap``, and all offsets are checked.
    """

    def forward(
        self,
        input: Tensor,
        offsets: Tensor | None = None,
        per_sample_weights: Tensor | None = None,
    ) -> Tensor:
        """Reduces the bags of ``input`` to ``(B, embedding_dim)``.

        Args:
            input: Indices, ``(B, N)``, or ``(N,)`` with ``offsets``, or nested.
            offsets: Where each bag begins in a 1-D ``input``.
            per_sample_weights: One factor for each lookup, in the shape of ``input``.

        Raises:
            ValueError: A shape, ``offsets`` or the mode does not fit.
            RuntimeError: A dtype does not fit, or an index or offset is out of range.
        """
        weight: Tensor | None = self._parameters.get("weight")  # as in Embedding
        return embedding_bag(
            input,
            self.weight if weight is None else weight,
            offsets,
            self.max_norm,
            self.norm_type,
            self.scale_grad_by_freq,
            self.mode,
            self.sparse,
            per_sample_weights,
            self.include_last_offset,
            self.padding_idx,
        )


# Built from the modules above.
from .tables import EmbeddingBagCollection, Table  # noqa: E402
