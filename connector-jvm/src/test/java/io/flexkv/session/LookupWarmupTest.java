package io.flexkv.session;

import static org.assertj.core.api.Assertions.assertThat;

import java.nio.file.Files;
import java.nio.file.Path;
import java.util.stream.Stream;
import org.junit.jupiter.api.Test;

/** What it compiles is what serves: every lookup is answered, with as much as is there. */
class LookupWarmupTest {
  @Test
  void run_everyLookup_findsWhatIsResident() throws Exception {
    assertThat(LookupWarmup.run(300)).isEqualTo(300);
  }

  @Test
  void run_ended_leavesNoMappingAndNoDescriptor() throws Exception {
    LookupWarmup.run(10);
    long descriptors = count(Path.of("/proc/self/fd"));
    for (int i = 0; i < 20; i++) {
      LookupWarmup.run(10);
    }
    assertThat(Files.readString(Path.of("/proc/self/maps"))).doesNotContain("flexkv-warmup");
    assertThat(count(Path.of("/proc/self/fd"))).isLessThan(descriptors + 20);
  }

  private static long count(Path folder) throws Exception {
    try (Stream<Path> entries = Files.list(folder)) {
      return entries.count();
    }
  }
}
