package io.flexkv.ffm;

import java.lang.foreign.Arena;
import java.lang.foreign.FunctionDescriptor;
import java.lang.foreign.Linker;
import java.lang.foreign.MemoryLayout.PathElement;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.StructLayout;
import java.lang.invoke.MethodHandle;
import java.lang.invoke.VarHandle;

/**
 * The one door to the C library: look-ups, the capture of errno, and the translation of what a
 * handle throws.
 *
 * <p>errno is captured into a small segment that each thread keeps, so that no call allocates.
 */
final class Libc {
  private static final Linker LINKER = Linker.nativeLinker();
  private static final StructLayout CAPTURE = Linker.Option.captureStateLayout();
  private static final VarHandle ERRNO =
      CAPTURE.varHandle(PathElement.groupElement("errno")).withInvokeExactBehavior();
  private static final ThreadLocal<MemorySegment> STATE =
      ThreadLocal.withInitial(() -> Arena.ofAuto().allocate(CAPTURE));
  private static final ThreadLocal<MemorySegment> SCRATCH =
      ThreadLocal.withInitial(() -> Arena.ofAuto().allocate(64, 8));

  private Libc() {}

  /** A handle whose first argument is the capture segment of {@link #state()}. */
  static MethodHandle function(String name, FunctionDescriptor type, Linker.Option... more) {
    MemorySegment symbol =
        LINKER
            .defaultLookup()
            .find(name)
            .orElseThrow(() -> new UnsatisfiedLinkError("the C library has no function " + name));
    Linker.Option[] options = new Linker.Option[more.length + 1];
    System.arraycopy(more, 0, options, 1, more.length);
    options[0] = Linker.Option.captureCallState("errno");
    return LINKER.downcallHandle(symbol, type, options);
  }

  /** This thread's capture segment: pass it to the call, then read {@link #errno()}. */
  static MemorySegment state() {
    return STATE.get();
  }

  /** What the last captured call of this thread left in errno. */
  static int errno() {
    return (int) ERRNO.get(STATE.get(), 0L);
  }

  /** 64 bytes of native memory of this thread, for arguments that live as long as one call. */
  static MemorySegment scratch() {
    return SCRATCH.get();
  }

  /** A handle of the right type cannot throw anything but what is wrong in the program itself. */
  static RuntimeException unexpected(Throwable thrown) {
    if (thrown instanceof Error error) {
      throw error;
    }
    if (thrown instanceof RuntimeException runtime) {
      return runtime;
    }
    return new IllegalStateException("a native call threw " + thrown, thrown);
  }
}
