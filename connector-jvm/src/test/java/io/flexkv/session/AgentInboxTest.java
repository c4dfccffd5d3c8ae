package io.flexkv.session;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import io.flexkv.ffm.EventFd;
import io.flexkv.protocol.RequestException;
import java.util.ArrayList;
import java.util.Collections;
import java.util.List;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CompletionException;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;
import org.junit.jupiter.api.Test;

class AgentInboxTest {
  private static final long LIMIT_MILLIS = 50;

  private final AgentInbox inbox;

  AgentInboxTest() throws Exception {
    inbox = new AgentInbox(EventFd.create());
  }

  @Test
  void call_notBegunInTime_isNeverRun() {
    List<String> ran = new ArrayList<>();
    assertThatThrownBy(() -> inbox.call(() -> ran.add("late"), LIMIT_MILLIS))
        .isInstanceOf(RequestException.class)
        .hasMessageContaining("within 50 ms");
    inbox.runCalls(() -> {});
    assertThat(ran).isEmpty();
  }

  @Test
  void call_begunInTime_answersWithWhatItDid_howeverLongItTakes() throws Exception {
    CountDownLatch begun = new CountDownLatch(1);
    CountDownLatch limitOver = new CountDownLatch(1);
    CompletableFuture<String> answer =
        CompletableFuture.supplyAsync(() -> {
          try {
            return inbox.call(
                () -> {
                  begun.countDown();
                  await(limitOver);
                  return "done";
                },
                LIMIT_MILLIS);
          } catch (RequestException e) {
            throw new CompletionException(e);
          }
        });
    Thread cache = Thread.ofPlatform().start(() -> runUntil(begun));
    await(begun);
    TimeUnit.MILLISECONDS.sleep(6 * LIMIT_MILLIS);
    assertThat(answer).as("a timeout would say that nothing was done").isNotDone();
    limitOver.countDown();
    assertThat(answer.get(10, TimeUnit.SECONDS)).isEqualTo("done");
    cache.join();
  }

  @Test
  void runCalls_sessionThatBeganMeanwhile_isTakenBeforeItsRequest() throws Exception {
    List<String> order = Collections.synchronizedList(new ArrayList<>());
    List<CompletableFuture<Void>> answers = new ArrayList<>();
    for (int i = 0; i < 2; i++) {
      answers.add(
          CompletableFuture.runAsync(() -> {
            try {
              inbox.call(() -> order.add("request"), 10_000);
            } catch (RequestException e) {
              throw new CompletionException(e);
            }
          }));
    }
    long deadline = System.nanoTime() + TimeUnit.SECONDS.toNanos(10);
    for (int run = 0; run < 2 && System.nanoTime() < deadline; ) {
      run += inbox.runCalls(() -> order.add("changes"));
    }
    for (CompletableFuture<Void> answer : answers) {
      answer.get(10, TimeUnit.SECONDS);
    }
    assertThat(order).containsExactly("changes", "request", "changes", "request");
  }

  private void runUntil(CountDownLatch begun) {
    while (begun.getCount() > 0) {
      inbox.runCalls(() -> {});
      Thread.onSpinWait();
    }
  }

  private static void await(CountDownLatch latch) {
    try {
      assertThat(latch.await(10, TimeUnit.SECONDS)).isTrue();
    } catch (InterruptedException e) {
      throw new IllegalStateException(e);
    }
  }
}
