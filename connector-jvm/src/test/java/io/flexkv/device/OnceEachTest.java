package io.flexkv.device;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import java.util.Set;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;
import org.junit.jupiter.api.Test;

class OnceEachTest {
  private static final int PATIENCE_S = 30;

  private final OnceEach<Object> values = new OnceEach<>(Set.of("a", "b"));

  private Object get(String key, OnceEach.Maker<Object> maker) {
    try {
      return values.get(key, maker);
    } catch (DeviceException e) {
      throw new AssertionError(e);
    }
  }

  @Test
  void get_whileAnotherIsBeingMade_doesNotWait() throws Exception {
    CountDownLatch begun = new CountDownLatch(1);
    CompletableFuture<Void> end = new CompletableFuture<>();
    Object slow = new Object();
    var first =
        CompletableFuture.supplyAsync(() ->
            get(
                "a",
                () -> {
                  begun.countDown();
                  end.join();
                  return slow;
                }));
    begun.await();
    var other = CompletableFuture.supplyAsync(() -> get("b", () -> "b"));
    assertThat(other.get(PATIENCE_S, TimeUnit.SECONDS)).isEqualTo("b");
    end.complete(null);
    assertThat(first.get(PATIENCE_S, TimeUnit.SECONDS)).isSameAs(slow);
    assertThat(values.get("a", Object::new)).as("made once").isSameAs(slow);
  }

  @Test
  void get_aFailure_isNotKept() throws Exception {
    assertThatThrownBy(() ->
            values.get(
                "a",
                () -> {
                  throw CudaLibrary.unsupported("told to");
                }))
        .hasMessageContaining("told to");
    assertThat(values.get("a", () -> "made")).isEqualTo("made");
  }
}
