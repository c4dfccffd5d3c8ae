package io.flexkv.ffm;

import static java.lang.foreign.ValueLayout.ADDRESS;
import static java.lang.foreign.ValueLayout.JAVA_INT;
import static java.lang.foreign.ValueLayout.JAVA_LONG;

import java.lang.foreign.Arena;
import java.lang.foreign.FunctionDescriptor;
import java.lang.foreign.Linker;
import java.lang.foreign.MemorySegment;
import java.lang.invoke.MethodHandle;
import java.util.List;

/**
 * From which NUMA nodes the pages of a range come: {@code mbind(2)}, which libc has no name for.
 */
public final class NumaMemory {
  private static final int MPOL_PREFERRED = 1;
  private static final int MPOL_INTERLEAVE = 3;

  /** The mask's bits; no kernel has more nodes (CONFIG_NODES_SHIFT is 10 at most). */
  private static final int NODES_MAX = 1024;

  private static final MethodHandle SYSCALL_MBIND =
      Libc.function(
          "syscall",
          FunctionDescriptor.of(
              JAVA_LONG, JAVA_LONG, JAVA_LONG, JAVA_LONG, JAVA_INT, ADDRESS, JAVA_LONG, JAVA_INT),
          Linker.Option.firstVariadicArg(1));

  private NumaMemory() {}

  /**
   * Lets pages that the range has not got yet come from these nodes: from one while it has any,
   * from several in turn. A node that is full is passed over, so nothing is ever refused for that.
   *
   * @param address of a page
   * @param nodes one at least, each from 0 to 1023
   * @throws ErrnoException {@code EPERM} in a container that may not ({@code CAP_SYS_NICE}), {@code
   *     EINVAL} if no such node is there for this process, {@code ENOSYS} from a kernel without
   *     NUMA
   */
  public static void prefer(long address, long length, List<Integer> nodes) throws ErrnoException {
    int policy = nodes.size() == 1 ? MPOL_PREFERRED : MPOL_INTERLEAVE;
    long answer;
    try (Arena arena = Arena.ofConfined()) {
      MemorySegment mask = arena.allocate(NODES_MAX / Byte.SIZE, Long.BYTES);
      for (int node : nodes) {
        long word = mask.getAtIndex(JAVA_LONG, node / Long.SIZE);
        mask.setAtIndex(JAVA_LONG, node / Long.SIZE, word | 1L << node);
      }
      // The kernel takes one bit fewer than it is told.
      answer =
          (long)
              SYSCALL_MBIND.invokeExact(
                  Libc.state(), number(), address, length, policy, mask, NODES_MAX + 1L, 0);
    } catch (Throwable t) {
      throw Libc.unexpected(t);
    }
    if (answer != 0) {
      throw new ErrnoException(
          "mbind(0x%x, %d, nodes %s)".formatted(address, length, nodes), Libc.errno());
    }
  }

  private static long number() {
    return System.getProperty("os.arch", "").equals("aarch64") ? 235 : 237;
  }
}
