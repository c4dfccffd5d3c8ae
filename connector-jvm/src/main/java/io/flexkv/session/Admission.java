package io.flexkv.session;

import io.flexkv.ffm.UnixSocket.Credentials;
import io.flexkv.protocol.FrameDescriptor;
import io.flexkv.protocol.Protocol;
import io.flexkv.protocol.ProtocolException;
import io.flexkv.protocol.SessionFileDescriptor;
import io.flexkv.session.RefusedException.Code;
import java.util.HashMap;
import java.util.List;
import java.util.Map;

/**
 * Decides who gets a session: same user, same version, a hello and files that are right, nobody
 * there under the same name, and room. Rendezvous thread only.
 */
final class Admission {
  private final BootIdentity identity;
  private final int ownUid;
  private final int maxSessions;
  private final Map<String, Session> byName = new HashMap<>();
  private int open;
  private int lastId;

  Admission(BootIdentity identity, int ownUid, int maxSessions) {
    this.identity = identity;
    this.ownUid = ownUid;
    this.maxSessions = maxSessions;
  }

  /** Before a byte is read. */
  void checkPeer(Credentials peer) throws RefusedException {
    if (peer.uid() != ownUid) {
      throw new RefusedException(
          Code.UID,
          ("the client (pid %d) runs as uid %d, this sidecar serves uid %d only: start one of its"
                  + " own with another FLEXKV_SERVER_RECV_PORT")
              .formatted(peer.pid(), peer.uid(), ownUid));
    }
  }

  /** After the first frame. */
  Session admit(FrameBuffer.Frame frame, Credentials peer, List<Integer> fds)
      throws RefusedException {
    if (frame.version() != Protocol.VERSION) {
      throw new RefusedException(
          Code.VERSION,
          ("the client speaks protocol %d, this sidecar (%s) %d: stop the older of the two, and"
                  + " install one version of flexkv")
              .formatted(frame.version(), identity.build(), Protocol.VERSION));
    }
    try {
      if (frame.type() != FrameDescriptor.HELLO) {
        throw new ProtocolException("first frame of type " + frame.type() + ", must be a hello");
      }
      Hello hello = Hello.decode(frame.payload());
      checkHello(hello, peer);
      return open(hello, peer, SessionMemory.map(hello, fds));
    } catch (ProtocolException e) {
      throw new RefusedException(Code.MALFORMED, String.valueOf(e.getMessage()));
    }
  }

  private void checkHello(Hello hello, Credentials peer) throws RefusedException {
    if (hello.version() != Protocol.VERSION) {
      throw new RefusedException(
          Code.VERSION,
          "hello of version %d, this sidecar has %d".formatted(hello.version(), Protocol.VERSION));
    }
    if (hello.pid() != peer.pid()) {
      throw new RefusedException(
          Code.MALFORMED,
          ("hello says pid %d, the kernel pid %d: client and sidecar must share one PID namespace"
                  + " (one container, or --pid=host)")
              .formatted(hello.pid(), peer.pid()));
    }
    if (open >= maxSessions) {
      throw new RefusedException(
          Code.LIMIT, "%d sessions are open, at most %d".formatted(open, maxSessions));
    }
    if (lastId == Protocol.MAX_SESSION_ID) {
      throw new RefusedException(Code.LIMIT, "no session id is left: restart this sidecar");
    }
    Session there = byName.get(name(hello));
    if (there != null) {
      throw new RefusedException(
          Code.DUPLICATE,
          "the %s is here already (session %d, pid %d): give each engine an engine_id of its own"
              .formatted(hello.label(), there.id, there.peerPid));
    }
  }

  private Session open(Hello hello, Credentials peer, SessionMemory memory) {
    lastId++;
    SessionFileDescriptor.writeIdentity(memory.file(), identity.bootEpoch(), lastId);
    Session session = new Session(lastId, hello, peer.pid(), memory);
    open++;
    if (hello.role() != Protocol.ROLE_TOOL) {
      byName.put(name(hello), session);
    }
    return session;
  }

  void closed(Session session) {
    open--;
    byName.remove(name(session.hello), session);
  }

  int open() {
    return open;
  }

  /** Sessions of engines, without tools. */
  int clients() {
    return byName.size();
  }

  private static String name(Hello hello) {
    return hello.role() + "/" + hello.rank() + "/" + hello.instance();
  }
}
