/*
 * Stands between a process and the accesses that it makes to files below one folder: makes them
 * fail or wait, as a page of shared memory says. To be preloaded (LD_PRELOAD); the Java runtime
 * asks dlsym for the functions of the C library that it calls, and so it is dlsym that lies here.
 *
 * The page, native byte order:
 *    0 i32  error number of reads, 0 = none        12 i32  1 = everything waits
 *    4 i32  error number of writes                 16 i32  accesses that failed or waited
 *    8 i32  error number of barriers (fdatasync)   20 i32  initial of the only folder in it, 0 = all
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { READ = 0, WRITE = 1, BARRIER = 2, STALLED = 3, HITS = 4, ONLY = 5, PAGE = 4096 };

static const char *folder;
static int32_t *control;

__attribute__((constructor)) static void begin(void) {
  const char *path = getenv("FAULTY_CONTROL");
  folder = getenv("FAULTY_FOLDER");
  int fd = path && folder ? open(path, O_RDWR | O_CLOEXEC) : -1;
  if (fd >= 0) {
    void *page = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    control = page == MAP_FAILED ? NULL : page;
    close(fd);
  }
}

static int32_t now(int field) { return __atomic_load_n(&control[field], __ATOMIC_ACQUIRE); }

static int meant(int fd) {
  char link[64], path[4096];
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  ssize_t length = control ? readlink(link, path, sizeof path) : -1;
  ssize_t prefix = control ? (ssize_t)strlen(folder) : 0;
  if (length <= prefix + 1 || path[prefix] != '/' || strncmp(path, folder, prefix) != 0) {
    return 0;
  }
  int32_t only = now(ONLY);
  return only == 0 || path[prefix + 1] == only;
}

/* The error number of an access, 0 if it may go on; waits before, while the disk stalls. */
static int fault(int fd, int kind) {
  if (!meant(fd)) {
    return 0;
  }
  if (now(STALLED)) {
    __atomic_fetch_add(&control[HITS], 1, __ATOMIC_ACQ_REL);
    while (now(STALLED)) {
      usleep(1000);
    }
  }
  int error = now(kind);
  if (error) {
    __atomic_fetch_add(&control[HITS], 1, __ATOMIC_ACQ_REL);
  }
  return error;
}

static ssize_t faulty_pread(int fd, void *to, size_t length, off_t offset) {
  errno = fault(fd, READ);
  return errno ? -1 : pread(fd, to, length, offset);
}

static ssize_t faulty_pwrite(int fd, const void *from, size_t length, off_t offset) {
  errno = fault(fd, WRITE);
  return errno ? -1 : pwrite(fd, from, length, offset);
}

static int faulty_fdatasync(int fd) {
  errno = fault(fd, BARRIER);
  return errno ? -1 : fdatasync(fd);
}

typedef void *(*lookup)(void *, const char *);

static lookup real(void) {
  static const char *versions[] = {"GLIBC_2.34", "GLIBC_2.17", "GLIBC_2.2.5"};
  for (unsigned i = 0; i < sizeof versions / sizeof *versions; i++) {
    void *found = dlvsym(RTLD_NEXT, "dlsym", versions[i]);
    if (found) {
      return (lookup)found;
    }
  }
  abort();
}

void *dlsym(void *handle, const char *name) {
  static lookup found;
  if (!found) {
    found = real();
  }
  if (strcmp(name, "pread") == 0) {
    return (void *)faulty_pread;
  }
  if (strcmp(name, "pwrite") == 0) {
    return (void *)faulty_pwrite;
  }
  return strcmp(name, "fdatasync") == 0 ? (void *)faulty_fdatasync : found(handle, name);
}
