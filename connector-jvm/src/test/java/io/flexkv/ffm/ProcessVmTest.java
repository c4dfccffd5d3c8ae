package io.flexkv.ffm;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import java.io.IOException;
import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import org.junit.jupiter.api.Test;

final class ProcessVmTest {
  private static final int SELF = (int) ProcessHandle.current().pid();

  @Test
  void readAndWrite_scatteredFragments_bytesArriveInOrder() throws IOException {
    try (Arena arena = Arena.ofConfined()) {
      MemorySegment local = arena.allocate(64, 8);
      MemorySegment remote = arena.allocate(64, 8);
      remote.set(ValueLayout.JAVA_LONG, 48, 11);
      remote.set(ValueLayout.JAVA_LONG, 0, 22);
      ProcessVm vm = new ProcessVm();
      vm.add(local.address(), remote.address() + 48, 8);
      vm.add(local.address() + 8, remote.address(), 8);
      assertThat(vm.read(SELF)).isEqualTo(16);
      assertThat(local.get(ValueLayout.JAVA_LONG, 0)).isEqualTo(11);
      assertThat(local.get(ValueLayout.JAVA_LONG, 8)).isEqualTo(22);

      vm.clear();
      vm.add(local.address(), remote.address() + 16, 16);
      assertThat(vm.write(SELF)).isEqualTo(16);
      assertThat(remote.get(ValueLayout.JAVA_LONG, 24)).isEqualTo(22);
    }
  }

  @Test
  void read_secondFragmentNotMapped_answersWhatCameBefore() throws IOException {
    try (Arena arena = Arena.ofConfined()) {
      MemorySegment memory = arena.allocate(64, 8);
      ProcessVm vm = new ProcessVm();
      vm.add(memory.address(), memory.address() + 32, 8);
      vm.add(memory.address() + 8, 0x1000, 8);
      assertThat(vm.read(SELF)).isEqualTo(8);
    }
  }

  @Test
  void read_firstFragmentNotMapped_failsWithItsAddress() {
    try (Arena arena = Arena.ofConfined()) {
      ProcessVm vm = new ProcessVm();
      vm.add(arena.allocate(8).address(), 0x1000, 8);
      assertThatThrownBy(() -> vm.read(SELF))
          .isInstanceOf(ErrnoException.class)
          .hasMessageContaining("0x1000")
          .hasMessageContaining("EFAULT");
    }
  }

  @Test
  void add_moreThanTheKernelTakes_refused() {
    ProcessVm vm = new ProcessVm();
    for (int i = 0; i < ProcessVm.MAX_FRAGMENTS; i++) {
      vm.add(0, 0, 1);
    }
    assertThatThrownBy(() -> vm.add(0, 0, 1))
        .isInstanceOf(IllegalStateException.class)
        .hasMessageContaining("1024");
  }
}
