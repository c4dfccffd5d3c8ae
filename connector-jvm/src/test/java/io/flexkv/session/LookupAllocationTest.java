package io.flexkv.session;

import static org.assertj.core.api.Assertions.assertThat;

import com.sun.management.ThreadMXBean;
import io.flexkv.protocol.LookupAnswerRecord;
import io.flexkv.protocol.LookupRecord;
import io.flexkv.protocol.Protocol;
import java.lang.management.ManagementFactory;
import java.nio.file.Path;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

/** The path of a lookup leaves nothing to collect: no collection delays an engine's step. */
class LookupAllocationTest {
  private static final int KEYS = 512;
  private static final double BYTES_A_LOOKUP = 8;
  private static final int WINDOW = 1_000;
  private static final int WINDOWS = 24;

  @TempDir Path folder;

  @Test
  void lookup_steadyState_allocatesNothing() throws Exception {
    SidecarRig rig = new SidecarRig(folder);
    try (TestScheduler scheduler = TestScheduler.joined(rig, "e");
        TestRank worker = TestRank.joined(rig, "e")) {
      worker.makeReady();
      scheduler.extend(1, TestScheduler.randomHashes(1, KEYS));
      LookupAnswerRecord answer = new LookupAnswerRecord();
      ThreadMXBean threads = (ThreadMXBean) ManagementFactory.getThreadMXBean();
      double best = Double.MAX_VALUE;
      // Early windows run before the compiler has done its work, and one in which another process
      // takes the core has sleeps in it, which cost a few objects each: one clean window is proof.
      for (int window = 0; window < WINDOWS && best >= BYTES_A_LOOKUP; window++) {
        long before = threads.getThreadAllocatedBytes(rig.agentThreadId());
        for (int i = 0; i < WINDOW; i++) {
          long query = (long) window * WINDOW + i;
          scheduler.send(LookupRecord.encode(scheduler.scratch, query, 1, KEYS, 0, KEYS, 0));
          scheduler.receive(answer);
          assertThat(answer.status()).isEqualTo(Protocol.LOOKUP_OK);
        }
        long bytes = threads.getThreadAllocatedBytes(rig.agentThreadId()) - before;
        best = Math.min(best, bytes / (double) WINDOW);
      }
      assertThat(best).as("bytes a lookup, of the cache thread").isLessThan(BYTES_A_LOOKUP);
    } finally {
      rig.close();
    }
  }
}
