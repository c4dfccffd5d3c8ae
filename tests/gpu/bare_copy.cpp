// What the copy engines give without anything of ours above them: a bare loop over each call of the driver that could
// move KV blocks, on memory of the same kind (allocations of another process opened by IPC, a registered memfd).
//
//   g++ -O2 -std=c++17 -o bare_copy tests/gpu/bare_copy.cpp -ldl -pthread
//   bare_copy HOST HANDLE…     HOST: BYTES[:memfd|:huge[:PIECE_BYTES]], what to pin and in which pieces (all at once)
//                              the handles: one allocation for all layers, then one for each layer (hex)
//
// Answers "ready", then one line for each line on stdin:
//   copy load|save|both PRIMITIVE[+OPTION…] single|apart LAYERS WIDTH RUN BYTES SEED
//        →   "nanoseconds bytes submit_nanoseconds prepare_nanoseconds"
// A block is LAYERS rows of WIDTH bytes; RUN blocks in a row are neighbours on the GPU, the runs are scattered.
//   link      copies of 16 MiB, the ceiling            batch     every row by itself, 512 in one batched call
//   rows2d    one 2-D copy a block (its layers)        rows3d    the same, 64 blocks in one batched 3-D call
//   long      rows of RUN blocks, host layer-major     longrows  the same as 2-D copies over the layers, batched
//   runs3d    a run's rows of one layer as one 2-D copy, host block-major, batched
//   graph     rows2d as the nodes of CUDA graphs that were made before, 64 in one
//   staged    rows3d (apart: batch) between the blocks and 4 MiB pieces of GPU memory, those by plain copies on a second stream
// Options: call=N copies in one call · events one after each call · window=MIB at most so much on its way, by polled events
//   streams=N in turns from one thread · threads=N with a stream each · gathers=N streams between blocks and pieces
//   poll the oldest event is asked for before each call · times=N the same pass again and again
//   fresh on streams made for this pass · warm=N batched calls before it, of 512 plain copies each, or few (2)
//   order=ids blocks by their number · order=layers=G the same, but G blocks at a time layer by layer
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
#include <deque>
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
struct Half3d { size_t x, y, z, level; int memory; Address host, device, array, reserved; size_t pitch, height; };
struct Copy3d { Half3d source, destination; size_t width, height, depth; };
static_assert(sizeof(Operation) == 112 && sizeof(Copy2d) == 128 && sizeof(Copy3d) == 200, "as in cuda.h");

constexpr size_t kLink = 16 << 20, kBatch = 512, kBatch3d = 64, kBatchRuns = 512, kPiece = 4 << 20, kPieces = 8;
constexpr size_t kStreams = 4, kEvents = 64;
constexpr int kInvalid = 1, kMissing = 500, kNotReady = 600;

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
int (*record)(void *, void *);
int (*query)(void *);
int (*stream_wait)(void *, void *, unsigned);
int (*graph_launch)(void *, void *);

void require(int code, const char *what) {
  if (code) { fprintf(stderr, "bare_copy: %s failed: %d\n", what, code); exit(1); }
}

int64_t now() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

void *context;
void *streams[2][kStreams];
void *events[2][kStreams][kEvents];
Address pieces[2];
char *host;
size_t host_bytes;
std::vector<Address> memory;
std::vector<size_t> memory_bytes;

struct Way {
  std::string primitive;
  size_t call = 0, window = 0, streams = 1, threads = 1, group = 0, gathers = 1, times = 1, warm = 0;
  bool events = false, by_ids = false, poll = false, fresh = false, few = false;
};

// What one call of the driver takes: plain copies, strided ones, or a graph of them.
struct Call { enum { kLong, kPlain, kStrided2d, kStrided3d, kGraph } kind; size_t first, count, bytes; void *graph; };

struct Plan {
  bool load;
  Way way;
  std::vector<Address> destinations, sources;
  std::vector<size_t> lengths;
  std::vector<Operation> operations;
  std::vector<Copy2d> copies;
  std::vector<Call> calls;
  size_t bytes = 0;
};

// Any order only from host memory that nothing in the stream writes.
int source_order(const Plan &plan) { return plan.load && plan.way.primitive != "staged" ? 3 : 1; }

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
  int order = source_order(plan);
  plan.operations.push_back(
      {{1, from, from_pitch, rows, {0, 0}}, {1, to, to_pitch, rows, {0, 0}}, width, rows, 1, order, 1});
  Half on_host{0, 0, 1, at, 0, 0, host_pitch}, on_device{0, 0, 2, 0, device, 0, device_pitch};
  plan.copies.push_back({plan.load ? on_host : on_device, plan.load ? on_device : on_host, width, rows});
}

void *make_graph(const Copy2d *copies, size_t count) {
  static auto create = function<int (*)(void **, unsigned)>("cuGraphCreate");
  static auto add_node = function<int (*)(void **, void *, void **, size_t, const Copy3d *, void *)>("cuGraphAddMemcpyNode");
  static auto instantiate = function<int (*)(void **, void *, unsigned long long)>("cuGraphInstantiateWithFlags");
  static auto destroy = function<int (*)(void *)>("cuGraphDestroy");
  void *graph, *node, *made = nullptr;
  if (!create || create(&graph, 0)) return nullptr;
  for (size_t i = 0; i < count; i++) {
    const Half &from = copies[i].source, &to = copies[i].destination;
    Copy3d copy{{0, 0, 0, 0, from.memory, from.host, from.device, 0, 0, from.pitch, copies[i].height},
                {0, 0, 0, 0, to.memory, to.host, to.device, 0, 0, to.pitch, copies[i].height},
                copies[i].width, copies[i].height, 1};
    if (add_node(&node, graph, nullptr, 0, &copy, context)) return nullptr;
  }
  if (instantiate(&made, graph, 0)) made = nullptr;
  destroy(graph);
  return made;
}

void cut(Plan &plan) {
  const std::string &name = plan.way.primitive;
  auto calls = [&](decltype(Call::kind) kind, size_t total, size_t usual) {
    size_t most = plan.way.call ? plan.way.call : usual;
    for (size_t i = 0; i < total; i += most) {
      Call call{kind, i, std::min(most, total - i), 0, nullptr};
      for (size_t j = i; j < i + call.count; j++)
        call.bytes += kind <= Call::kPlain ? plan.lengths[j] : plan.copies[j].width * plan.copies[j].height;
      if (kind == Call::kGraph) call.graph = make_graph(&plan.copies[i], call.count);
      plan.calls.push_back(call);
    }
  };
  bool runs = name == "runs3d" || name == "longrows";
  calls(name == "link" ? Call::kLong : Call::kPlain, plan.lengths.size(), name == "link" ? 1 : kBatch);
  calls(name == "rows2d" ? Call::kStrided2d : name == "graph" ? Call::kGraph : Call::kStrided3d, plan.copies.size(),
        name == "rows2d" ? 16 : runs ? kBatchRuns : kBatch3d);
}

Plan make(bool load, const Way &way, bool single, size_t layers, size_t width, size_t run, size_t bytes, unsigned seed,
          size_t host_offset) {
  Plan plan;
  plan.load = load;
  plan.way = way;
  const std::string &primitive = way.primitive;
  if (primitive == "link") {
    bytes = std::min(bytes, memory_bytes[0]);
    for (size_t at = 0; at < bytes; at += kLink)
      add(plan, memory[0] + at, Address(host) + host_offset + at, std::min(kLink, bytes - at), 1, 0, 0);
    cut(plan);
    return plan;
  }
  size_t layer_bytes = single ? memory_bytes[0] / layers / width * width : memory_bytes[1];
  size_t groups = layer_bytes / width / run, wanted = std::min(groups, bytes / (layers * width * run));
  std::vector<size_t> order(groups), place(wanted);
  for (size_t i = 0; i < groups; i++) order[i] = i;
  for (size_t i = 0; i < wanted; i++) place[i] = i;
  std::shuffle(order.begin(), order.end(), std::mt19937(seed));
  if (way.by_ids) std::sort(place.begin(), place.end(), [&](size_t a, size_t b) { return order[a] < order[b]; });
  size_t part = layers * width, together = way.group ? way.group : 1, fit = kPiece / part;
  size_t a_piece = way.call ? std::min(way.call, fit) : fit;
  bool staged = primitive == "staged", plain = primitive == "batch" || (staged && !single);
  if (staged) host_offset = pieces[load ? 0 : 1] - Address(host);  // each block goes to where its piece lies, see submit_staged
  auto device = [&](size_t layer, size_t block) {
    return (single ? memory[0] + layer * layer_bytes : memory[1 + layer]) + block * width;
  };
  for (size_t from = 0; from < wanted; from += together) {
    size_t to = std::min(wanted, from + together), rounds = way.group && plain ? layers : 1;
    for (size_t round = 0; round < rounds; round++)
      for (size_t i = from; i < to; i++) {
        size_t g = place[i], first = order[g] * run;
        size_t slot = staged ? i % (kPieces * a_piece) : g;
        Address at = Address(host) + host_offset + slot * run * part;
        if (primitive == "long")
          for (size_t l = 0; l < layers; l++) add(plan, device(l, first), at + l * run * width, run * width, 1, 0, 0);
        else if (primitive == "longrows")
          add(plan, device(0, first), at, run * width, layers, layer_bytes, run * width);
        else if (primitive == "runs3d")
          for (size_t l = 0; l < layers; l++) add(plan, device(l, first), at + l * width, width, run, width, part);
        else if (!plain)
          for (size_t b = 0; b < run; b++) add(plan, device(0, first + b), at + b * part, width, layers, layer_bytes, width);
        else
          for (size_t b = 0; b < run; b++)
            for (size_t l = way.group ? round : 0; l < (way.group ? round + 1 : layers); l++)
              add(plan, device(l, first + b), at + b * part + l * width, width, 1, 0, 0);
      }
  }
  if (staged) plan.way.call = a_piece * (plain ? layers : 1);
  cut(plan);
  return plan;
}

int submit(Plan &plan, const Call &call, void *stream) {
  size_t fail, index = 0, first = call.first;
  Attributes attributes{source_order(plan), {0, 0}, {0, 0}, 1};
  Address *to = plan.destinations.data() + first, *from = plan.sources.data() + first;
  size_t *lengths = plan.lengths.data() + first;
  switch (call.kind) {
    case Call::kLong:
      return plan.load ? htod(*to, (void *)*from, *lengths, stream) : dtoh((void *)*to, *from, *lengths, stream);
    case Call::kPlain:
      return batch_v2   ? batch_v2(to, from, lengths, call.count, &attributes, &index, 1, stream)
             : batch_v1 ? batch_v1(to, from, lengths, call.count, &attributes, &index, 1, &fail, stream)
                        : kMissing;
    case Call::kStrided2d:
      for (size_t i = 0; i < call.count; i++)
        if (int code = copy2d(&plan.copies[first + i], stream)) return code;
      return 0;
    case Call::kStrided3d:
      return batch3d_v2   ? batch3d_v2(call.count, &plan.operations[first], 0, stream)
             : batch3d_v1 ? batch3d_v1(call.count, &plan.operations[first], &fail, 0, stream)
                          : kMissing;
    default:
      return call.graph ? graph_launch(call.graph, stream) : kMissing;
  }
}

// Blocks to pieces on one stream, pieces to the host on the other, or the other way; a piece waits for its last use.
int submit_staged(Plan &plan, int way, size_t host_offset) {
  void *link = streams[way][kStreams - 1];
  void **full = events[way][0], **empty = events[way][1];
  Address at = Address(host) + host_offset;
  for (size_t i = 0; i < plan.calls.size(); i++) {
    const Call &call = plan.calls[i];
    size_t slot = i % kPieces;
    void *gather = streams[way][i % plan.way.gathers];
    Address piece = pieces[way] + slot * plan.calls[0].bytes;
    void *first = plan.load ? link : gather, *second = plan.load ? gather : link;
    int code = i >= kPieces ? stream_wait(first, empty[slot], 0) : 0;
    if (!code) code = plan.load ? htod(piece, (void *)at, call.bytes, link) : submit(plan, call, gather);
    if (!code) code = record(full[slot], first);
    if (!code) code = stream_wait(second, full[slot], 0);
    if (!code) code = plan.load ? submit(plan, call, gather) : dtoh((void *)at, piece, call.bytes, link);
    if (!code) code = record(empty[slot], second);
    if (code) return code;
    at += call.bytes;
  }
  for (void *stream : streams[way])
    if (int code = synchronize(stream)) return code;
  return 0;
}

// Every calls of the thread's share, with what is on its way bounded as asked for.
int submit_share(Plan &plan, int way, size_t thread, int64_t *submitted) {
  size_t every = plan.way.threads, on_way = 0, next_event = 0, turn = 0;
  std::deque<std::pair<void *, size_t>> ends;
  for (size_t i = thread; i < plan.calls.size(); i += every) {
    while (plan.way.window && (on_way >= plan.way.window || ends.size() == kEvents)) {
      int code = query(ends.front().first);
      if (code == kNotReady) continue;
      if (code) return code;
      on_way -= ends.front().second;
      ends.pop_front();
    }
    if (plan.way.poll && !ends.empty() && query(ends.front().first) == 0) {
      on_way -= ends.front().second;
      ends.pop_front();
    }
    void *stream = streams[way][every > 1 ? thread : turn++ % plan.way.streams];
    if (int code = submit(plan, plan.calls[i], stream)) return code;
    if (plan.way.events || plan.way.window) {
      void *event = events[way][thread][next_event++ % kEvents];
      if (int code = record(event, stream)) return code;
      on_way += plan.calls[i].bytes;
      ends.emplace_back(event, plan.calls[i].bytes);
    }
  }
  if (thread == 0) *submitted = now();
  for (size_t s = every > 1 ? thread : 0; s < (every > 1 ? thread + 1 : plan.way.streams); s++)
    if (int code = synchronize(streams[way][s])) return code;
  return 0;
}

int run_once(Plan &plan, size_t host_offset, int64_t *submitted) {
  int way = plan.load ? 0 : 1;
  set_current(context);
  if (plan.way.primitive == "staged") {
    int code = submit_staged(plan, way, host_offset);
    *submitted = now();
    return code;
  }
  int codes[kStreams] = {};
  std::vector<std::thread> others;
  for (size_t t = 1; t < plan.way.threads; t++)
    others.emplace_back([&, t] {
      set_current(context);
      codes[t] = submit_share(plan, way, t, submitted);
    });
  codes[0] = submit_share(plan, way, 0, submitted);
  for (auto &other : others) other.join();
  for (int code : codes)
    if (code) return code;
  return 0;
}

// What a stream may need to have seen before it is at its best.
int prepare_streams(const Plan &plan, size_t host_offset) {
  static auto create = function<int (*)(void **, unsigned)>("cuStreamCreate");
  static auto destroy = function<int (*)(void *)>("cuStreamDestroy_v2");
  constexpr size_t width = 4096, pitch = 2 * width;
  int way = plan.load ? 0 : 1;
  Plan batch;
  batch.load = plan.load;
  batch.way.primitive = "batch";
  size_t copies = plan.way.few ? 2 : kBatch;
  for (size_t i = 0; i < copies; i++)
    add(batch, pieces[way] + i * pitch, Address(host) + host_offset + i * pitch, width, 1, 0, 0);
  cut(batch);
  for (void *&stream : streams[way]) {
    if (plan.way.fresh) {
      if (int code = destroy(stream)) return code;
      if (int code = create(&stream, 1)) return code;
    }
    for (size_t i = 0; i < plan.way.warm; i++)
      if (int code = submit(batch, batch.calls[0], stream)) return code;
    if (int code = synchronize(stream)) return code;
  }
  return 0;
}

int run(Plan &plan, size_t host_offset, int64_t *submitted) {
  for (size_t i = 0; i < plan.way.times; i++)
    if (int code = run_once(plan, host_offset, submitted)) return code;
  return 0;
}

bool parse(const std::string &text, Way &way) {
  std::istringstream words(text);
  std::getline(words, way.primitive, '+');
  for (std::string option; std::getline(words, option, '+');) {
    size_t at = option.find('=');
    std::string name = option.substr(0, at), value = at == std::string::npos ? "" : option.substr(at + 1);
    size_t number = strtoull(value.c_str(), nullptr, 10);
    if (name == "events") way.events = true;
    else if (name == "poll") way.poll = true;
    else if (name == "fresh") way.fresh = true;
    else if (name == "few") way.few = true;
    else if (name == "order") {
      way.by_ids = true;
      if (value.rfind("layers=", 0) == 0) way.group = strtoull(value.c_str() + 7, nullptr, 10);
    } else if (!number) return false;
    else if (name == "call") way.call = number;
    else if (name == "times") way.times = number;
    else if (name == "warm") way.warm = number;
    else if (name == "gathers" && number < kStreams) way.gathers = number;
    else if (name == "window") way.window = number << 20;
    else if (name == "streams" && number <= kStreams) way.streams = number;
    else if (name == "threads" && number <= kStreams) way.threads = number;
    else return false;
  }
  return true;
}

void answer(std::istringstream &words) {
  std::string direction, text, allocations;
  size_t layers, width, run_blocks, bytes;
  unsigned seed;
  Way way;
  words >> direction >> text >> allocations >> layers >> width >> run_blocks >> bytes >> seed;
  bool single = allocations == "single", both = direction == "both";
  bool bad = words.fail() || !layers || !width || !run_blocks || (!single && layers + 1 > memory.size()) || !parse(text, way);
  if (bad || (way.primitive == "staged" && (run_blocks > 1 || layers * width > kPiece))) {
    printf("refused %d\n", kInvalid);
    return;
  }
  bytes = std::min(bytes, both ? host_bytes / 2 : host_bytes);
  int64_t prepare = now();
  std::vector<Plan> plans;
  for (int i = 0; i < (both ? 2 : 1); i++)
    plans.push_back(make(both ? i == 0 : direction == "load", way, single, layers, width, run_blocks, bytes, seed + i,
                         i * (host_bytes / 2)));
  for (size_t i = 0; i < plans.size(); i++)
    if (int code = prepare_streams(plans[i], i * (host_bytes / 2))) {
      printf("refused %d\n", code);
      return;
    }
  int codes[2] = {0, 0};
  int64_t submitted[2] = {0, 0}, begin = now();
  if (both) {
    std::thread other([&] { codes[1] = run(plans[1], host_bytes / 2, &submitted[1]); });
    codes[0] = run(plans[0], 0, &submitted[0]);
    other.join();
  } else {
    codes[0] = run(plans[0], 0, &submitted[0]);
  }
  int64_t nanos = now() - begin;
  size_t moved = 0;
  static auto destroy = function<int (*)(void *)>("cuGraphExecDestroy");
  for (auto &plan : plans) {
    moved += plan.bytes * plan.way.times;
    for (auto &call : plan.calls)
      if (call.graph) destroy(call.graph);
  }
  if (codes[0] || codes[1])
    printf("refused %d\n", codes[0] ? codes[0] : codes[1]);
  else
    printf("%lld %zu %lld %lld\n", (long long)nanos, moved, (long long)(submitted[0] - begin), (long long)(begin - prepare));
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

void open_host(const std::string &text) {
  std::istringstream words(text);
  std::string bytes, kind, piece;
  std::getline(words, bytes, ':');
  std::getline(words, kind, ':');
  std::getline(words, piece, ':');
  host_bytes = strtoull(bytes.c_str(), nullptr, 10);
  if (!host_bytes || (!kind.empty() && kind != "memfd" && kind != "huge")) require(kInvalid, "reading HOST");
  size_t most = piece.empty() ? host_bytes : strtoull(piece.c_str(), nullptr, 10), huge = 2 << 20;
  int fd = -1, flags = MAP_PRIVATE | MAP_ANONYMOUS;
  if (kind != "huge") {
    fd = memfd_create("bare-copy", 0);
    if (fd < 0 || ftruncate(fd, static_cast<off_t>(host_bytes + huge))) require(errno, "memfd_create");
    flags = MAP_SHARED;
  }
  host = static_cast<char *>(mmap(nullptr, host_bytes + huge, PROT_READ | PROT_WRITE, flags, fd, 0));
  if (host == MAP_FAILED) require(errno, "mmap");
  host = reinterpret_cast<char *>((Address(host) + huge - 1) / huge * huge);
  if (kind == "huge") madvise(host, host_bytes, MADV_HUGEPAGE);
  memset(host, 1, host_bytes);
  auto pin = function<int (*)(void *, size_t, unsigned)>("cuMemHostRegister_v2");
  for (size_t at = 0; at < host_bytes; at += most)
    require(pin(host + at, std::min(most, host_bytes - at), 1), "cuMemHostRegister");
}

void open_streams() {
  auto stream_create = function<int (*)(void **, unsigned)>("cuStreamCreate");
  auto event_create = function<int (*)(void **, unsigned)>("cuEventCreate");
  for (int way = 0; way < 2; way++)
    for (size_t s = 0; s < kStreams; s++) {
      require(stream_create(&streams[way][s], 1), "cuStreamCreate");
      for (auto &event : events[way][s]) require(event_create(&event, 2), "cuEventCreate");
    }
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
  record = function<decltype(record)>("cuEventRecord");
  query = function<decltype(query)>("cuEventQuery");
  stream_wait = function<decltype(stream_wait)>("cuStreamWaitEvent");
  graph_launch = function<decltype(graph_launch)>("cuGraphLaunch");
  require(function<int (*)(unsigned)>("cuInit")(0), "cuInit");
  int device;
  require(function<int (*)(int *, int)>("cuDeviceGet")(&device, 0), "cuDeviceGet");
  require(function<int (*)(void **, int)>("cuDevicePrimaryCtxRetain")(&context, device), "cuDevicePrimaryCtxRetain");
  require(set_current(context), "cuCtxSetCurrent");
  open_streams();
  for (auto &memory_of_pieces : pieces)
    require(function<int (*)(Address *, size_t)>("cuMemAlloc_v2")(&memory_of_pieces, kPiece * kPieces), "cuMemAlloc");
  open_memory(argc - 2, argv + 2);
  open_host(argv[1]);
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
