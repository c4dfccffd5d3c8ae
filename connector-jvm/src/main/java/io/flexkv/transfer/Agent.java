package io.flexkv.transfer;

/** A duty cycle: a thread calls {@link #doWork} again and again until it is told to stop. */
interface Agent {
  /** Does what there is to do now, without waiting; returns how much it was, 0 = idle. */
  int doWork();

  /** What {@link AgentRunner} should do after an idle cycle. */
  Idle idle();

  /** Whether the agent was told to stop and has nothing left to end. */
  boolean finished();

  /** The thread's name. */
  String roleName();

  /** Called once by the agent's own thread, after the last {@link #doWork}. */
  void onClose();

  /** How long the thread may rest. */
  enum Idle {
    /** Something begins or ends within a millisecond or so, and somebody waits for it: do not. */
    NOT_AT_ALL,
    /** Copies are on their way, or somebody waits for the start of one: look every 20 µs. */
    SOON,
    /** Something is under way that only asking again reveals: rest up to 200 µs. */
    POLL,
    /** Only what was given up may change: look ten times a second. */
    RARELY,
    /** Nothing is there: rest until woken. */
    WAIT
  }
}
