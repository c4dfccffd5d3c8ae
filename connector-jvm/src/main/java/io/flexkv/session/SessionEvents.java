package io.flexkv.session;

/** What the rendezvous thread tells the cache thread. Called on the rendezvous thread. */
interface SessionEvents {
  /**
   * A client is about to be welcomed.
   *
   * @return false if there is no room; the client is then refused
   */
  boolean opened(Session session);

  /** A client is gone. Never lost, and after {@link #opened}. */
  void closed(Session session);

  /** Records have arrived in frames. */
  void framesArrived();
}
