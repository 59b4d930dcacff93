"""The gradient of few lookups as a kernel in what TorchInductor compiles for a CPU."""

from __future__ import annotations

from typing import Any

import torch
from torch._inductor import ir
from torch._inductor.codegen.cpp_template import CppTemplate
from torch._inductor.codegen.cpp_utils import DTYPE_TO_CPP
from torch._inductor.virtualized import V

__all__ = ["add_in_order"]

_KERNEL = """{header}
extern "C"
{signature}
{{
    std::fill_n(&{first}, {rows} * {columns}, {dtype}(0));
    for (int64_t lookup = 0; lookup < {lookups}; ++lookup) {{
        const int64_t row = {index};
        {check}(0 <= row && row < {rows}, "index out of bounds: 0 <= ", row, " < ", {rows});
        if (row == {padding_idx}) continue;
        for (int64_t column = 0; column < {columns}; ++column) {{
            {sum} += {gradient};
        }}
    }}
}}
"""


class _AddInOrder(CppTemplate):
    """One thread adds the rows from left to right, whatever the number of threads is."""

    def render(self, kernel: Any, **options: Any) -> str:  # type: ignore[override]
        """The code."""
        indices, gradient = self.input_nodes
        sums = options.get("template_buffer_node") or self.output_node
        signature = kernel.def_kernel(
            inputs={"indices": indices, "gradient": gradient}, outputs={"sums": sums}
        )
        return _KERNEL.format(
            header=self.header().getvalue(),
            signature=signature,
            first=kernel.index(sums, [0, 0]),
            rows=kernel.size(sums, 0),
            columns=kernel.size(sums, 1),
            dtype=DTYPE_TO_CPP[self.layout.dtype],
            lookups=kernel.size(indices, 0),
            index=kernel.index(indices, ["lookup"]),
            check=kernel.assert_function,
            padding_idx=options["padding_idx"],
            sum=kernel.index(sums, ["row", "column"]),
            gradient=kernel.index(gradient, ["lookup", "column"]),
        )


def add_in_order(gradient: Any, indices: Any, num_weights: Any, padding_idx: Any) -> Any:
    """The sums (num_weights, D) of rows ``gradient`` (N, D) at ``indices`` (N,)."""
    gradient, indices = (ir.ExternKernel.realize_input(each) for each in (gradient, indices))
    layout = ir.FixedLayout(
        torch.device("cpu"), gradient.get_dtype(), [num_weights, gradient.get_size()[1]]
    )
    template = _AddInOrder("embedding_dense_backward", [indices, gradient], layout, num_threads=1)
    choice = template.generate(padding_idx=padding_idx)  # type: ignore[no-untyped-call]
    sums = choice.output_node()
    # Inductor would let the template write what reads the sums, too.
    V.graph.no_fuse_buffer_names.add(sums.get_name())
    return sums
