package io.flexkv.admin;

import org.jspecify.annotations.Nullable;
import org.zeromq.SocketType;
import org.zeromq.ZContext;
import org.zeromq.ZMQ;

/**
 * Asks a control plane one question. For tools and tests: the shim asks by libzmq.
 *
 * <p>JeroMQ 0.6.0 loses the first message of a new DEALER now and then (about one in a hundred on a
 * busy machine; libzmq against the same server lost none of 210), so silence is answered by asking
 * again on a new socket. Only for questions that may be asked twice.
 */
public final class ControlClient {
  private static final int ATTEMPTS = 3;

  private ControlClient() {}

  /**
   * Sends a request and waits for its answer.
   *
   * @param endpoint {@code tcp://127.0.0.1:port}
   * @param request one JSON object
   * @param attemptMillis how long to wait in each of at most three attempts
   * @return the answer, null if there was none
   */
  public static byte @Nullable [] ask(String endpoint, byte[] request, int attemptMillis) {
    byte[] answer = null;
    for (int attempt = 0; attempt < ATTEMPTS && answer == null; attempt++) {
      try (ZContext context = new ZContext(1)) {
        ZMQ.Socket socket = context.createSocket(SocketType.DEALER);
        socket.setLinger(0);
        socket.setReceiveTimeOut(attemptMillis);
        socket.connect(endpoint);
        socket.send(request, 0);
        answer = socket.recv(0);
      }
    }
    return answer;
  }
}
