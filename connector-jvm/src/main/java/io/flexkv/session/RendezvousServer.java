package io.flexkv.session;

import com.fasterxml.jackson.databind.node.ObjectNode;
import io.flexkv.ffm.EventFd;
import io.flexkv.ffm.Linux;
import io.flexkv.ffm.PollSet;
import io.flexkv.ffm.UnixSocket;
import io.flexkv.protocol.FrameDescriptor;
import io.flexkv.protocol.Protocol;
import io.flexkv.protocol.ProtocolException;
import io.flexkv.session.RefusedException.Code;
import java.io.IOException;
import java.util.ArrayList;
import java.util.List;
import java.util.Queue;
import java.util.concurrent.ConcurrentLinkedQueue;
import java.util.concurrent.locks.LockSupport;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;
import org.slf4j.event.Level;

/**
 * The rendezvous plane: greets clients, sees their death, and carries the records of those that
 * have no rings. One thread, which sleeps in {@code poll}.
 *
 * <p>A stranger costs one accepted socket for at most a second, no memory beyond one hello, and a
 * log line in ten seconds: at most {@value #MAX_GREETING} connections may be without a session, and
 * the listener is not looked at while there are as many.
 */
public final class RendezvousServer implements Runnable, AutoCloseable {
  private static final Logger LOG = LoggerFactory.getLogger(RendezvousServer.class);
  private static final int MAX_GREETING = 32;
  private static final long HELLO_NANOS = 1_000_000_000L;
  private static final long ACCEPT_PAUSE_NANOS = 1_000_000_000L;
  private static final int RETRY_MILLIS = 2;

  private final UnixSocket listener;
  private final BootIdentity identity;
  private final String controlEndpoint;
  private final EventFd agentWake;
  private final SessionEvents events;
  private final Admission admission;
  private final RateLimitedLog refusals = new RateLimitedLog(LOG, System::nanoTime);
  private final EventFd wake;
  private final PollSet poll;
  private final List<Connection> connections = new ArrayList<>();
  private final Queue<Session> toClose = new ConcurrentLinkedQueue<>();
  private volatile boolean refusing;
  private volatile boolean running = true;
  private volatile int clients;
  private volatile int sessions;
  private volatile long lastClientNanos = System.nanoTime();

  /**
   * Makes the server and connects it with the cache thread; its thread is the caller's to start.
   *
   * @param listener becomes the server's to close
   */
  public static RendezvousServer create(
      UnixSocket listener,
      BootIdentity identity,
      String controlEndpoint,
      CacheAgent agent,
      int maxSessions)
      throws IOException {
    RendezvousServer server =
        new RendezvousServer(
            listener, identity, controlEndpoint, agent.wake(), agent.inbox(), maxSessions);
    agent.connect(server);
    return server;
  }

  private RendezvousServer(
      UnixSocket listener,
      BootIdentity identity,
      String controlEndpoint,
      EventFd agentWake,
      SessionEvents events,
      int maxSessions)
      throws IOException {
    this.listener = listener;
    this.identity = identity;
    this.controlEndpoint = controlEndpoint;
    this.agentWake = agentWake;
    this.events = events;
    this.admission = new Admission(identity, Linux.uid(), maxSessions);
    this.wake = EventFd.create();
    this.poll = new PollSet(maxSessions + MAX_GREETING + 2);
  }

  // ------------------------------------------------------------------ any thread

  /** Ends a session whose client broke the protocol; the client reads the end of the socket. */
  void end(Session session) {
    toClose.add(session);
    signal();
  }

  /** There is something to send in frames. */
  void flush() {
    signal();
  }

  /** From now on every hello is refused with "stopping". */
  public void refuseNew() {
    refusing = true;
  }

  /** Sessions of engines now. */
  public int clients() {
    return clients;
  }

  /**
   * Nanoseconds since the last engine's session ended (or the start), 0 while any session is open.
   * A tool holds the sidecar while it is there, but leaves no time behind.
   */
  public long idleNanos() {
    return sessions > 0 ? 0 : System.nanoTime() - lastClientNanos;
  }

  private void signal() {
    try {
      wake.signal();
    } catch (IOException e) {
      LOG.error("cannot wake the rendezvous thread", e);
    }
  }

  /** Ends the thread, which closes every socket. */
  @Override
  public void close() {
    running = false;
    signal();
  }

  // ------------------------------------------------------------------ the thread

  @Override
  public void run() {
    try {
      while (running) {
        doWork();
      }
    } catch (IOException | RuntimeException e) {
      LOG.error("the rendezvous ended by an error of its own", e);
      throw new IllegalStateException(e);
    } finally {
      for (Connection connection : connections) {
        drop(connection);
      }
      listener.close();
      wake.close();
    }
  }

  private void doWork() throws IOException {
    poll.clear();
    int wakeIndex = poll.add(wake.fd(), PollSet.IN);
    int greeting = (int) connections.stream().filter(c -> c.session == null).count();
    int listenIndex = greeting < MAX_GREETING ? poll.add(listener.fd(), PollSet.IN) : -1;
    boolean retry = false;
    for (Connection c : connections) {
      boolean stalled = c.session != null && c.session.bridge != null && c.session.bridge.isFull();
      retry |= stalled;
      // HUP is reported whatever is asked for; a stalled client's bytes stay in the socket.
      short wanted = stalled ? 0 : PollSet.IN;
      c.pollIndex =
          poll.add(c.socket.fd(), c.hasOutput() ? (short) (wanted | PollSet.OUT) : wanted);
    }
    poll.poll(retry ? RETRY_MILLIS : greeting == 0 ? -1 : millisToDeadline());
    if ((poll.ready(wakeIndex) & PollSet.IN) != 0) {
      wake.drain();
    }
    closeAsked();
    // Those with a session first: an end frees a name that a hello may ask for.
    for (Connection c : connections) {
      if (c.session != null && !c.closed) {
        serve(c);
      }
    }
    for (Connection c : connections) {
      if (c.session == null && !c.closed) {
        greet(c);
      }
    }
    connections.removeIf(c -> c.closed);
    if (listenIndex >= 0 && poll.ready(listenIndex) != 0) {
      accept(MAX_GREETING - greeting);
    }
  }

  private int millisToDeadline() {
    long now = System.nanoTime();
    long least = HELLO_NANOS;
    for (Connection c : connections) {
      if (c.session == null) {
        least = Math.min(least, c.acceptedNanos + HELLO_NANOS - now);
      }
    }
    return (int) Math.max(1, least / 1_000_000 + 1);
  }

  private void closeAsked() {
    for (Session ended; (ended = toClose.poll()) != null; ) {
      for (Connection c : connections) {
        if (c.session == ended && !c.closed) {
          drop(c);
        }
      }
    }
  }

  private void accept(int most) {
    for (int i = 0; i < most; i++) {
      UnixSocket socket;
      try {
        socket = listener.accept();
      } catch (IOException e) {
        // Out of descriptors, as a rule: the listener stays readable, so this would spin.
        LOG.warn("cannot accept a client, waits a second: {}", e.getMessage());
        LockSupport.parkNanos(ACCEPT_PAUSE_NANOS);
        return;
      }
      if (socket == null) {
        return;
      }
      Connection connection;
      try {
        connection = new Connection(socket, System.nanoTime());
      } catch (IOException e) {
        socket.close();
        continue;
      }
      try {
        admission.checkPeer(connection.peer);
        connections.add(connection);
      } catch (RefusedException e) {
        refuse(connection, e);
      }
    }
  }

  private void greet(Connection c) {
    try {
      if (poll.ready(c.pollIndex) != 0 && !receive(c)) {
        if (c.input.isEmpty()) {
          drop(c); // somebody who looked whether anyone is here
          return;
        }
        throw new RefusedException(Code.MALFORMED, "the connection ended within its hello");
      }
      if (c.input.isWhole()) {
        welcome(c);
      } else if (System.nanoTime() - c.acceptedNanos > HELLO_NANOS) {
        throw new RefusedException(Code.MALFORMED, "no whole hello came within 1 s");
      }
    } catch (RefusedException e) {
      refuse(c, e);
    } catch (ProtocolException e) {
      refuse(c, new RefusedException(Code.MALFORMED, String.valueOf(e.getMessage())));
    } catch (IOException e) {
      refuse(c, new RefusedException(Code.MALFORMED, "the connection broke: " + e.getMessage()));
    }
  }

  /** Reads once; false at the end of the stream. */
  private static boolean receive(Connection c) throws IOException, ProtocolException {
    UnixSocket.Received received = c.socket.receive(c.input.room());
    c.fds.addAll(received.fds());
    if (c.fds.size() > Connection.MAX_HELLO_FDS) {
      throw new ProtocolException(
          "%d descriptors, at most %d".formatted(c.fds.size(), Connection.MAX_HELLO_FDS));
    }
    if (received.length() > 0) {
      c.input.filled(received.length());
    }
    return received.length() != 0;
  }

  private void welcome(Connection c) throws RefusedException, IOException {
    if (refusing) {
      throw new RefusedException(Code.STOPPING, "this sidecar is about to end: try again");
    }
    Session session = admission.admit(c.input.take(), c.peer, c.fds);
    c.closeDescriptors();
    if (!events.opened(session)) {
      admission.closed(session);
      session.memory.close();
      throw new RefusedException(Code.LIMIT, "the cache thread is too busy: try again");
    }
    c.session = session;
    c.input.maxPayload(session.bridge == null ? 0 : Protocol.MAX_FRAME_BYTES);
    clients = admission.clients();
    sessions = admission.open();
    ObjectNode json = Json.newObject();
    json.put("boot_epoch", identity.epochText());
    json.put("session_id", session.id);
    json.put("server_pid", identity.pid());
    json.put("control_endpoint", controlEndpoint);
    json.put("control_token", identity.controlToken());
    json.put("log_file", identity.logFile());
    json.put("build", identity.build());
    ObjectNode limits = json.putObject("limits");
    limits.put("max_record_bytes", Protocol.MAX_RECORD_BYTES);
    limits.put("max_keys_a_record", Protocol.MAX_KEYS_A_RECORD);
    limits.put("max_blocks_a_plan", Protocol.MAX_BLOCKS_A_PLAN);
    LOG.atLevel(level(session))
        .log("{} began: pid {}, build {}", session.label(), session.peerPid, session.clientBuild());
    try {
      c.send(FrameDescriptor.encode(FrameDescriptor.WELCOME, Json.bytes(json)), agentWake.fd());
    } catch (IOException e) {
      LOG.info("{} did not take its welcome: {}", session.label(), e.getMessage());
      drop(c);
    }
  }

  /** Tools come and go at every look at the status: no news. */
  private static Level level(Session session) {
    return session.hello.role() == Protocol.ROLE_TOOL ? Level.DEBUG : Level.INFO;
  }

  private void refuse(Connection c, RefusedException reason) {
    refusals.refused(
        reason.code(),
        "pid " + c.peer.pid() + " uid " + c.peer.uid(),
        String.valueOf(reason.getMessage()));
    ObjectNode json = Json.newObject();
    json.put("code", reason.code().wire());
    json.put("message", reason.getMessage());
    try {
      c.send(FrameDescriptor.encode(FrameDescriptor.REFUSED, Json.bytes(json)));
    } catch (IOException e) {
      LOG.debug("a refused client did not hear why: {}", e.getMessage());
    }
    drop(c);
  }

  private void serve(Connection c) {
    Session session = c.session;
    if (session == null) {
      return;
    }
    int ready = poll.ready(c.pollIndex);
    try {
      FrameBridge bridge = session.bridge;
      if ((ready & (PollSet.IN | PollSet.HUP | PollSet.ERR)) != 0
          && (bridge == null || !bridge.isFull() || (ready & PollSet.IN) == 0)
          && !receive(c)) {
        LOG.atLevel(level(session)).log("{} ended", session.label());
        drop(c);
        return;
      }
      if (!c.fds.isEmpty()) {
        throw new ProtocolException("descriptors came behind the hello");
      }
      if (bridge == null) {
        if (!c.input.isEmpty()) {
          throw new ProtocolException("bytes on the socket of a session with rings");
        }
        return;
      }
      serveFrames(c, bridge);
    } catch (ProtocolException e) {
      LOG.warn("{} ended, it broke the protocol: {}", session.label(), e.getMessage());
      drop(c);
    } catch (IOException e) {
      LOG.info("{} ended: {}", session.label(), e.getMessage());
      drop(c);
    }
  }

  private void serveFrames(Connection c, FrameBridge bridge) throws ProtocolException, IOException {
    boolean arrived = bridge.retry();
    if (!bridge.isFull() && c.input.isWhole()) {
      FrameBuffer.Frame frame = c.input.take();
      if (frame.type() != FrameDescriptor.RECORDS || frame.version() != Protocol.VERSION) {
        throw new ProtocolException(
            "frame of type %d version %d, wanted records".formatted(frame.type(), frame.version()));
      }
      bridge.receive(frame.payload());
      arrived = true;
    }
    if (arrived) {
      events.framesArrived();
    }
    c.flush();
    while (!c.outputFull()) {
      byte[] frame = bridge.nextFrame();
      if (frame == null) {
        return;
      }
      c.send(frame);
    }
  }

  private void drop(Connection c) {
    if (c.closed) {
      return;
    }
    c.close();
    Session session = c.session;
    if (session != null) {
      admission.closed(session);
      clients = admission.clients();
      if (session.hello.role() != Protocol.ROLE_TOOL) {
        lastClientNanos = System.nanoTime();
      }
      sessions = admission.open();
      events.closed(session);
    }
  }
}
