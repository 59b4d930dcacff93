"""Kernels in what TorchInductor compiles for a CPU, where it has none that would do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch._inductor import config, ir
from torch._inductor.codegen.cpp_template import CppTemplate
from torch._inductor.codegen.cpp_utils import DTYPE_TO_CPP, cexpr_index
from torch._inductor.lowering import lowerings, to_dtype
from torch._inductor.utils import parallel_num_threads
from torch._inductor.virtualized import V, ops
from torch.utils._sympy.functions import FloorDiv

__all__ = ["add_as_made", "add_in_order", "checked"]

_aten = torch.ops.aten
_CHUNK = 256  # lookups, of docs/numbers.md
_FEW = 16 * 1024  # elements: one thread is done with them before another one has begun

# Nothing may be thrown where threads share a loop: the process would end.
_CHECKED = """{header}
extern "C"
{signature}
{{
    for (int64_t lookup = 0; lookup < {lookups}; ++lookup) {{
        const int64_t row = {index};
        {check}(0 <= row && row < {rows}, "index out of bounds: 0 <= index < {bound}");
        {result} = row;
    }}
}}
"""

# The first chunk of a row is added up where the row is, later ones in rows behind the table.
# `result` has the place of each lookup, and then the row that each later chunk belongs to: there
# may be fewer than places for them, and zeros may be added to any row. Most batches have no row
# with two chunks, which a few counts, of several rows each, show sooner than one of each row.
_PLACES = """{header}
extern "C"
{signature}
{{
    const int64_t lookups = {lookups}, rows = {rows};
    std::fill_n(result + lookups, lookups / {chunk}, 0);
    constexpr int64_t few = 4096;
    uint16_t counts_of_several[few] = {{}};
    uint16_t most = 0;
    for (int64_t lookup = 0; lookup < lookups; ++lookup) {{
        const int64_t row = {index};
        {check}(0 <= row && row < rows, "index out of bounds: 0 <= index < {bound}");
        result[lookup] = row;
        most = std::max(most, ++counts_of_several[row % few]);
    }}
    if (most <= {chunk}) return;

    std::vector<uint16_t> counts(rows);  // of lookups in the last chunk
    std::vector<int64_t> places(rows);  // of the last chunk if it is not the first
    int64_t* const owners = result + lookups;
    int64_t later = 0;
    for (int64_t lookup = 0; lookup < lookups; ++lookup) {{
        const int64_t row = result[lookup];
        if (counts[row] == {chunk}) {{
            places[row] = rows + later;
            owners[later++] = row;
            counts[row] = 0;
        }}
        ++counts[row];
        if (places[row]) result[lookup] = places[row];
    }}
}}
"""

# Threads share the columns. Chunks are those of docs/numbers.md: `totals` has the complete ones of
# rows that are looked up more often.
_ADD_IN_ORDER = """{header}
extern "C"
{signature}
{{
    using Sum = {dtype};
    // Inductor's compiler makes no vectors of loops.
    typedef Sum Line __attribute__((vector_size(64), aligned(sizeof(Sum)), may_alias));
    constexpr int64_t chunk = {chunk}, line = sizeof(Line) / sizeof(Sum);
    const int64_t lookups = {lookups}, rows = {rows}, columns = {columns};
    for (int64_t lookup = 0; lookup < lookups; ++lookup) {{
        const int64_t row = {index};
        {check}(0 <= row && row < rows, "index out of bounds: 0 <= index < {bound}");
    }}
    const auto add = [](Sum* sums, const Sum* row, int64_t width) {{
        int64_t column = 0;
        for (; column + line <= width; column += line) {{
            *reinterpret_cast<Line*>(sums + column) += *reinterpret_cast<const Line*>(row + column);
        }}
        for (; column < width; ++column) sums[column] += row[column];
    }};
    const auto add_columns = [=](int64_t first, int64_t last) {{
        const int64_t width = last - first;
        std::vector<int32_t> counts(lookups > chunk ? rows : 0);
        std::vector<Sum> totals;
        for (int64_t lookup = 0; lookup < lookups; ++lookup) {{
            const int64_t row = {index};
            if (row == {padding_idx}) continue;
            Sum* const sums = result + row * columns + first;
            if (lookups > chunk && ++counts[row] > chunk && counts[row] % chunk == 1) {{
                totals.resize(rows * width);
                add(&totals[row * width], sums, width);
                std::fill_n(sums, width, Sum(0));
            }}
            add(sums, &{gradient} + first, width);
        }}
        for (int64_t row = 0; row < rows && !totals.empty(); ++row) {{
            if (counts[row] <= chunk) continue;
            add(result + row * columns + first, &totals[row * width], width);
        }}
    }};
    const int64_t lines = (columns + line - 1) / line;
    const int64_t threads = std::min<int64_t>({threads}, lines);
    if (threads == 1 || (rows + lookups) * columns < {few}) {{
        std::fill_n(result, rows * columns, Sum(0));
        return add_columns(0, columns);
    }}
    #pragma omp parallel num_threads(threads)
    {{
        #pragma omp for
        for (int64_t row = 0; row < rows; ++row) {{
            std::fill_n(result + row * columns, columns, Sum(0));
        }}
        #pragma omp for
        for (int64_t part = 0; part < threads; ++part) {{
            const auto border = [=](int64_t part) {{ return lines * part / threads * line; }};
            add_columns(border(part), std::min(border(part + 1), columns));
        }}
    }}
}}
"""


class _Kernel(CppTemplate):
    """A kernel of one thread, until it asks for more."""

    def __init__(self, text: str, inputs: dict[str, Any], rows: Any, layout: Any) -> None:
        realized = [ir.ExternKernel.realize_input(each) for each in inputs.values()]
        super().__init__("lookup", realized, layout, num_threads=1)
        self.text, self.names, self.rows = text, tuple(inputs), rows

    def render(self, kernel: Any, **options: Any) -> str:  # type: ignore[override]
        """The code."""
        result = options.get("template_buffer_node") or self.output_node
        inputs = dict(zip(self.names, self.input_nodes, strict=True))
        signature = kernel.def_kernel(
            inputs=inputs, outputs={"result": result}, extra_sizevars=[self.rows]
        )
        rows = kernel.rename_indexing(self.rows)
        fields = {
            "header": self.header().getvalue(),
            "signature": signature,
            "check": kernel.assert_function,
            "lookups": kernel.size(inputs["indices"], 0),
            "rows": cexpr_index(rows),  # type: ignore[no-untyped-call]
            "bound": str(self.rows),
            "index": kernel.index(inputs["indices"], ["lookup"]),
            "chunk": str(_CHUNK),
        }
        return self.text.format(**fields, **self.more_fields(kernel, inputs, result))

    def more_fields(self, kernel: Any, inputs: dict[str, Any], result: Any) -> dict[str, str]:
        """What a text has besides."""
        return {"result": kernel.index(result, ["lookup"])}

    def output(self) -> Any:
        """The result as an input of other nodes."""
        choice = self.generate()  # type: ignore[no-untyped-call]
        result = choice.output_node()
        # Inductor would let the template write what reads the result, too.
        V.graph.no_fuse_buffer_names.add(result.get_name())
        return result


class _AddInOrder(_Kernel):
    def __init__(self, padding_idx: int, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.padding_idx = padding_idx

    def more_fields(self, kernel: Any, inputs: dict[str, Any], result: Any) -> dict[str, str]:
        """Of the sums."""
        dynamic = config.cpp.dynamic_threads
        return {
            "dtype": DTYPE_TO_CPP[self.layout.dtype],
            "columns": kernel.size(result, 1),
            "gradient": kernel.index(inputs["gradient"], ["lookup", 0]),
            "padding_idx": str(self.padding_idx),
            "few": str(_FEW),
            "threads": "omp_get_max_threads()" if dynamic else str(parallel_num_threads()),
        }


def checked(indices: Any, num_weights: Any) -> Any:
    """The indices (N,) as int64, each of which is in a table of ``num_weights`` rows."""
    layout = ir.FixedLayout(torch.device("cpu"), torch.int64, indices.get_size())
    return _Kernel(_CHECKED, {"indices": indices}, num_weights, layout).output()


def add_in_order(gradient: Any, indices: Any, num_weights: Any, padding_idx: int) -> Any:
    """The sums (num_weights, D) of rows ``gradient`` (N, D) at ``indices`` (N,).

    In float32, or in float64 for float64.
    """
    dtype = _sum_dtype(gradient)
    layout = ir.FixedLayout(torch.device("cpu"), dtype, [num_weights, gradient.get_size()[1]])
    gradient = ir.ExternKernel.require_contiguous(to_dtype(gradient, dtype))
    inputs = {"indices": indices, "gradient": gradient}
    return _AddInOrder(padding_idx, _ADD_IN_ORDER, inputs, num_weights, layout).output()


def add_as_made(gradient: Any, indices: Any, num_weights: Any, padding_idx: int) -> Any:
    """What `add_in_order` gives, on one thread and in the loop that makes the gradient."""
    lookups, width = gradient.get_size()
    dtype, device = _sum_dtype(gradient), torch.device("cpu")
    gradient = to_dtype(gradient, dtype)
    if padding_idx >= 0:
        is_padding = lowerings[_aten.eq.Scalar](indices, padding_idx)
        is_padding = lowerings[_aten.unsqueeze.default](is_padding, 1)
        gradient = lowerings[_aten.where.self](is_padding, 0, gradient)
    full, part = lowerings[_aten.full.default], lowerings[_aten.slice.Tensor]
    if V.graph.sizevars.statically_known_leq(lookups, _CHUNK):
        sums = full([num_weights, width], 0, dtype=dtype, device=device)
        _add_rows(gradient, indices, sums, check=True)
        return sums
    later = FloorDiv(lookups, _CHUNK)
    layout = ir.FixedLayout(device, torch.int64, [lookups + later])
    places = _Kernel(_PLACES, {"indices": indices}, num_weights, layout).output()
    sums = full([num_weights + later, width], 0, dtype=dtype, device=device)
    _add_rows(gradient, part(places, 0, 0, lookups), sums)
    _add_rows(part(sums, 0, num_weights), part(places, 0, lookups), sums)
    return part(sums, 0, 0, num_weights)


def _add_rows(rows: Any, places: Any, sums: Any, check: bool = False) -> None:
    """Adds each row to the one of the sums at its place, one after the other."""
    sums.realize()
    load_place, bound = places.make_loader(), sums.get_size()[0]

    def place(index: Sequence[Any]) -> Sequence[Any]:
        row = ops.indirect_indexing(load_place(index[:1]), bound, check=check, wrap_neg=False)
        return [row, index[1]]

    addition = ir.Scatter(
        device=sums.get_device(),
        dtype=sums.get_dtype(),
        inner_fn=rows.make_loader(),
        ranges=rows.get_size(),
        output_indexer=place,
        scatter_mode="atomic_add",  # on one thread it is not atomic
    )
    layout = ir.MutationLayoutSHOULDREMOVE(sums)
    buffer = ir.ComputedBuffer(name=None, layout=layout, data=addition)
    buffer.name = V.graph.register_buffer(buffer)
    V.graph.register_operation(buffer)


def _sum_dtype(gradient: Any) -> torch.dtype:
    return torch.float64 if gradient.get_dtype() == torch.float64 else torch.float32
