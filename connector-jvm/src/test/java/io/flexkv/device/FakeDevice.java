package io.flexkv.device;

import java.lang.foreign.MemorySegment;
import java.util.ArrayDeque;
import java.util.ArrayList;
import java.util.List;
import java.util.Set;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.CopyOnWriteArrayList;
import java.util.concurrent.Semaphore;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.concurrent.atomic.AtomicLong;

/**
 * A device that does what a test tells it. Its copies are made when a slice <em>ends</em>, not when
 * it is submitted, so whoever reports a job before its copies have ended is found out.
 */
public final class FakeDevice implements DeviceMemory {
  private final RankLayout layout;

  /** Slices that may end; a test that does not care leaves {@link #held} false. */
  public final Semaphore mayEnd = new Semaphore(0);

  /** Whether slices wait for {@link #mayEnd}. */
  public volatile boolean held;

  /** The owner has ended: every call fails from now on. */
  public volatile boolean gone;

  /** The n-th submit from now fails with COPY; 0 = none. */
  public final AtomicInteger failSubmit = new AtomicInteger();

  /** Every submit fails with COPY. */
  public volatile boolean refusesCopies;

  /** Limits of streams opened from now on. */
  public volatile SliceLimits limits = new SliceLimits(64, 4096, 2);

  /** Events that are complete. */
  public final Set<Integer> completeEvents = ConcurrentHashMap.newKeySet();

  /** Every slice in the order of its end: direction, copies, bytes. */
  public final List<Ended> ended = new CopyOnWriteArrayList<>();

  /** Called with each slice just before its copies are made. */
  public volatile Runnable beforeCopy = () -> {};

  /** Slices submitted. */
  public final AtomicInteger submitted = new AtomicInteger();

  /** Bytes that came as strided copies. */
  public final AtomicLong strided = new AtomicLong();

  /** Streams that are open. */
  public final AtomicInteger openStreams = new AtomicInteger();

  /** Called before this memory is opened for another host range, as a proof does. */
  public volatile Runnable beforeHost = () -> {};

  /** Streams that were open when this was closed; −1 = it was not. */
  public final AtomicInteger streamsAtClose = new AtomicInteger(-1);

  /** One slice that ended. */
  public record Ended(Direction direction, int copies, long bytes) {}

  FakeDevice(RankLayout layout) {
    this.layout = layout;
  }

  @Override
  public RankLayout layout() {
    return layout;
  }

  @Override
  public long regionAddress(int region) {
    Region r = layout.regions().get(region);
    return layout.allocations().get(r.allocation())
            instanceof AllocationHandle.ProcessMemory(int _, long _, long address, long _)
        ? address + r.offset()
        : r.offset(); // which nothing may be copied to
  }

  @Override
  public CopyStream openStream(Direction direction) throws DeviceException {
    requireThere();
    openStreams.incrementAndGet();
    return new Stream(direction);
  }

  @Override
  public FenceRing openFences(List<byte[]> handles, FenceRing.Seen onSeen) {
    return new FenceRing(
        handles.size(),
        index -> {
          requireThere();
          return completeEvents.contains(index);
        },
        onSeen);
  }

  private void requireThere() throws DeviceException {
    if (gone) {
      throw new DeviceException(DeviceException.Kind.GONE, "fake: gone");
    }
  }

  @Override
  public DeviceMemory withHost(MemorySegment host) throws DeviceException {
    beforeHost.run();
    return DeviceMemory.super.withHost(host);
  }

  @Override
  public void close() {
    streamsAtClose.set(openStreams.get());
  }

  private final class Stream implements CopyStream {
    private final Direction direction;
    private final ArrayDeque<List<long[]>> submitted = new ArrayDeque<>();
    private long completed;

    Stream(Direction direction) {
      this.direction = direction;
    }

    @Override
    public SliceLimits limits() {
      return limits;
    }

    @Override
    public void submit(CopySlice slice) throws DeviceException {
      requireThere();
      if (failSubmit.get() > 0 && failSubmit.decrementAndGet() == 0) {
        throw new DeviceException(DeviceException.Kind.COPY, "fake: told to fail");
      }
      if (refusesCopies) {
        throw new DeviceException(DeviceException.Kind.COPY, "fake: not permitted");
      }
      List<long[]> copies = new ArrayList<>();
      for (int i = 0; i < slice.count(); i++) {
        for (long row = 0; row < slice.rows(i); row++) {
          copies.add(
              new long[] {
                slice.deviceAddress(i) + row * slice.devicePitch(i),
                slice.hostAddress(i) + row * slice.hostPitch(i),
                slice.width(i)
              });
        }
      }
      strided.addAndGet(slice.bytes() - plainBytes(slice));
      submitted.add(copies);
      FakeDevice.this.submitted.incrementAndGet();
    }

    private static long plainBytes(CopySlice slice) {
      long bytes = 0;
      for (int i = 0; i < slice.count(); i++) {
        bytes += slice.rows(i) == 1 ? slice.width(i) : 0;
      }
      return bytes;
    }

    @Override
    public long completed() throws DeviceException {
      requireThere();
      while (!submitted.isEmpty() && (!held || mayEnd.tryAcquire())) {
        beforeCopy.run();
        List<long[]> copies = submitted.remove();
        long bytes = 0;
        for (long[] copy : copies) {
          MemorySegment device = MemorySegment.ofAddress(copy[0]).reinterpret(copy[2]);
          MemorySegment host = MemorySegment.ofAddress(copy[1]).reinterpret(copy[2]);
          if (direction == Direction.LOAD) {
            device.copyFrom(host);
          } else {
            host.copyFrom(device);
          }
          bytes += copy[2];
        }
        ended.add(new Ended(direction, copies.size(), bytes));
        completed++;
      }
      return completed;
    }

    @Override
    public void close() {
      openStreams.decrementAndGet();
    }
  }
}
