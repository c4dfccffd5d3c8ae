package io.flexkv.ffm;

import static java.lang.foreign.ValueLayout.ADDRESS;
import static java.lang.foreign.ValueLayout.JAVA_INT;
import static java.lang.foreign.ValueLayout.JAVA_LONG;

import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.util.List;

/**
 * {@code struct msghdr} with one buffer and one {@code SCM_RIGHTS} control message, as 64-bit Linux
 * lays them out.
 *
 * <pre>
 * msghdr   0 void* name | 8 u32 namelen | 16 iovec* iov | 24 u64 iovlen
 *         32 void* control | 40 u64 controllen | 48 i32 flags | 56
 * iovec    0 void* base | 8 u64 length | 16
 * cmsghdr  0 u64 length (header and data) | 8 i32 level | 12 i32 type | 16 data, padded to 8
 * </pre>
 */
final class MessageHeader {
  static final long BYTES = 56;

  private static final long IOV = 16;
  private static final long IOV_LENGTH = 24;
  private static final long CONTROL = 32;
  private static final long CONTROL_LENGTH = 40;
  private static final long FLAGS = 48;
  private static final int CMSG_HEADER = 16;
  private static final int SOL_SOCKET = 1;
  private static final int SCM_RIGHTS = 1;
  private static final int MSG_CTRUNC = 0x8;

  private MessageHeader() {}

  private static MemorySegment withBuffer(Arena arena, MemorySegment payload) {
    MemorySegment header = arena.allocate(BYTES, 8);
    MemorySegment iov = arena.allocate(16, 8);
    iov.set(ADDRESS, 0, payload);
    iov.set(JAVA_LONG, 8, payload.byteSize());
    header.set(ADDRESS, IOV, iov);
    header.set(JAVA_LONG, IOV_LENGTH, 1);
    return header;
  }

  static MemorySegment forSend(Arena arena, MemorySegment payload, int[] fds) {
    MemorySegment header = withBuffer(arena, payload);
    if (fds.length > 0) {
      MemorySegment control = arena.allocate(space(fds.length), 8);
      control.set(JAVA_LONG, 0, CMSG_HEADER + 4L * fds.length);
      control.set(JAVA_INT, 8, SOL_SOCKET);
      control.set(JAVA_INT, 12, SCM_RIGHTS);
      for (int i = 0; i < fds.length; i++) {
        control.set(JAVA_INT, CMSG_HEADER + 4L * i, fds[i]);
      }
      header.set(ADDRESS, CONTROL, control);
      header.set(JAVA_LONG, CONTROL_LENGTH, control.byteSize());
    }
    return header;
  }

  static MemorySegment forReceive(Arena arena, MemorySegment payload, int maxFds) {
    MemorySegment header = withBuffer(arena, payload);
    MemorySegment control = arena.allocate(space(maxFds), 8);
    header.set(ADDRESS, CONTROL, control);
    header.set(JAVA_LONG, CONTROL_LENGTH, control.byteSize());
    return header;
  }

  private static long space(int fds) {
    return CMSG_HEADER + ((4L * fds + 7) & ~7L);
  }

  /**
   * Collects the descriptors of a received message.
   *
   * @return false if the kernel dropped some for want of room; those that came are in {@code fds}
   */
  static boolean takeDescriptors(MemorySegment header, List<Integer> fds) {
    long length = header.get(JAVA_LONG, CONTROL_LENGTH);
    MemorySegment control = header.get(ADDRESS, CONTROL).reinterpret(length);
    long at = 0;
    while (at + CMSG_HEADER <= length) {
      long cmsg = control.get(JAVA_LONG, at);
      if (cmsg < CMSG_HEADER || cmsg > length - at) {
        break;
      }
      boolean rights =
          control.get(JAVA_INT, at + 8) == SOL_SOCKET
              && control.get(JAVA_INT, at + 12) == SCM_RIGHTS;
      for (long d = CMSG_HEADER; rights && d + 4 <= cmsg; d += 4) {
        fds.add(control.get(JAVA_INT, at + d));
      }
      at += (cmsg + 7) & ~7L;
    }
    return (header.get(JAVA_INT, FLAGS) & MSG_CTRUNC) == 0;
  }
}
