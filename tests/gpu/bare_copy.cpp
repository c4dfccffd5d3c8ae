// What the copy engines give without anything of ours above them: a bare loop over each call of the driver that could
// move KV blocks, on memory of the same kind (allocations of another process opened by IPC, a registered memfd).
//
//   g++ -O2 -std=c++17 -o bare_copy tests/gpu/bare_copy.cpp -ldl -pthread
//   bare_copy HOST_BYTES HANDLE…       the handles: one allocation for all layers, then one for each layer (hex)
//
// Answers "ready", then one line for each line on stdin:
//   copy load|save|both PRIMITIVE single|apart LAYERS WIDTH RUN BYTES SEED   →   "nanoseconds bytes submit_nanoseconds"
// A block is LAYERS rows of WIDTH bytes; RUN blocks in a row are neighbours on the GPU, the runs are scattered.
//   link      copies of 16 MiB, the ceiling            batch     every row by itself, 512 in one batched call
//   rows2d    one 2-D copy a block (its layers)        rows3d    the same, 64 blocks in one batched 3-D call
//   long      rows of RUN blocks, host layer-major     longrows  the same as 2-D copies over the layers, batched
//   runs3d    a run's rows of one layer as one 2-D copy, host block-major, batched
// An answer "refused CODE" means that the driver did not take it.
#include <dlfcn.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <iostream>
#include <random>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

namespace {

using Address = uint64_t;
struct Handle { char bytes[64]; };
struct Attributes { int order, source[2], destination[2]; unsigned flags; };
struct Operand { int kind; Address address; size_t row, height; int location[2]; };
struct Operation { Operand source, destination; size_t width, height, depth; int order; unsigned flags; };
struct Half { size_t x, y; int memory; Address host, device, array; size_t pitch; };
struct Copy2d { Half source, destination; size_t width, height; };
static_assert(sizeof(Operation) == 112 && sizeof(Copy2d) == 128, "as in cuda.h");

constexpr size_t kLink = 16 << 20, kBatch = 512, kBatch3d = 64, kBatchRuns = 512;
constexpr int kInvalid = 1, kMissing = 500;

void *library;
template <class F> F function(const char *name) { return reinterpret_cast<F>(dlsym(library, name)); }
int (*htod)(Address, const void *, size_t, void *);
int (*dtoh)(void *, Address, size_t, void *);
int (*copy2d)(const Copy2d *, void *);
int (*batch_v2)(Address *, Address *, size_t *, size_t, Attributes *, size_t *, size_t, void *);
int (*batch_v1)(Address *, Address *, size_t *, size_t, Attributes *, size_t *, size_t, size_t *, void *);
int (*batch3d_v2)(size_t, Operation *, unsigned long long, void *);
int (*batch3d_v1)(size_t, Operation *, size_t *, unsigned long long, void *);
int (*synchronize)(void *);
int (*set_current)(void *);

void require(int code, const char *what) {
  if (code) { fprintf(stderr, "bare_copy: %s failed: %d\n", what, code); exit(1); }
}

int64_t now() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

void *context;
void *streams[2];
char *host;
size_t host_bytes;
std::vector<Address> memory;
std::vector<size_t> memory_bytes;

// Row by row {device, host}, or with pitches; made before the clock starts.
struct Rows { Address device; Address host; size_t width, rows, device_pitch, host_pitch; };

struct Plan {
  bool load;
  std::string primitive;
  std::vector<Rows> rows;
  std::vector<Address> destinations, sources;
  std::vector<size_t> lengths;
  std::vector<Operation> operations;
  std::vector<Copy2d> copies;
  size_t bytes = 0;
};

void add(Plan &plan, Address device, Address at, size_t width, size_t rows, size_t device_pitch, size_t host_pitch) {
  plan.bytes += width * rows;
  Address to = plan.load ? device : at, from = plan.load ? at : device;
  size_t to_pitch = plan.load ? device_pitch : host_pitch, from_pitch = plan.load ? host_pitch : device_pitch;
  if (rows == 1) {
    plan.destinations.push_back(to);
    plan.sources.push_back(from);
    plan.lengths.push_back(width);
    return;
  }
  int order = plan.load ? 3 : 1;
  plan.operations.push_back(
      {{1, from, from_pitch, rows, {0, 0}}, {1, to, to_pitch, rows, {0, 0}}, width, rows, 1, order, 1});
  Half on_host{0, 0, 1, at, 0, 0, host_pitch}, on_device{0, 0, 2, 0, device, 0, device_pitch};
  plan.copies.push_back({plan.load ? on_host : on_device, plan.load ? on_device : on_host, width, rows});
}

Plan make(bool load, const std::string &primitive, bool single, size_t layers, size_t width, size_t run, size_t bytes,
          unsigned seed, size_t host_offset) {
  Plan plan;
  plan.load = load;
  plan.primitive = primitive;
  if (primitive == "link") {
    bytes = std::min(bytes, memory_bytes[0]);
    for (size_t at = 0; at < bytes; at += kLink)
      add(plan, memory[0] + at, Address(host) + host_offset + at, std::min(kLink, bytes - at), 1, 0, 0);
    return plan;
  }
  size_t layer_bytes = single ? memory_bytes[0] / layers / width * width : memory_bytes[1];
  size_t groups = layer_bytes / width / run, wanted = std::min(groups, bytes / (layers * width * run));
  std::vector<size_t> order(groups);
  for (size_t i = 0; i < groups; i++) order[i] = i;
  std::shuffle(order.begin(), order.end(), std::mt19937(seed));
  size_t part = layers * width;
  auto device = [&](size_t layer, size_t block) {
    return (single ? memory[0] + layer * layer_bytes : memory[1 + layer]) + block * width;
  };
  for (size_t g = 0; g < wanted; g++) {
    size_t first = order[g] * run;
    Address at = Address(host) + host_offset + g * run * part;
    if (primitive == "long")
      for (size_t l = 0; l < layers; l++) add(plan, device(l, first), at + l * run * width, run * width, 1, 0, 0);
    else if (primitive == "longrows")
      add(plan, device(0, first), at, run * width, layers, layer_bytes, run * width);
    else if (primitive == "runs3d")
      for (size_t l = 0; l < layers; l++) add(plan, device(l, first), at + l * width, width, run, width, part);
    else
      for (size_t b = 0; b < run; b++) {
        if (primitive == "batch")
          for (size_t l = 0; l < layers; l++) add(plan, device(l, first + b), at + b * part + l * width, width, 1, 0, 0);
        else
          add(plan, device(0, first + b), at + b * part, width, layers, layer_bytes, width);
      }
  }
  return plan;
}

int submit(Plan &plan, void *stream) {
  size_t fail, index = 0;
  Attributes attributes{plan.load ? 3 : 1, {0, 0}, {0, 0}, 1};
  if (plan.primitive == "link") {
    for (size_t i = 0; i < plan.lengths.size(); i++) {
      int code = plan.load ? htod(plan.destinations[i], (void *)plan.sources[i], plan.lengths[i], stream)
                           : dtoh((void *)plan.destinations[i], plan.sources[i], plan.lengths[i], stream);
      if (code) return code;
    }
    return 0;
  }
  if (plan.primitive == "rows2d") {
    for (auto &copy : plan.copies)
      if (int code = copy2d(&copy, stream)) return code;
    return 0;
  }
  for (size_t i = 0; i < plan.lengths.size(); i += kBatch) {
    size_t n = std::min(kBatch, plan.lengths.size() - i);
    Address *to = &plan.destinations[i], *from = &plan.sources[i];
    int code = batch_v2   ? batch_v2(to, from, &plan.lengths[i], n, &attributes, &index, 1, stream)
               : batch_v1 ? batch_v1(to, from, &plan.lengths[i], n, &attributes, &index, 1, &fail, stream)
                          : kMissing;
    if (code) return code;
  }
  size_t slice = plan.primitive == "rows3d" ? kBatch3d : kBatchRuns;
  for (size_t i = 0; i < plan.operations.size(); i += slice) {
    size_t n = std::min(slice, plan.operations.size() - i);
    int code = batch3d_v2   ? batch3d_v2(n, &plan.operations[i], 0, stream)
               : batch3d_v1 ? batch3d_v1(n, &plan.operations[i], &fail, 0, stream)
                            : kMissing;
    if (code) return code;
  }
  return 0;
}

void answer(std::istringstream &words) {
  std::string direction, primitive, allocations;
  size_t layers, width, run, bytes;
  unsigned seed;
  words >> direction >> primitive >> allocations >> layers >> width >> run >> bytes >> seed;
  bool single = allocations == "single", both = direction == "both";
  if (words.fail() || !layers || !width || !run || (!single && layers + 1 > memory.size())) {
    printf("refused %d\n", kInvalid);
    return;
  }
  bytes = std::min(bytes, both ? host_bytes / 2 : host_bytes);
  std::vector<Plan> plans;
  for (int i = 0; i < (both ? 2 : 1); i++)
    plans.push_back(make(both ? i == 0 : direction == "load", primitive, single, layers, width, run, bytes, seed + i,
                         i * (host_bytes / 2)));
  int codes[2] = {0, 0};
  int64_t submitted = 0, begin = now();
  auto work = [&](int i) {
    set_current(context);
    void *stream = streams[plans[i].load ? 0 : 1];
    codes[i] = submit(plans[i], stream);
    if (i == 0) submitted = now() - begin;
    int code = synchronize(stream);
    if (!codes[i]) codes[i] = code;
  };
  if (both) {
    std::thread other(work, 1);
    work(0);
    other.join();
  } else {
    work(0);
  }
  int64_t nanos = now() - begin;
  size_t moved = 0;
  for (auto &plan : plans) moved += plan.bytes;
  if (codes[0] || codes[1])
    printf("refused %d\n", codes[0] ? codes[0] : codes[1]);
  else
    printf("%lld %zu %lld\n", (long long)nanos, moved, (long long)submitted);
}

void open_memory(int count, char **handles) {
  auto open = function<int (*)(Address *, Handle, unsigned)>("cuIpcOpenMemHandle_v2");
  auto range = function<int (*)(Address *, size_t *, Address)>("cuMemGetAddressRange_v2");
  for (int i = 0; i < count; i++) {
    Handle handle{};
    for (int b = 0; b < 64; b++) {
      unsigned byte;
      if (sscanf(handles[i] + 2 * b, "%2x", &byte) != 1) require(kInvalid, "reading a handle");
      handle.bytes[b] = static_cast<char>(byte);
    }
    Address at, base;
    size_t bytes;
    require(open(&at, handle, 1), "cuIpcOpenMemHandle");
    require(range(&base, &bytes, at), "cuMemGetAddressRange");
    memory.push_back(at);
    memory_bytes.push_back(bytes);
  }
}

void open_host() {
  int fd = memfd_create("bare-copy", 0);
  if (fd < 0 || ftruncate(fd, static_cast<off_t>(host_bytes))) require(errno, "memfd_create");
  host = static_cast<char *>(mmap(nullptr, host_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0));
  if (host == MAP_FAILED) require(errno, "mmap");
  memset(host, 1, host_bytes);
  auto pin = function<int (*)(void *, size_t, unsigned)>("cuMemHostRegister_v2");
  require(pin(host, host_bytes, 1), "cuMemHostRegister");
}

}  // namespace

int main(int argc, char **argv) {
  if (argc < 3) { fprintf(stderr, "usage: bare_copy HOST_BYTES HANDLE…\n"); return 2; }
  library = dlopen("libcuda.so.1", RTLD_NOW);
  if (!library) { fprintf(stderr, "bare_copy: %s\n", dlerror()); return 1; }
  htod = function<decltype(htod)>("cuMemcpyHtoDAsync_v2");
  dtoh = function<decltype(dtoh)>("cuMemcpyDtoHAsync_v2");
  copy2d = function<decltype(copy2d)>("cuMemcpy2DAsync_v2");
  batch_v2 = function<decltype(batch_v2)>("cuMemcpyBatchAsync_v2");
  batch_v1 = function<decltype(batch_v1)>("cuMemcpyBatchAsync");
  batch3d_v2 = function<decltype(batch3d_v2)>("cuMemcpy3DBatchAsync_v2");
  batch3d_v1 = function<decltype(batch3d_v1)>("cuMemcpy3DBatchAsync");
  synchronize = function<decltype(synchronize)>("cuStreamSynchronize");
  set_current = function<decltype(set_current)>("cuCtxSetCurrent");
  require(function<int (*)(unsigned)>("cuInit")(0), "cuInit");
  int device;
  require(function<int (*)(int *, int)>("cuDeviceGet")(&device, 0), "cuDeviceGet");
  require(function<int (*)(void **, int)>("cuDevicePrimaryCtxRetain")(&context, device), "cuDevicePrimaryCtxRetain");
  require(set_current(context), "cuCtxSetCurrent");
  for (auto &stream : streams)
    require(function<int (*)(void **, unsigned)>("cuStreamCreate")(&stream, 1), "cuStreamCreate");
  host_bytes = strtoull(argv[1], nullptr, 10);
  open_memory(argc - 2, argv + 2);
  open_host();
  puts("ready");
  fflush(stdout);
  for (std::string line; std::getline(std::cin, line);) {
    std::istringstream words(line);
    std::string command;
    words >> command;
    if (command == "copy") answer(words);
    else printf("refused %d\n", kInvalid);
    fflush(stdout);
  }
}
