/*
 * A stand-in for libcuda.so.1 on machines without a GPU: "device memory" is a shared file, so that
 * handles work between processes. It is stricter than the driver where the driver's behaviour must
 * not be relied upon: batches refuse memory that is not registered and copies of several lengths
 * or extents, every copy refuses a host range that lies in two registrations, and an event is complete only at
 * its third query. What is on a
 * stream runs when it must (somebody waits for it) or, by chance, as soon as it may: so an order that
 * nobody demanded does not hold.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

typedef int CUresult;
typedef uint64_t CUdeviceptr;
enum { OK = 0, INVALID = 1, ALREADY = 712, NOT_REGISTERED = 713, NOT_READY = 600 };
#define MAX 4096
static struct { uint64_t start, length; } registered[MAX], mapped[MAX];
static int registrations, mappings, named;
static uint64_t visited[MAX]; /* since mappings changed: 32 MiB where a small plain load came first */
static long fast_rows, slow_rows; /* strided loads, by whether theirs was */
static long fast_wide_rows, slow_wide_rows; /* of rows that the processor never writes */
static long after_shortage; /* batches of a stream that was once told of a shortage */
static void *told;
static long by_processor; /* small loads onto a stream that may rest, but for those of 4 KiB and less */
static long rows_at_rest, rows_on_work; /* small loads without a lead, by what they met */
static int shortages, streams;
struct event {
  int queries;
  int64_t ready_ns;
  struct stream *stream;
  long recorded, done;
};
struct op {
  void *to;
  const void *from;
  size_t bytes;
  struct event *event;
  long number;
  enum { COPY, MARK, WAIT } kind;
};
struct stream {
  int magic;
  unsigned dice;
  struct op *ops;
  size_t head, tail, room;
  int led; /* the last that was submitted is a long copy: what comes now meets no rest */
};
enum { MAGIC = 0x55aa };
typedef struct { char bytes[64]; } handle;

static int64_t now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * 1000000000ll + t.tv_nsec;
}

static void forget(void) { memset(visited, 0, sizeof visited); }

static void *shared(const char *path, size_t length, int create) {
  int fd = open(path, O_RDWR | (create ? O_CREAT : 0), 0600);
  if (fd < 0) return NULL;
  if (create && ftruncate(fd, length)) return NULL;
  if (!create) length = lseek(fd, 0, SEEK_END);
  void *p = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  close(fd);
  if (p == MAP_FAILED) return NULL;
  mapped[mappings].start = (uint64_t)p;
  mapped[mappings++].length = length;
  return p;
}

static void name(char *out, int pid, uint64_t key) {
  const char *dir = getenv("FAKE_CUDA_DIR");
  snprintf(out, 256, "%s/fakecuda-%d-%lx", dir ? dir : "/tmp", pid, key);
}

CUresult cuInit(unsigned flags) { return flags; }
CUresult cuDriverGetVersion(int *v) { *v = 13000; return OK; }
CUresult cuDeviceGetCount(int *n) { *n = 1; return OK; }
CUresult cuDeviceGet(int *d, int i) { *d = i; return i ? 101 : OK; }
CUresult cuDeviceGetUuid(char *u, int d) { memset(u, 0xab, 16); return d; }
#ifdef PARTED /* the UUID of an instance, where the older call has that of the whole GPU */
CUresult cuDeviceGetUuid_v2(char *u, int d) { memset(u, 0xcd, 16); return d; }
#endif
CUresult cuDevicePrimaryCtxRetain(void **c, int d) { *c = (void *)0x77; return d; }
static __thread void *current;
CUresult cuCtxSetCurrent(void *c) { current = c; return OK; }
CUresult cuCtxSynchronize(void) { return OK; }
CUresult cuGetErrorName(int code, const char **out) {
  *out = code == INVALID ? "CUDA_ERROR_INVALID_VALUE" : "CUDA_ERROR_OTHER";
  return OK;
}
CUresult cuStreamCreate(struct stream **s, unsigned flags) {
  *s = calloc(1, sizeof **s);
  (*s)->magic = MAGIC;
  streams++;
  return flags == 1 ? OK : INVALID;
}
static int is_stream(struct stream *s) { return s && s->magic == MAGIC; }

/* Up to a mark of an event, or all; where not all that it waits for is to be run first, up to that. */
static void run(struct stream *s, struct event *until, long number, int must) {
  while (s->head < s->tail) {
    struct op *op = &s->ops[s->head];
    if (op->kind == WAIT && op->event->done < op->number) {
      if (!must) return;
      run(op->event->stream, op->event, op->number, 1);
    }
    s->head++;
    if (op->kind == COPY) memcpy(op->to, op->from, op->bytes);
    if (op->kind == MARK) op->event->done = op->number;
    if (op->kind == MARK && op->event == until && op->number >= number) return;
  }
}
static void push(struct stream *s, struct op op) {
  if (s->head == s->tail) s->head = s->tail = 0;
  if (s->tail == s->room) s->ops = realloc(s->ops, (s->room = 2 * s->room + 64) * sizeof op);
  s->ops[s->tail++] = op;
  s->led = 0;
  s->dice = s->dice * 1664525 + 1013904223;
  if (s->dice >> 30 == 0) run(s, NULL, 0, 0);
}
static void copy(struct stream *s, void *to, const void *from, size_t bytes) {
  push(s, (struct op){to, from, bytes, NULL, 0, COPY});
}
CUresult cuStreamSynchronize(struct stream *s) {
  if (!is_stream(s)) return INVALID;
  run(s, NULL, 0, 1);
  return OK;
}
static int at_rest(struct stream *s) { return s->head == s->tail; }
CUresult cuStreamQuery(struct stream *s) {
  if (!is_stream(s)) return INVALID;
  if (at_rest(s)) return OK;
  run(s, NULL, 0, 1);
  return NOT_READY;
}
CUresult cuStreamDestroy_v2(struct stream *s) {
  streams--;
  return cuStreamSynchronize(s);
}

#ifdef SHORT_OF_EVENTS
static int events;
#endif
CUresult cuEventCreate(struct event **e, unsigned flags) {
  if (!current) return 201;
#ifdef SHORT_OF_EVENTS
  if (++events == 20) return 2;
#endif
  if (flags & 4) {
    char path[256];
    name(path, getpid(), 0xe);
    *e = shared(path, 4096, 1);
  } else {
    *e = calloc(1, sizeof **e);
  }
  return OK;
}
CUresult cuEventRecord(struct event *e, struct stream *s) {
  if (!is_stream(s)) return INVALID;
  e->queries = 0;
  if (e->ready_ns) {
    e->ready_ns = now() + 50000000;
    return OK;
  }
  e->stream = s;
  push(s, (struct op){.event = e, .number = ++e->recorded, .kind = MARK});
  return OK;
}
CUresult cuEventQuery(struct event *e) {
  if (!current) return 201;
  if (e->ready_ns) return now() >= e->ready_ns ? OK : NOT_READY;
  if (++e->queries < 3) return NOT_READY;
  if (e->done < e->recorded) run(e->stream, e, e->recorded, 1);
  return OK;
}
CUresult cuStreamWaitEvent(struct stream *s, struct event *e, unsigned flags) {
  if (!is_stream(s) || !e || flags) return INVALID;
  push(s, (struct op){.event = e, .number = e->recorded, .kind = WAIT});
  return OK;
}
CUresult cuEventDestroy_v2(struct event *e) { return e ? OK : 400; }
CUresult cuIpcCloseMemHandle(CUdeviceptr p);
CUresult cuIpcGetEventHandle(handle *h, struct event *e) {
  memset(h, 0, 64);
  name(h->bytes, getpid(), 0xe);
  e->ready_ns = 1;
  return OK;
}
CUresult cuIpcOpenEventHandle(struct event **e, handle h) {
  if (!current) return 201;
  *e = shared(h.bytes, 4096, 0);
  return *e ? OK : INVALID;
}

/* So that a test sees what shows in no byte that it compares. */
static void say(const char *what, long count) {
  char path[256];
  const char *dir = getenv("FAKE_CUDA_DIR");
  snprintf(path, 256, "%s/%s-%d", dir ? dir : "/tmp", what, getpid());
  FILE *f = count ? fopen(path, "w") : NULL;
  if (f) fprintf(f, "%ld", count);
  if (f) fclose(f);
}
static void __attribute__((destructor)) say_all(void) {
  say("fast-rows", fast_rows);
  say("fast-wide-rows", fast_wide_rows);
  say("slow-wide-rows", slow_wide_rows);
  say("slow-rows", slow_rows);
  say("after-shortage", after_shortage);
  say("by-processor", by_processor);
  say("rows-at-rest", rows_at_rest);
  say("rows-on-work", rows_on_work);
  say("streams-left", streams);
}
CUresult cuMemAlloc_v2(CUdeviceptr *p, size_t length) {
  char path[256];
  name(path, getpid(), ++named);
  *p = (CUdeviceptr)shared(path, length, 1);
  return *p ? OK : 2;
}
CUresult cuMemFree_v2(CUdeviceptr p) { return cuIpcCloseMemHandle(p); }
CUresult cuIpcGetMemHandle(handle *h, CUdeviceptr p) {
  memset(h, 0, 64);
  for (int i = 0; i < mappings; i++)
    if (mapped[i].start == p) { name(h->bytes, getpid(), i + 1); return OK; }
  return INVALID;
}
CUresult cuIpcOpenMemHandle_v2(CUdeviceptr *p, handle h, unsigned flags) {
  if (!current) return 201;
  if (flags != 1) return INVALID;
  forget();
  *p = (CUdeviceptr)shared(h.bytes, 0, 0);
  return *p ? OK : INVALID;
}
CUresult cuIpcCloseMemHandle(CUdeviceptr p) {
  forget();
  for (int i = 0; i < mappings; i++)
    if (mapped[i].start == p) {
      munmap((void *)p, mapped[i].length);
      mapped[i].start = 0;
      return OK;
    }
  return INVALID;
}
CUresult cuMemGetAddressRange_v2(CUdeviceptr *base, size_t *size, CUdeviceptr p) {
  for (int i = 0; i < mappings; i++)
    if (p >= mapped[i].start && p < mapped[i].start + mapped[i].length) {
      *base = mapped[i].start;
      *size = mapped[i].length;
      return OK;
    }
  return INVALID;
}

CUresult cuMemHostRegister_v2(uint64_t p, size_t length, unsigned flags) {
  if (!current) return 201;
  if (flags != 1 || p % 4096 || !length || length >> 47 || registrations == MAX) return INVALID;
  forget();
  registered[registrations].length = length;
  __atomic_store_n(&registered[registrations].start, p, __ATOMIC_RELEASE);
  __atomic_add_fetch(&registrations, 1, __ATOMIC_RELEASE);
  return OK;
}
CUresult cuMemHostUnregister(uint64_t p) {
  forget();
  for (int i = 0; i < registrations; i++)
    if (p && registered[i].start == p) {
      __atomic_store_n(&registered[i].start, 0, __ATOMIC_RELEASE);
      registered[i].length = 0;
      return OK;
    }
  return NOT_REGISTERED;
}

/* 1 = in one registration, 0 = in none, -1 = across a border */
static int pinned(uint64_t p, size_t length) {
  for (int i = 0; i < registrations; i++) {
    uint64_t s = registered[i].start, e = s + registered[i].length;
    if (p >= s && p + length <= e) return 1;
    if (p < e && p + length > s) return -1;
  }
  return 0;
}
static int on_device(uint64_t p, size_t length) {
  for (int i = 0; i < mappings; i++)
    if (mapped[i].start && p >= mapped[i].start && p + length <= mapped[i].start + mapped[i].length) return 1;
  return 0;
}
CUresult cuMemcpyHtoDAsync_v2(CUdeviceptr d, const void *h, size_t n, void *s) {
  if (!current) return 201;
  if (!is_stream(s) || !on_device(d, n) || pinned((uint64_t)h, n) < 0) return INVALID;
  copy(s, (void *)d, h, n);
  ((struct stream *)s)->led = n >= 32 << 10;
  return pinned((uint64_t)h, n) ? OK : cuStreamSynchronize(s);
}
CUresult cuMemcpyDtoHAsync_v2(void *h, CUdeviceptr d, size_t n, void *s) {
  if (!current) return 201;
  if (!is_stream(s) || !on_device(d, n) || pinned((uint64_t)h, n) < 0) return INVALID;
  copy(s, h, (void *)d, n);
  return pinned((uint64_t)h, n) ? OK : cuStreamSynchronize(s);
}
CUresult cuMemcpyHtoD_v2(CUdeviceptr d, const void *h, size_t n) { memcpy((void *)d, h, n); return OK; }
CUresult cuMemcpyDtoH_v2(void *h, CUdeviceptr d, size_t n) { memcpy(h, (void *)d, n); return OK; }
CUresult cuMemcpyDtoDAsync_v2(CUdeviceptr a, CUdeviceptr b, size_t n, void *s) { (void)a; (void)b; (void)n; (void)s; return OK; }

struct attributes { int order, source[2], destination[2]; unsigned flags; };
static CUresult batch(uint64_t *dst, uint64_t *src, size_t *size, size_t count, struct attributes *a,
                      size_t *index, size_t attributes, void *s) {
  if (!current) return 201;
#ifdef WITHOUT_BATCHES
  return 801;
#endif
#ifdef SHORT_TWICE
  after_shortage += told == s && shortages == 2;
  if (!told) told = s;
  if (told == s && shortages < 2) {
    shortages++;
    return 2;
  }
#endif
  if (!is_stream(s) || attributes != 1 || index[0] != 0 || a->flags != 1) return INVALID;
  if (a->source[0] || a->source[1] || a->destination[0] || a->destination[1]) return INVALID;
  int may_rest = !((struct stream *)s)->led && count >= 8, rests = at_rest(s);
  for (size_t i = 0; i < count; i++) {
    int load = on_device(dst[i], size[i]);
    by_processor += may_rest && load && size[i] > 4096 && size[i] < 32 << 10;
    if (load && on_device(src[i], size[i])) {
      if (a->order != 1) return INVALID;
      copy(s, (void *)dst[i], (void *)src[i], size[i]);
      continue;
    }
    uint64_t host = load ? src[i] : dst[i];
    if (a->order != (load ? 3 : 1) || pinned(host, size[i]) != 1) return INVALID;
    if (!load && !on_device(src[i], size[i])) return INVALID;
    if (size[i] != size[0]) return INVALID;
    if (load && may_rest && size[i] <= 4096) *(rests ? &rows_at_rest : &rows_on_work) += 1;
    if (load && rests && size[i] < 32 << 10) { /* by the processor, at once */
      visited[dst[i] >> 25 & (MAX - 1)] = dst[i] >> 25;
      memcpy((void *)dst[i], (void *)src[i], size[i]);
      continue;
    }
    copy(s, (void *)dst[i], (void *)src[i], size[i]);
  }
  return OK;
}
#ifndef WITHOUT_V1
CUresult cuMemcpyBatchAsync(uint64_t *dst, uint64_t *src, size_t *size, size_t count,
                            struct attributes *a, size_t *index, size_t n, size_t *fail, void *s) {
  *fail = SIZE_MAX;
  return batch(dst, src, size, count, a, index, n, s);
}
#endif

/* Rows between one allocation of the device and one registration of the host. */
static CUresult copy_rows(int load, uint64_t device, size_t device_pitch, uint64_t host, size_t host_pitch,
                          size_t width, size_t height, void *s) {
  if (!current) return 201;
#ifdef WITHOUT_STRIDED
  return INVALID;
#endif
  if (device_pitch >> 31 || host_pitch >> 31) return INVALID;
  if (!is_stream(s) || !width || !height || device_pitch < width || host_pitch < width) return INVALID;
  if (!on_device(device, (height - 1) * device_pitch + width)) return INVALID;
  size_t there = (height - 1) * host_pitch + width;
  int fast = visited[device >> 25 & (MAX - 1)] == device >> 25;
  if (load) *(fast ? &fast_rows : &slow_rows) += 1;
  if (load && width >= 32 << 10) *(fast ? &fast_wide_rows : &slow_wide_rows) += 1;
  if (pinned(host, there) != 1 && !on_device(host, there)) return INVALID;
  for (size_t i = 0; i < height; i++) {
#ifdef WRONG_STRIDED
    if (i == height - 1) break;
#endif
    void *d = (void *)(device + i * device_pitch), *h = (void *)(host + i * host_pitch);
    copy(s, load ? d : h, load ? h : d, width);
  }
  return OK;
}
struct copy2d {
  struct { size_t x, y; int memory; uint64_t host, device, array; size_t pitch; } source, destination;
  size_t width, height;
};
CUresult cuMemcpy2DAsync_v2(struct copy2d *c, void *s) {
  int load = c->source.memory == 1;
  if (c->source.memory + c->destination.memory != 3 || c->source.x || c->source.y || c->destination.x ||
      c->destination.y || c->source.pitch >> 31 || c->destination.pitch >> 31)
    return INVALID;
  if (load)
    return copy_rows(1, c->destination.device, c->destination.pitch, c->source.host, c->source.pitch,
                     c->width, c->height, s);
  return copy_rows(0, c->source.device, c->source.pitch, c->destination.host, c->destination.pitch,
                   c->width, c->height, s);
}
struct operand { int kind; uint64_t address; size_t row_length, layer_height; int location[2]; };
struct operation { struct operand source, destination; size_t width, height, depth; int order; unsigned flags; };
static CUresult batch_3d(size_t count, struct operation *ops, unsigned long long flags, void *s) {
#ifdef WITHOUT_BATCHES
  return 801;
#endif
  if (flags) return INVALID;
  for (size_t i = 0; i < count; i++) {
    struct operation *o = &ops[i];
    struct operand *ends[] = {&o->source, &o->destination};
    for (int e = 0; e < 2; e++)
      if (ends[e]->kind != 1 || ends[e]->location[0] || ends[e]->location[1] || ends[e]->layer_height != o->height)
        return INVALID;
    int load = on_device(o->destination.address, 1);
    int within = load && on_device(o->source.address, 1);
    if (o->width != ops->width || o->height != ops->height) return INVALID;
    if (o->depth != 1 || o->flags != 1 || o->order != (load && !within ? 3 : 1)) return INVALID;
    struct operand *device = load ? &o->destination : &o->source, *host = load ? &o->source : &o->destination;
    CUresult result = copy_rows(load, device->address, device->row_length, host->address, host->row_length,
                                o->width, o->height, s);
    if (result) return result;
  }
  return OK;
}
CUresult cuMemcpy3DBatchAsync(size_t n, struct operation *ops, size_t *fail, unsigned long long flags, void *s) {
  *fail = SIZE_MAX;
  return batch_3d(n, ops, flags, s);
}
#ifndef WITHOUT_V2
CUresult cuMemcpy3DBatchAsync_v2(size_t n, struct operation *ops, unsigned long long flags, void *s) {
  return batch_3d(n, ops, flags, s);
}
CUresult cuMemcpyBatchAsync_v2(uint64_t *dst, uint64_t *src, size_t *size, size_t count,
                               struct attributes *a, size_t *index, size_t n, void *s) {
  return batch(dst, src, size, count, a, index, n, s);
}
#endif
