package io.flexkv.ffm;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import java.io.IOException;
import java.io.UncheckedIOException;
import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.concurrent.atomic.AtomicBoolean;
import java.util.concurrent.locks.Lock;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;

final class SharedMemoryTest {
  @Test
  void createMemfd_isSealedAgainstChangesOfLength() throws IOException {
    int fd = SharedMemory.createMemfd("flexkv-test", 4096);
    try {
      assertThat(SharedMemory.seals(fd))
          .isEqualTo(SharedMemory.SEAL_SHRINK | SharedMemory.SEAL_GROW | SharedMemory.SEAL_SEAL);
      assertThat(SharedMemory.size(fd)).isEqualTo(4096);
    } finally {
      Linux.close(fd);
    }
  }

  @Test
  void mapShared_unsealedFile_refused() throws Exception {
    Process python =
        new ProcessBuilder(
                "python3",
                "-c",
                """
                import os, sys
                fd = os.memfd_create('m', os.MFD_ALLOW_SEALING); os.ftruncate(fd, 4096)
                print(fd, flush=True); sys.stdin.read()
                """)
            .start();
    try (var in = python.inputReader();
        Arena arena = Arena.ofConfined()) {
      String theirs = "/proc/" + python.pid() + "/fd/" + in.readLine();
      try (var file = new java.io.RandomAccessFile(theirs, "rw")) {
        int fd = descriptorOf(file);
        assertThatThrownBy(() -> SharedMemory.mapShared(fd, 4096, arena))
            .isInstanceOf(ErrnoException.class)
            .hasMessageContaining("seals=0");
      }
    } finally {
      python.destroyForcibly().waitFor();
    }
  }

  private static int descriptorOf(java.io.RandomAccessFile file) throws IOException {
    try (var fds = java.nio.file.Files.list(java.nio.file.Path.of("/proc/self/fd"))) {
      return fds.filter(fd -> linkOf(fd).contains("memfd:m"))
          .mapToInt(fd -> Integer.parseInt(fd.getFileName().toString()))
          .findFirst()
          .orElseThrow(() -> new IOException("no descriptor for " + file));
    }
  }

  private static String linkOf(java.nio.file.Path fd) {
    try {
      return java.nio.file.Files.readSymbolicLink(fd).toString();
    } catch (IOException e) {
      return "";
    }
  }

  @Test
  void mapShared_longerThanTheFile_refusedWithBothNumbers() throws IOException {
    int fd = SharedMemory.createMemfd("flexkv-test", 4096);
    try (Arena arena = Arena.ofConfined()) {
      assertThatThrownBy(() -> SharedMemory.mapShared(fd, 8192, arena))
          .isInstanceOf(ErrnoException.class)
          .hasMessageContaining("length=8192")
          .hasMessageContaining("file has 4096");
    } finally {
      Linux.close(fd);
    }
  }

  @Test
  void mapShared_afterItsArenaClosed_accessIsRefusedNotACrash() throws IOException {
    int fd = SharedMemory.createMemfd("flexkv-test", 4096);
    MemorySegment mapped;
    try (Arena arena = Arena.ofConfined()) {
      mapped = SharedMemory.mapShared(fd, 4096, arena);
      mapped.set(ValueLayout.JAVA_LONG, 0, 1);
    } finally {
      Linux.close(fd);
    }
    assertThatThrownBy(() -> mapped.get(ValueLayout.JAVA_LONG, 0))
        .isInstanceOf(IllegalStateException.class);
  }

  @Test
  void populate_keepsContents() throws IOException {
    int fd = SharedMemory.createMemfd("flexkv-test", 1 << 20);
    try (Arena arena = Arena.ofConfined()) {
      MemorySegment mapped = SharedMemory.mapShared(fd, 1 << 20, arena);
      mapped.set(ValueLayout.JAVA_LONG, 512 << 10, 42);
      SharedMemory.populate(mapped.address(), mapped.byteSize());
      assertThat(mapped.get(ValueLayout.JAVA_LONG, 512 << 10)).isEqualTo(42);
    } finally {
      Linux.close(fd);
    }
  }

  @Test
  @Timeout(20)
  void populate_whileAnotherForbidsIt_waitsForThat() throws Exception {
    try (Arena arena = Arena.ofShared()) {
      MemorySegment mapped = SharedMemory.reserve(1 << 20, 1 << 20, false, arena);
      AtomicBoolean populated = new AtomicBoolean();
      Lock noPopulation = SharedMemory.noPopulation();
      Thread other = Thread.ofPlatform().unstarted(() -> populate(mapped, populated));
      noPopulation.lock();
      try {
        other.start();
        while (other.getState() != Thread.State.WAITING) {
          assertThat(populated).as("pages are given though that is forbidden").isFalse();
          Thread.onSpinWait();
        }
      } finally {
        noPopulation.unlock();
      }
      other.join();
      assertThat(populated).isTrue();
    }
  }

  private static void populate(MemorySegment mapped, AtomicBoolean populated) {
    try {
      SharedMemory.populate(mapped.address(), mapped.byteSize());
      populated.set(true);
    } catch (ErrnoException e) {
      throw new UncheckedIOException(e);
    }
  }

  @Test
  void populate_addressNotMapped_failsWithTheAddress() {
    assertThatThrownBy(() -> SharedMemory.populate(0x1000, 4096))
        .isInstanceOf(ErrnoException.class)
        .hasMessageContaining("0x1000");
  }

  @Test
  void reserve_memory_isOfThisProcessAloneAndOnAHugePagesBorder() throws IOException {
    long address;
    try (Arena arena = Arena.ofShared()) {
      MemorySegment mapped = SharedMemory.reserve(3 << 20, true, arena);
      address = mapped.address();
      assertThatThrownBy(() -> SharedMemory.populate(mapped.address(), 3 << 20))
          .as("nothing is to be had before it is opened")
          .isInstanceOf(ErrnoException.class);
      SharedMemory.open(address, 3 << 20);
      assertThat(address % (2 << 20)).isZero();
      assertThat(mapped.byteSize()).isEqualTo(3 << 20);
      SharedMemory.populate(address, 3 << 20);
      mapped.set(ValueLayout.JAVA_BYTE, (3 << 20) - 1, (byte) 9);
      assertThat(flags(address)).contains("dc").contains("dd"); // not copied, not dumped
    }
    assertThat(flags(address)).isEmpty();
  }

  @Test
  void reserve_beginningCannotBeOpened_noAddressesAreTaken() throws IOException {
    long length = 1L << 40;
    long before = mappedPages();
    try (Arena arena = Arena.ofShared()) {
      // A length with which the end lies before the start: refused before anything is changed.
      assertThatThrownBy(() -> SharedMemory.reserve(length, -4096, false, arena))
          .isInstanceOf(ErrnoException.class)
          .hasMessageContaining("mprotect");
      assertThat(mappedPages() - before).isLessThan(length / 4096 / 2);
    }
  }

  private static long mappedPages() throws IOException {
    return Long.parseLong(Files.readString(Path.of("/proc/self/statm")).split(" ", 2)[0]);
  }

  @Test
  void giveBack_partOfARange_isClosedAndEmptyWhenOpenedAgainAndTheRestStays() throws IOException {
    try (Arena arena = Arena.ofShared()) {
      MemorySegment mapped = SharedMemory.reserve(1 << 20, true, arena);
      long half = 1 << 19;
      SharedMemory.open(mapped.address(), mapped.byteSize());
      mapped.fill((byte) 5);
      SharedMemory.giveBack(mapped.address() + half, half);
      assertThatThrownBy(() -> SharedMemory.populate(mapped.address() + half, half))
          .isInstanceOf(ErrnoException.class);
      SharedMemory.open(mapped.address() + half, half);
      assertThat(mapped.get(ValueLayout.JAVA_BYTE, half - 1)).isEqualTo((byte) 5);
      assertThat(mapped.get(ValueLayout.JAVA_BYTE, half)).isZero();
    }
  }

  /** The {@code VmFlags} of the mapping that holds an address, empty if none does. */
  private static String flags(long address) throws IOException {
    boolean inside = false;
    for (String line : Files.readAllLines(Path.of("/proc/self/smaps"))) {
      if (line.matches("[0-9a-f]+-[0-9a-f]+ .*")) {
        String[] range = line.substring(0, line.indexOf(' ')).split("-", -1);
        inside =
            Long.parseUnsignedLong(range[0], 16) <= address
                && address < Long.parseUnsignedLong(range[1], 16);
      } else if (inside && line.startsWith("VmFlags:")) {
        return line;
      }
    }
    return "";
  }
}
