package io.flexkv.admin;

import static java.nio.charset.StandardCharsets.UTF_8;
import static org.assertj.core.api.Assertions.assertThat;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import io.flexkv.protocol.RequestException;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.Semaphore;
import java.util.concurrent.TimeUnit;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.zeromq.SocketType;
import org.zeromq.ZContext;
import org.zeromq.ZMQ;

class ControlServerTest {
  private final ObjectMapper json = new ObjectMapper();
  private ControlServer server;
  private Thread thread;
  private final Semaphore begun = new Semaphore(0);
  private final Semaphore end = new Semaphore(0);

  @BeforeEach
  void start() {
    server =
        new ControlServer("secret", 2)
            .on("ping", args -> json.createObjectNode().put("n", args.path("n").asInt()))
            .on(
                "fail",
                args -> {
                  throw new RequestException("refused", "because");
                })
            .onOwnThread(
                "wait",
                args -> {
                  begun.release();
                  end.acquireUninterruptibly();
                  return json.createObjectNode().put("n", args.path("n").asInt());
                })
            .onOwnThread(
                "break",
                args -> {
                  throw new AssertionError("broken by the test");
                });
    thread = Thread.ofPlatform().daemon().start(server);
  }

  @AfterEach
  void stop() throws Exception {
    end.release(100);
    server.close();
    thread.join(5000);
    assertThat(thread.isAlive()).isFalse();
  }

  private JsonNode ask(String message) throws Exception {
    byte[] answer = ControlClient.ask(server.endpoint(), message.getBytes(UTF_8), 2000);
    assertThat(answer).isNotNull();
    return json.readTree(answer);
  }

  @Test
  void request_good_isAnswered() throws Exception {
    JsonNode answer =
        ask("{\"id\": 4, \"token\": \"secret\", \"op\": \"ping\", \"args\": {\"n\": 3}}");
    assertThat(answer.toString()).isEqualTo("{\"id\":4,\"ok\":true,\"result\":{\"n\":3}}");
  }

  @Test
  void request_refused_saysWhy() throws Exception {
    JsonNode answer = ask("{\"id\": 4, \"token\": \"secret\", \"op\": \"fail\"}");
    assertThat(answer.path("error").toString())
        .isEqualTo("{\"code\":\"refused\",\"message\":\"because\"}");
    assertThat(
            ask("{\"id\": 4, \"token\": \"secret\", \"op\": \"no\"}")
                .path("error")
                .path("message")
                .asText())
        .contains("known are ping, fail");
  }

  private CompletableFuture<JsonNode> askLater(String message) {
    return CompletableFuture.supplyAsync(
        () -> {
          try {
            return json.readTree(askOnce(message));
          } catch (Exception e) {
            throw new AssertionError(e);
          }
        },
        runnable -> Thread.ofPlatform().daemon().start(runnable));
  }

  /**
   * For what may not be asked twice: on a socket that has brought an answer already, since a new
   * one's first message may be lost ({@link ControlClient}).
   */
  private byte[] askOnce(String message) {
    byte[] ping = "{\"id\": 1, \"token\": \"secret\", \"op\": \"ping\"}".getBytes(UTF_8);
    for (int attempt = 0; attempt < 10; attempt++) {
      try (ZContext context = new ZContext(1)) {
        ZMQ.Socket socket = context.createSocket(SocketType.DEALER);
        socket.setLinger(0);
        socket.setReceiveTimeOut(1000);
        socket.connect(server.endpoint());
        socket.send(ping, 0);
        if (socket.recv(0) != null) {
          socket.setReceiveTimeOut(20_000);
          socket.send(message.getBytes(UTF_8), 0);
          return socket.recv(0);
        }
      }
    }
    throw new AssertionError("no socket brought an answer");
  }

  @Test
  void request_whileOneOnItsOwnThreadRuns_isAnsweredAndThatOneLater() throws Exception {
    CompletableFuture<JsonNode> slow =
        askLater("{\"id\": 9, \"token\": \"secret\", \"op\": \"wait\", \"args\": {\"n\": 5}}");
    assertThat(begun.tryAcquire(10, TimeUnit.SECONDS)).isTrue();
    JsonNode ping =
        ask("{\"id\": 4, \"token\": \"secret\", \"op\": \"ping\", \"args\": {\"n\": 3}}");
    assertThat(ping.path("result").path("n").asInt()).isEqualTo(3);
    assertThat(slow.isDone()).isFalse();
    end.release();
    assertThat(slow.get(10, TimeUnit.SECONDS).toString())
        .isEqualTo("{\"id\":9,\"ok\":true,\"result\":{\"n\":5}}");
  }

  @Test
  void request_moreOnThreadsOfTheirOwnThanMayBe_isRefusedUntilOneIsAnswered() throws Exception {
    String wait = "{\"id\": 9, \"token\": \"secret\", \"op\": \"wait\"}";
    CompletableFuture<JsonNode> first = askLater(wait);
    CompletableFuture<JsonNode> second = askLater(wait);
    assertThat(begun.tryAcquire(2, 10, TimeUnit.SECONDS)).isTrue();
    assertThat(ask(wait).path("error").path("code").asText()).isEqualTo("limit");
    end.release(3);
    assertThat(first.get(10, TimeUnit.SECONDS).path("ok").asBoolean()).isTrue();
    assertThat(second.get(10, TimeUnit.SECONDS).path("ok").asBoolean()).isTrue();
    assertThat(ask(wait).path("ok").asBoolean()).isTrue();
  }

  @Test
  void request_thatBreaksItsOwnThread_isAnsweredAllTheSame() throws Exception {
    JsonNode answer = ask("{\"id\": 9, \"token\": \"secret\", \"op\": \"break\"}");
    assertThat(answer.path("error").path("code").asText()).isEqualTo("internal");
  }

  @Test
  void request_wrongToken_isAnsweredOnceAPeer() {
    byte[] wrong = "{\"id\": 4, \"token\": \"guess\", \"op\": \"ping\"}".getBytes(UTF_8);
    JsonNode first = server.reply("aa", wrong);
    assertThat(first.path("error").path("code").asText()).isEqualTo("token");
    assertThat(server.reply("aa", wrong)).isNull();
    assertThat(server.reply("bb", wrong)).isNotNull();
  }

  @Test
  void request_hostileJson_isRefusedNotParsed() {
    String deep = "[".repeat(100_000);
    assertThat(server.reply("a", deep.getBytes(UTF_8)).path("error").path("code").asText())
        .isEqualTo("malformed");
    assertThat(server.reply("b", new byte[] {(byte) 0xFF, 0, 1})).isNotNull();
    assertThat(server.reply("c", new byte[0])).isNotNull();
  }
}
