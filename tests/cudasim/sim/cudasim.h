// Runs nvcc's own PTX on the CPU, behind the CUDA runtime API, and reports what a GPU would hide.
//
// A program links `cudasim` instead of cudart. Its .cu files are compiled with PTX in an
// uncompressed fat binary; the launches in them then run here. "Device memory" is any host memory
// that was announced with add_memory(). What happens since clear() depends only on the arguments
// and on settings().seed. Not thread safe: one call at a time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace cudasim {

struct Settings {
  int arch = 75;       // which PTX image of the fat binaries runs; device attributes say the same
  uint64_t seed = 0;   // order of blocks and of warps
  bool check = true;   // races and initialisation; addresses are always checked
  bool trace = true;   // per-instruction access statistics
  bool cover = false;  // note which instructions run, for covered()

  // Warp instructions after which a launch is stopped: "no progress".
  uint64_t instruction_budget = 500'000'000;
  int multiprocessors = 4;   // what the device says: launchers and CUB size their grids by it
  size_t max_reports = 100;  // kept between two clear(); the rest are dropped
};
Settings& settings();

// ---- Device memory: the range [p, p + bytes). Reading what was never written is reported.
void add_memory(const void* p, size_t bytes, bool initialised);
void remove_memory(const void* p);
void mark_written(const void* p, size_t bytes);
void mark_unwritten(const void* p, size_t bytes);  // e.g. an output buffer that an op has to fill
size_t unwritten_bytes(const void* p, size_t bytes);

// ---- What happened since clear().

// One load, store or atomic instruction of a kernel, over a whole launch.
struct Site {
  std::string instruction, file;
  int line = 0;
  bool write = false, shared = false, atomic = false;
  int bytes = 0;               // per lane
  uint64_t requests = 0;       // executed warp instructions
  uint64_t lanes = 0;          // active lanes of them
  uint64_t sectors = 0;        // distinct 32-byte sectors, summed over requests
  uint64_t ideal_sectors = 0;  // of a perfectly coalesced access with the same bytes
  uint64_t misses = 0;         // sectors that miss a 16 KiB LRU cache of the block's loads (stores)
  uint64_t bank_conflicts = 0;  // extra shared memory passes
};

struct Launch {
  std::string kernel;  // mangled
  unsigned grid[3] = {}, block[3] = {};
  uint64_t warp_instructions = 0, lane_instructions = 0;
  std::vector<Site> sites;  // in program order; only with settings().trace
};

std::vector<Launch>& launches();
std::vector<std::string>& reports();  // each with kernel and file:line of the instruction
void clear();                         // launches, reports, and the sticky error

// ---- The kernels of this process, and changing them.

std::vector<std::string> kernels(int arch);  // mangled names
std::string kernel_ptx(
    int arch, const std::string& name);  // text of the entry: ".visible .entry name(...) {...}"
void replace_kernel(int arch, const std::string& name,
                    const std::string& entry_text);  // throws if it does not parse
void restore_kernels();
// Those instructions of a kernel that any launch with settings().cover has run, as PTX text.
std::vector<std::string> covered(int arch, const std::string& name);

// Adds a PTX module given as text, as if a fat binary of that architecture had contained it. The
// second starts one of its kernels, given the mangled name and one pointer per parameter; returns
// the CUDA error code.
void load_ptx(int arch, const std::string& module_text);
int launch(const std::string& name, const unsigned (&grid)[3], const unsigned (&block)[3],
           void** arguments, size_t dynamic_shared_bytes = 0);

}  // namespace cudasim
