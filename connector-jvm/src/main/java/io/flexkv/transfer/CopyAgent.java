package io.flexkv.transfer;

import io.flexkv.device.CopySlice;
import io.flexkv.device.CopyStream;
import io.flexkv.device.DeviceException;
import io.flexkv.device.Direction;
import io.flexkv.device.FenceRing;
import io.flexkv.device.SliceLimits;
import java.lang.System.Logger.Level;
import java.util.ArrayDeque;
import java.util.ArrayList;
import java.util.Iterator;
import java.util.List;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.atomic.AtomicBoolean;
import java.util.function.LongSupplier;
import org.jspecify.annotations.Nullable;

/**
 * Copies of one direction of one rank: the duty cycle of one thread.
 *
 * <p>A job waits until its fence is reached (others pass it meanwhile), then stands in line. The
 * first in line gives slices until it is all submitted or has to end early; its revoke word is read
 * before each. It ends when its last slice has ended, and only then are the generations compared
 * and the completion posted. Saves leave the device to loads: while loads move they submit one
 * slice in a while. Both keep to their limit, if there is one ({@link Pace}).
 *
 * <p>A stop has a limit, a device has none: jobs whose copies have not ended by then are reported
 * as not drained, and reported once more, as drained, when they have. Until then this goes on.
 */
final class CopyAgent implements Agent {
  private static final System.Logger LOG = System.getLogger(CopyAgent.class.getName());

  /** So soon after its last slice was submitted a load ends, as a rule; later it has to wait. */
  private static final long END_NANOS = 2_000_000;

  private static final int MAX_NEW_JOBS_A_CYCLE = 64;

  /**
   * A copy may fail for its own sake. After so many in a row, and no job that ended well between
   * them, it is no copy's: what is opened anew may do better, and costs one registration.
   */
  static final int MAX_FAILED_IN_A_ROW = 3;

  private final String roleName;
  private final Direction direction;
  private final Geometry geometry;
  private final CopyStream stream;
  private final SliceLimits limits;
  private final CopySlice slice;
  private final SliceBudget budget;
  private final FenceRing fences;
  private final CompletionQueue completions;
  private final AtomicBoolean loadsMove;
  private final LongSupplier clock;
  private final MpscQueue<TransferJob> arrivals;
  private final MpscQueue<Long> revokes = new MpscQueue<>(1024);
  private final AgentCounters counters = new AgentCounters();

  private final List<JobState> waiting = new ArrayList<>();
  private final ArrayDeque<JobState> ready = new ArrayDeque<>();
  private final SlicesInFlight inFlight;
  private final AbandonedFences abandonedFences;

  /** Reported as not drained; reported again when their last slice has ended. */
  private final List<JobState> givenUp = new ArrayList<>();

  private final CountDownLatch settled = new CountDownLatch(1);
  private int failedInARow;
  private @Nullable JobState submitting;
  private volatile @Nullable String dead;
  private volatile long expectedUntilNanos;
  private volatile boolean stopping;
  private volatile boolean gaveUp;
  private volatile boolean broken;
  private volatile long giveUpAtNanos = Long.MAX_VALUE;

  CopyAgent(
      String roleName,
      Direction direction,
      Geometry geometry,
      CopyStream stream,
      FenceRing fences,
      CompletionQueue completions,
      AtomicBoolean loadsMove,
      LongSupplier clock,
      long savePauseNanos,
      MoveLimits moveLimits,
      int maxJobs) {
    this.roleName = roleName;
    this.direction = direction;
    this.geometry = geometry;
    this.stream = stream;
    this.limits = stream.limits();
    this.slice = new CopySlice(limits.copies());
    this.fences = fences;
    this.abandonedFences = new AbandonedFences(fences);
    this.completions = completions;
    this.loadsMove = loadsMove;
    this.clock = clock;
    this.inFlight = new SlicesInFlight(counters, clock);
    this.budget =
        new SliceBudget(
            limits,
            inFlight,
            new Pace(moveLimits, direction),
            this::givesWay,
            savePauseNanos,
            this::anyCanSubmit,
            clock);
    this.arrivals = new MpscQueue<>(maxJobs);
    this.expectedUntilNanos = clock.getAsLong();
  }

  /** Any thread: accepts a job, or refuses it because there is no room or the mover stops. */
  boolean offer(TransferJob job) {
    if (!completions.reserve()) {
      return false;
    }
    if (!arrivals.reserve()) {
      completions.cancel();
      return false;
    }
    // Asked after the room was taken: the agent ends only once it sees `stopping` and no room
    // taken.
    if (stopping) {
      arrivals.cancel();
      completions.cancel();
      return false;
    }
    arrivals.put(job);
    return true;
  }

  /** Any thread: a job comes within this time, as a rule; until then no rest is long. */
  void expect(long nanos) {
    expectedUntilNanos = clock.getAsLong() + nanos;
  }

  /** Any thread: takes a job back; false if too many such requests wait already. */
  boolean revoke(long jobId) {
    if (!revokes.reserve()) {
      return false;
    }
    revokes.put(jobId);
    return true;
  }

  /** Any thread: accept nothing more, end what has not begun, drain the rest until the limit. */
  void stop(long giveUpAt) {
    giveUpAtNanos = giveUpAt;
    stopping = true;
  }

  /** Any thread: counted down once a {@link #stop} has ended or given up every job. */
  CountDownLatch settled() {
    return settled;
  }

  /** Any thread: whether a job was reported as not drained at the limit of a stop. */
  boolean gaveUp() {
    return gaveUp;
  }

  /** Any thread: why every job fails from now on, null if none need. Set before the first does. */
  @Nullable String dead() {
    return dead;
  }

  AgentCounters counters() {
    return counters;
  }

  @Override
  public int doWork() {
    try {
      return steps();
    } catch (RuntimeException e) {
      fail(e);
      return 1;
    }
  }

  private int steps() {
    int work = 0;
    work += takeRevokes();
    work += takeArrivals();
    work += pollFences();
    tellWhetherLoadsMove();
    work += collectEndedSlices();
    work += endEarly();
    work += submitSlices();
    work += pollAbandonedFences();
    work += giveUp();
    work += endGivenUp();
    tellWhetherLoadsMove();
    return work;
  }

  private int takeArrivals() {
    int taken = 0;
    while (taken < MAX_NEW_JOBS_A_CYCLE) {
      TransferJob job = arrivals.poll();
      if (job == null) {
        return taken;
      }
      taken++;
      JobState state = new JobState(job, clock.getAsLong());
      int foreign = geometry.firstForeign(job.gpuBlocks());
      if (foreign != -1 || job.direction() != direction) {
        state.endAs(
            Completion.Status.FAILED,
            "block %d, the layout has 0 to %d; direction %s, this is %s"
                .formatted(foreign, geometry.blocks() - 1, job.direction(), direction));
      }
      waiting.add(state);
    }
    return taken;
  }

  private int takeRevokes() {
    int taken = 0;
    for (Long jobId; (jobId = revokes.poll()) != null; taken++) {
      long id = jobId;
      // What has not been taken from the arrivals came after this request, or is taken first.
      while (takeArrivals() > 0) {}
      for (JobState state : waiting) {
        if (state.job.jobId() == id) {
          state.endAs(Completion.Status.REVOKED, "revoked");
        }
      }
      for (JobState state : ready) {
        if (state.job.jobId() == id) {
          state.endAs(Completion.Status.REVOKED, "revoked");
        }
      }
    }
    return taken;
  }

  /** Moves jobs whose fence is reached into the line; those that have to end leave. */
  private int pollFences() {
    int moved = 0;
    for (Iterator<JobState> states = waiting.iterator(); states.hasNext(); ) {
      JobState state = states.next();
      checkEarlyEnd(state);
      FencePoint fence = state.job.fence();
      boolean reached = fence == null || reached(state, fence);
      if (state.end != null) {
        states.remove();
        if (!reached && fence != null && dead == null) {
          abandonedFences.add(fence);
        }
        finish(state, true);
        moved++;
      } else if (reached) {
        states.remove();
        state.fenceReachedAt(clock.getAsLong());
        ready.add(state);
        moved++;
      }
    }
    return moved;
  }

  private boolean reached(JobState state, FencePoint fence) {
    if (dead != null) {
      return false;
    }
    try {
      return fences.reached(fence.index(), fence.sequence());
    } catch (DeviceException e) {
      state.endAs(Completion.Status.FAILED, e.getMessage());
      if (e.kind() == DeviceException.Kind.GONE) {
        die(e.getMessage());
      }
      return true; // nothing to watch any more
    }
  }

  /** Loads that wait for their blocks, as from the SSD, leave the device to saves. */
  private void tellWhetherLoadsMove() {
    if (direction == Direction.LOAD) {
      boolean move = !inFlight.isEmpty() || anyCanSubmit();
      if (move != loadsMove.getPlain()) {
        loadsMove.setRelease(move);
      }
    }
  }

  private boolean anyCanSubmit() {
    for (JobState state : ready) {
      if (state.end == null && state.canSubmit()) {
        return true;
      }
    }
    return false;
  }

  private void checkEarlyEnd(JobState state) {
    if (state.end != null) {
      return;
    }
    if (dead != null) {
      state.endAs(Completion.Status.FAILED, dead);
    } else if (stopping) {
      state.endAs(Completion.Status.FAILED, "the mover stops");
    } else if (state.job.revoke().revokes(state.job.jobId())) {
      state.endAs(Completion.Status.REVOKED, "revoked");
    } else if (clock.getAsLong() - state.job.deadlineNanos() > 0) {
      state.endAs(Completion.Status.FAILED, "its deadline has passed");
    } else if (state.isCut()) {
      state.endAs(Completion.Status.FAILED, "the rest of its blocks could not be read");
    }
  }

  /** Takes out of the line what has to end and has nothing on its way. */
  private int endEarly() {
    int ended = 0;
    for (Iterator<JobState> states = ready.iterator(); states.hasNext(); ) {
      JobState state = states.next();
      if (!state.allSubmitted()) {
        checkEarlyEnd(state);
      }
      if (state.over()) {
        states.remove();
        finish(state, true);
        ended++;
      }
    }
    return ended;
  }

  private int submitSlices() {
    int submitted = 0;
    while (dead == null && budget.mayCopy()) {
      JobState state = nextToSubmit();
      if (state == null) {
        return submitted;
      }
      slice.clear();
      geometry.fill(slice, state, limits, budget.bytesOfNext());
      budget.submitting();
      submitting = state;
      try {
        stream.submit(slice);
      } catch (DeviceException e) {
        state.endAs(Completion.Status.FAILED, e.getMessage());
        failedInARow++;
        if (e.kind() == DeviceException.Kind.GONE) {
          die(e.getMessage());
        } else if (failedInARow >= MAX_FAILED_IN_A_ROW) {
          die("%d copies in a row failed, the last: %s".formatted(failedInARow, e.getMessage()));
        }
        submitting = null;
        return submitted + 1;
      }
      submitting = null;
      budget.submitted(state, slice.bytes());
      submitted++;
      if (direction == Direction.LOAD && state.allSubmitted()) {
        completions.announce();
      }
    }
    return submitted;
  }

  private boolean givesWay() {
    return direction == Direction.SAVE && loadsMove.getAcquire();
  }

  private @Nullable JobState nextToSubmit() {
    for (JobState state : ready) {
      if (!state.allSubmitted()) {
        checkEarlyEnd(state);
        if (state.end == null && state.canSubmit()) {
          return state;
        }
      }
    }
    return null;
  }

  private int collectEndedSlices() {
    if (inFlight.isEmpty()) {
      return 0;
    }
    try {
      return budget.endUpTo(stream.completed());
    } catch (DeviceException e) {
      die(e.getMessage());
      inFlight.drop(e.getMessage());
      return 1;
    }
  }

  /**
   * Nothing works here any more. What is on its way may well be so still (a fence that cannot be
   * asked says nothing of the stream), so its jobs end when the stream says that it has ended.
   */
  private void die(String cause) {
    if (dead != null) {
      return;
    }
    dead = cause;
    LOG.log(Level.WARNING, "{0}: every job fails from now on: {1}", roleName, cause);
    abandonedFences.clear();
  }

  /**
   * Something of ours went wrong. Nobody may wait for a job because of it; but copies that were on
   * their way may still be, so their jobs end as not drained, for good: we do not know any more
   * what the stream holds.
   */
  private void fail(RuntimeException e) {
    LOG.log(Level.ERROR, roleName + " failed; every job fails from now on", e);
    if (!inFlight.isEmpty() || submitting != null) {
      broken = true;
    }
    inFlight.markUndrained();
    if (submitting != null) {
      submitting.undrained = true;
    }
    givenUp.clear();
    String cause = "internal error: " + e;
    die(cause);
    inFlight.drop(cause);
  }

  private int pollAbandonedFences() {
    if (abandonedFences.isEmpty()) {
      return 0;
    }
    try {
      return abandonedFences.poll();
    } catch (DeviceException e) {
      die(e.getMessage());
      return 1;
    }
  }

  /** At the limit of a stop: what is still on its way is reported as not drained. */
  private int giveUp() {
    if (!stopping || ready.isEmpty() || clock.getAsLong() - giveUpAtNanos < 0) {
      return 0;
    }
    int given = ready.size();
    for (JobState state : ready) {
      state.endAs(Completion.Status.FAILED, "the device did not end its copies in time");
      finish(state, false);
    }
    gaveUp = true;
    givenUp.addAll(ready);
    ready.clear();
    settled.countDown();
    return given;
  }

  /** What was given up has ended after all: its slots and blocks may be used again. */
  private int endGivenUp() {
    int ended = 0;
    for (Iterator<JobState> states = givenUp.iterator(); states.hasNext(); ) {
      JobState state = states.next();
      if (state.inFlight == 0 && completions.reserve()) {
        states.remove();
        completions.post(state.lateCompletion(clock.getAsLong()));
        ended++;
      }
    }
    return ended;
  }

  private void finish(JobState state, boolean drained) {
    long now = clock.getAsLong();
    Completion completion = state.completion(now, drained && !state.undrained);
    if (completion.status() == Completion.Status.OK) {
      failedInARow = 0;
    }
    counters.job(completion.status(), state.stages(now));
    completions.post(completion);
  }

  @Override
  public boolean finished() {
    return stopping
        && waiting.isEmpty()
        && ready.isEmpty()
        && givenUp.isEmpty()
        && arrivals.isUnused();
  }

  /** Once it is finished: whether every copy has been seen to end. */
  boolean allDrained() {
    return !broken;
  }

  @Override
  public Idle idle() {
    if (!givenUp.isEmpty()) {
      return Idle.RARELY;
    }
    if (lastLoadEnds() || expectedUntilNanos - clock.getAsLong() > 0) {
      return Idle.NOT_AT_ALL;
    }
    if (!inFlight.isEmpty() || (direction == Direction.LOAD && !waiting.isEmpty())) {
      return Idle.SOON;
    }
    return waiting.isEmpty() && ready.isEmpty() && abandonedFences.isEmpty()
        ? Idle.WAIT
        : Idle.POLL;
  }

  /** Whether all that is left of the loads here is on its way: less than a millisecond, mostly. */
  private boolean lastLoadEnds() {
    if (direction != Direction.LOAD
        || inFlight.isEmpty()
        || clock.getAsLong() - budget.lastSubmitNanos() > END_NANOS) {
      return false;
    }
    for (JobState state : ready) {
      if (!state.allSubmitted()) {
        return false;
      }
    }
    return true;
  }

  @Override
  public String roleName() {
    return roleName;
  }

  @Override
  public void onClose() {
    settled.countDown();
    if (direction == Direction.LOAD) {
      loadsMove.setRelease(false);
    }
    if (broken) {
      LOG.log(Level.ERROR, "{0}: left open, its copies may not have ended", roleName);
      return;
    }
    stream.close();
  }
}
