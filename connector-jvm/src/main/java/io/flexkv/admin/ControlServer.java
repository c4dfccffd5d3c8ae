package io.flexkv.admin;

import com.fasterxml.jackson.core.JsonFactory;
import com.fasterxml.jackson.core.JsonProcessingException;
import com.fasterxml.jackson.core.StreamReadConstraints;
import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.json.JsonMapper;
import com.fasterxml.jackson.databind.node.ObjectNode;
import io.flexkv.protocol.RequestException;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.security.MessageDigest;
import java.util.HashSet;
import java.util.HexFormat;
import java.util.LinkedHashMap;
import java.util.Map;
import java.util.Queue;
import java.util.Set;
import java.util.concurrent.ConcurrentLinkedQueue;
import org.jspecify.annotations.Nullable;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;
import org.zeromq.SocketType;
import org.zeromq.ZContext;
import org.zeromq.ZMQ;
import org.zeromq.ZMsg;

/**
 * The control plane: a ZeroMQ ROUTER on the loopback device, JSON in and out, one thread. Whoever
 * lacks the token, which is handed out at the rendezvous, gets one refusal and one log line, and
 * nothing it sends is looked at beyond that.
 *
 * <p>Operations that wait for a device run on a thread of their own each, so that one GPU that
 * hangs holds up nobody else. A ZeroMQ socket is one thread's: their answers are queued, and sent
 * by the control thread, which looks often while there is one to come.
 */
public final class ControlServer implements Runnable, AutoCloseable {
  private static final Logger LOG = LoggerFactory.getLogger(ControlServer.class);
  private static final int MAX_MESSAGE_BYTES = 8 * 1024 * 1024;
  private static final int MAX_KNOWN_PEERS = 1024;
  private static final int SLICE_MILLIS = 250;
  private static final int SLICE_MILLIS_ANSWER_TO_COME = 5;

  /** As many as there are sessions, each of which asks for one thing at a time. */
  private static final int MAX_OWN_THREADS = 256;

  /** An answer that a thread of its own has made. */
  private record Answer(String peer, JsonNode reply) {}

  private final ObjectMapper json =
      JsonMapper.builder(
              JsonFactory.builder()
                  .streamReadConstraints(
                      StreamReadConstraints.builder()
                          .maxNestingDepth(16)
                          .maxStringLength(64 * 1024)
                          .maxNumberLength(32)
                          .maxDocumentLength(MAX_MESSAGE_BYTES)
                          .build())
                  .build())
          .build();
  private final ZContext context = new ZContext(1);
  private final ZMQ.Socket socket;
  private final String endpoint;
  private final byte[] token;
  private final Map<String, ControlHandler> handlers = new LinkedHashMap<>();
  private final Set<String> onOwnThread = new HashSet<>();
  private final int maxOwnThreads;
  private final Queue<Answer> answers = new ConcurrentLinkedQueue<>();

  /** Threads of which the answer has not been sent; control thread. */
  private int answersToCome;

  private final Map<String, Boolean> refusedPeers =
      new LinkedHashMap<>() {
        private static final long serialVersionUID = 1L;

        @Override
        protected boolean removeEldestEntry(Map.Entry<String, Boolean> eldest) {
          return size() > MAX_KNOWN_PEERS;
        }
      };
  private volatile boolean running = true;

  /** Binds to a free port. */
  public ControlServer(String token) {
    this(token, MAX_OWN_THREADS);
  }

  ControlServer(String token, int maxOwnThreads) {
    this.maxOwnThreads = maxOwnThreads;
    this.token = token.getBytes(StandardCharsets.US_ASCII);
    this.socket = context.createSocket(SocketType.ROUTER);
    socket.setLinger(0);
    socket.setMaxMsgSize(MAX_MESSAGE_BYTES);
    socket.setRcvHWM(256);
    socket.setSndHWM(256);
    socket.setReceiveTimeOut(SLICE_MILLIS);
    int port = socket.bindToRandomPort("tcp://127.0.0.1");
    this.endpoint = "tcp://127.0.0.1:" + port;
  }

  /** {@code tcp://127.0.0.1:port}. */
  public String endpoint() {
    return endpoint;
  }

  /** Adds an operation; before the thread starts. */
  public ControlServer on(String op, ControlHandler handler) {
    handlers.put(op, handler);
    return this;
  }

  /** Adds one that may take seconds, called on a thread of its own; before the thread starts. */
  public ControlServer onOwnThread(String op, ControlHandler handler) {
    onOwnThread.add(op);
    return on(op, handler);
  }

  @Override
  public void run() {
    try {
      while (running) {
        socket.setReceiveTimeOut(answersToCome > 0 ? SLICE_MILLIS_ANSWER_TO_COME : SLICE_MILLIS);
        ZMsg message = ZMsg.recvMsg(socket);
        if (message != null) {
          answer(message);
        }
        sendAnswers();
      }
    } finally {
      context.close();
    }
  }

  private void answer(ZMsg message) {
    String peer = HexFormat.of().formatHex(message.pop().getData());
    byte[] body = message.size() == 1 ? message.pop().getData() : new byte[0];
    message.destroy();
    JsonNode reply = reply(peer, body);
    if (reply != null) {
      send(peer, reply);
    }
  }

  private void sendAnswers() {
    for (Answer answer; (answer = answers.poll()) != null; answersToCome--) {
      send(answer.peer(), answer.reply());
    }
  }

  private void send(String peer, JsonNode reply) {
    try {
      socket.send(HexFormat.of().parseHex(peer), ZMQ.SNDMORE | ZMQ.DONTWAIT);
      socket.send(json.writeValueAsBytes(reply), ZMQ.DONTWAIT);
    } catch (JsonProcessingException e) {
      throw new IllegalStateException("a tree cannot be written as JSON", e);
    }
  }

  /** The answer to one message, null where there is none, or where it comes later. */
  @Nullable JsonNode reply(String peer, byte[] body) {
    JsonNode request;
    try {
      request = json.readTree(body);
    } catch (IOException e) {
      return stranger(peer, 0, "malformed", "the request is not JSON");
    }
    if (request == null || !request.isObject()) {
      return stranger(peer, 0, "malformed", "the request is not a JSON object");
    }
    long id = request.path("id").asLong(0);
    byte[] seen = request.path("token").asText("").getBytes(StandardCharsets.UTF_8);
    if (!MessageDigest.isEqual(seen, token)) {
      return stranger(
          peer, id, "token", "wrong token: it is handed out at the rendezvous, once a session");
    }
    String op = request.path("op").asText("");
    if (!onOwnThread.contains(op)) {
      return carryOut(id, op, request.path("args"));
    }
    if (answersToCome >= maxOwnThreads) {
      return error(id, "limit", maxOwnThreads + " such requests run already: try again");
    }
    Thread.ofPlatform()
        .daemon()
        .name("flexkv-" + op.replace('_', '-'))
        .start(() -> answers.add(new Answer(peer, carryOutHere(id, op, request.path("args")))));
    answersToCome++;
    return null;
  }

  /** On a thread of its own: there is always an answer. */
  private JsonNode carryOutHere(long id, String op, JsonNode args) {
    try {
      return carryOut(id, op, args);
    } catch (Error e) {
      LOG.error("control {} failed", op, e);
      return error(id, "internal", "the request failed: " + e);
    }
  }

  private JsonNode carryOut(long id, String op, JsonNode args) {
    ControlHandler handler = handlers.get(op);
    try {
      if (handler == null) {
        throw new RequestException(
            "unknown", "unknown operation; known are " + String.join(", ", handlers.keySet()));
      }
      ObjectNode answer = json.createObjectNode();
      answer.put("id", id).put("ok", true);
      answer.set("result", handler.handle(args));
      return answer;
    } catch (RequestException e) {
      LOG.info("control {}: {} ({})", handler == null ? "?" : op, e.getMessage(), e.code());
      return error(id, e.code(), e.getMessage());
    } catch (RuntimeException e) {
      LOG.error("control {} failed", op, e);
      return error(id, "internal", "the request failed: " + e);
    }
  }

  private @Nullable JsonNode stranger(String peer, long id, String code, String message) {
    if (refusedPeers.put(peer, true) != null) {
      return null;
    }
    LOG.warn("control: refused a request of peer {} ({})", peer, code);
    return error(id, code, message);
  }

  private JsonNode error(long id, String code, @Nullable String message) {
    ObjectNode answer = json.createObjectNode();
    answer.put("id", id).put("ok", false);
    answer.putObject("error").put("code", code).put("message", message);
    return answer;
  }

  /** Ends the thread within a quarter of a second. */
  @Override
  public void close() {
    running = false;
  }
}
