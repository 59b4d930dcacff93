#pragma once

// Memory of large results on the CPU.
//
// The C library takes a block of 32 MiB or more from the system and gives it back when it is freed,
// and often a smaller one. Such a result then costs a page fault for each 4 KiB, ten times what
// writing it costs. This library takes blocks of 2 MiB and more in huge pages, and keeps those that
// were freed for the next results. What is kept and not wanted for a while, the system may take
// back when memory is short.

#include <myemb/export.h>

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace myemb {

// Gives all memory that is kept, and not part of a tensor, back to the system.
MYEMB_API void empty_cache();

// Keeps at most so many bytes from now on; 0 turns the cache off, and results are allocated as
// PyTorch allocates them. At first this is MYEMB_CACHE_LIMIT of the environment, or a sixteenth of
// the machine's memory and at most 4 GiB. Throws c10::Error if bytes is negative.
MYEMB_API void set_cache_limit(int64_t bytes);
MYEMB_API int64_t cache_limit();

// How many bytes are kept, and not part of a tensor.
MYEMB_API int64_t cached_bytes();

// Moves the memory of a CPU tensor to huge pages (2 MiB), at once and in place: its address and
// values stay. A table's rows then are found with fewer misses of the TLB. Returns how many bytes
// lie on huge pages because of it; the tensor's first and last part of a page do not.
//
// Throws c10::Error if the tensor is not a dense CPU tensor, or the system cannot do it (Linux 6.1
// can), and says why.
MYEMB_API int64_t huge_pages_(const at::Tensor& tensor);

// For a table in a mapped file (at::from_file): asks the system to read the pages of these rows,
// all at once, which a lookup would wait for one by one. It returns before they are there, or when
// the disk has no room for more questions. The rows are those of the table's first dimension, so
// that a state of an optimizer, (V) or (V, D), may be a table, too. Returns how many bytes it asked
// for, whether or not they are in memory already.
//
// Throws c10::IndexError if an index is out of range, and c10::Error unless both are dense CPU
// tensors and the indices integers.
MYEMB_API int64_t prefetch_rows(const at::Tensor& table, const at::Tensor& indices);

// Returns when everything that was written to a tensor in a shared mapping of a file is on the
// disk; does nothing for other memory. Throws c10::Error if the disk fails.
MYEMB_API void flush(const at::Tensor& tensor);

}  // namespace myemb
