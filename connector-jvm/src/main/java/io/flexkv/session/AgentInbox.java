package io.flexkv.session;

import io.flexkv.ffm.EventFd;
import io.flexkv.protocol.RequestException;
import java.io.IOException;
import java.util.Queue;
import java.util.concurrent.ArrayBlockingQueue;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ConcurrentLinkedQueue;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.TimeoutException;
import java.util.concurrent.atomic.AtomicBoolean;
import org.jspecify.annotations.Nullable;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;

/**
 * What other threads want of the cache thread: sessions that began and ended, and requests of the
 * control plane. Bounded: by the number of sessions, and by {@value #MAX_CALLS} calls.
 */
final class AgentInbox implements SessionEvents {
  private static final Logger LOG = LoggerFactory.getLogger(AgentInbox.class);
  private static final int MAX_CALLS = 256;

  /** Something to do on the cache thread. */
  @FunctionalInterface
  interface Call<T> {
    T run() throws RequestException;
  }

  /** A session that began or ended. */
  record Change(Session session, boolean opened) {}

  private final EventFd wake;
  private final Queue<Change> changes = new ConcurrentLinkedQueue<>();
  private final ArrayBlockingQueue<Runnable> calls = new ArrayBlockingQueue<>(MAX_CALLS);

  AgentInbox(EventFd wake) {
    this.wake = wake;
  }

  @Override
  public boolean opened(Session session) {
    changes.add(new Change(session, true));
    signal();
    return true;
  }

  @Override
  public void closed(Session session) {
    changes.add(new Change(session, false));
    signal();
  }

  @Override
  public void framesArrived() {
    signal();
  }

  /** Wakes the cache thread; any thread. */
  void signal() {
    try {
      wake.signal();
    } catch (IOException e) {
      LOG.error("cannot wake the cache thread", e);
    }
  }

  /**
   * Runs something on the cache thread and waits for it.
   *
   * <p>Whoever is first decides: once the cache thread has begun, this waits for the end whatever
   * the limit says; once the limit is over, the call is never run. So who hears of a timeout may
   * take it that nothing was done.
   *
   * @throws RequestException what the call throws, or that it was not begun in time
   */
  <T> T call(Call<T> call, long timeoutMillis) throws RequestException {
    CompletableFuture<T> future = new CompletableFuture<>();
    AtomicBoolean decided = new AtomicBoolean();
    Runnable task =
        () -> {
          if (!decided.compareAndSet(false, true)) {
            return; // nobody waits any more
          }
          try {
            future.complete(call.run());
          } catch (RequestException | RuntimeException | Error e) {
            future.completeExceptionally(e);
          }
        };
    if (!calls.offer(task)) {
      throw new RequestException("limit", MAX_CALLS + " requests wait already: try again");
    }
    signal();
    try {
      return result(future, decided, timeoutMillis);
    } catch (ExecutionException e) {
      if (e.getCause() instanceof RequestException request) {
        throw request;
      }
      LOG.error("a request failed", e.getCause());
      throw new RequestException("internal", "the request failed: " + e.getCause());
    } catch (InterruptedException e) {
      decided.set(true); // if it has not begun, it never does
      Thread.currentThread().interrupt();
      throw new RequestException("stopping", "this sidecar is about to end");
    }
  }

  private static <T> T result(CompletableFuture<T> future, AtomicBoolean decided, long millis)
      throws RequestException, ExecutionException, InterruptedException {
    try {
      return future.get(millis, TimeUnit.MILLISECONDS);
    } catch (TimeoutException e) {
      if (decided.compareAndSet(false, true)) {
        throw new RequestException(
            "timeout", "the cache thread did not answer within " + millis + " ms");
      }
      return future.get();
    }
  }

  @Nullable Change nextChange() {
    return changes.poll();
  }

  /**
   * Runs the requests that wait; cache thread.
   *
   * @param takeChanges runs before each: a request may be of a session that has just begun, and
   *     that was announced here before its client could ask for anything
   */
  int runCalls(Runnable takeChanges) {
    int count = 0;
    for (Runnable call; count < MAX_CALLS && (call = calls.poll()) != null; count++) {
      takeChanges.run();
      call.run();
    }
    return count;
  }

  boolean isEmpty() {
    return changes.isEmpty() && calls.isEmpty();
  }
}
