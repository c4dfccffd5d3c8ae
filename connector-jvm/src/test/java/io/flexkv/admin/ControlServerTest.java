package io.flexkv.admin;

import static org.assertj.core.api.Assertions.assertThat;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import io.flexkv.protocol.RequestException;
import java.nio.charset.StandardCharsets;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;

class ControlServerTest {
  private final ObjectMapper json = new ObjectMapper();
  private ControlServer server;
  private Thread thread;

  @BeforeEach
  void start() {
    server =
        new ControlServer("secret")
            .on("ping", args -> json.createObjectNode().put("n", args.path("n").asInt()))
            .on(
                "fail",
                args -> {
                  throw new RequestException("refused", "because");
                });
    thread = Thread.ofPlatform().daemon().start(server);
  }

  @AfterEach
  void stop() throws Exception {
    server.close();
    thread.join(5000);
    assertThat(thread.isAlive()).isFalse();
  }

  private JsonNode ask(String message) throws Exception {
    byte[] answer =
        ControlClient.ask(server.endpoint(), message.getBytes(StandardCharsets.UTF_8), 2000);
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

  @Test
  void request_wrongToken_isAnsweredOnceAPeer() {
    byte[] wrong =
        "{\"id\": 4, \"token\": \"guess\", \"op\": \"ping\"}".getBytes(StandardCharsets.UTF_8);
    JsonNode first = server.reply("aa", wrong);
    assertThat(first.path("error").path("code").asText()).isEqualTo("token");
    assertThat(server.reply("aa", wrong)).isNull();
    assertThat(server.reply("bb", wrong)).isNotNull();
  }

  @Test
  void request_hostileJson_isRefusedNotParsed() {
    String deep = "[".repeat(100_000);
    assertThat(
            server
                .reply("a", deep.getBytes(StandardCharsets.UTF_8))
                .path("error")
                .path("code")
                .asText())
        .isEqualTo("malformed");
    assertThat(server.reply("b", new byte[] {(byte) 0xFF, 0, 1})).isNotNull();
    assertThat(server.reply("c", new byte[0])).isNotNull();
  }
}
