package io.flexkv.session;

import static org.assertj.core.api.Assertions.assertThat;

import ch.qos.logback.classic.Level;
import ch.qos.logback.classic.Logger;
import ch.qos.logback.classic.spi.ILoggingEvent;
import ch.qos.logback.core.read.ListAppender;
import io.flexkv.device.Direction;
import io.flexkv.transfer.Completion;
import java.util.BitSet;
import java.util.List;
import java.util.concurrent.TimeUnit;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.slf4j.LoggerFactory;

class LifeSignsTest {
  private static final Logger LOGGER = (Logger) LoggerFactory.getLogger(LifeSigns.class);

  private final ListAppender<ILoggingEvent> said = new ListAppender<>();
  private final LifeSigns signs = new LifeSigns();
  private final Level before = LOGGER.getEffectiveLevel();

  @BeforeEach
  void listen() {
    LOGGER.setLevel(Level.INFO);
    said.start();
    LOGGER.addAppender(said);
  }

  @AfterEach
  void stop() {
    LOGGER.detachAppender(said);
    LOGGER.setLevel(before);
  }

  @Test
  void completed_traceOff_saysNothing() {
    signs.completed(done(Direction.LOAD, 3));
    signs.tick(seconds(60), LifeSignsTest::none);
    assertThat(lines()).isEmpty();
  }

  @Test
  void completed_traceOn_aLineEachAndASummaryEveryTenSeconds() {
    signs.use(true, 0, 0);
    signs.completed(done(Direction.LOAD, 3));
    signs.completed(done(Direction.SAVE, 2));
    signs.completed(done(Direction.SAVE, 0));
    assertThat(lines().getFirst())
        .isEqualTo("[XFER] LOAD job 7 part 1: OK, 3 blocks, 3000000 bytes in 1.500 ms");
    signs.tick(seconds(9), LifeSignsTest::none);
    assertThat(lines()).hasSize(3);
    signs.tick(seconds(10), LifeSignsTest::none);
    assertThat(lines().getLast())
        .isEqualTo(
            "[XFER-SUMMARY] loads: 1 transfers, 3 blocks, 0.003 GB, 1.50 ms each; "
                + "saves: 2 transfers, 2 blocks, 0.002 GB, 1.50 ms each");
    signs.tick(seconds(30), LifeSignsTest::none);
    assertThat(lines()).as("nothing moved since").hasSize(4);
  }

  @Test
  void tick_blocksWereEvicted_aLineEveryInterval() {
    signs.use(false, seconds(10), 0);
    signs.tick(seconds(9), LifeSignsTest::none);
    signs.tick(seconds(10), () -> 5);
    signs.tick(seconds(20), () -> 5);
    signs.tick(seconds(31), () -> 12);
    assertThat(lines()).containsExactly("evicted 5 blocks in 10 s", "evicted 7 blocks in 11 s");
  }

  private List<String> lines() {
    return said.list.stream().map(ILoggingEvent::getFormattedMessage).toList();
  }

  private static long none() {
    throw new AssertionError("nobody wants to hear of evictions");
  }

  private static long seconds(long seconds) {
    return TimeUnit.SECONDS.toNanos(seconds);
  }

  private static Completion done(Direction direction, int blocks) {
    BitSet ok = new BitSet();
    ok.set(0, blocks);
    return new Completion(
        7,
        1,
        direction,
        Completion.Status.OK,
        ok,
        blocks * 1_000_000L,
        TimeUnit.MICROSECONDS.toNanos(1500),
        true,
        null);
  }
}
