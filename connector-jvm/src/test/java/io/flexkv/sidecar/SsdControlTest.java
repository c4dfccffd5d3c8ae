package io.flexkv.sidecar;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import io.flexkv.protocol.RequestException;
import io.flexkv.tier.ssd.SsdStore;
import io.flexkv.tier.ssd.SsdStore.State;
import java.lang.reflect.Proxy;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import org.junit.jupiter.api.Test;

class SsdControlTest {
  private static final Path DISK = Path.of("/disk/a");

  private final List<Object> attached = new ArrayList<>();

  private SsdControl control(State state, boolean attaching, boolean accepts) {
    List<SsdStore.DirectoryStatus> directories =
        List.of(new SsdStore.DirectoryStatus(DISK, state, 1, 0, null, attaching));
    return new SsdControl(
        (SsdStore)
            Proxy.newProxyInstance(
                SsdStore.class.getClassLoader(),
                new Class<?>[] {SsdStore.class},
                (proxy, method, args) ->
                    switch (method.getName()) {
                      case "directories" -> directories;
                      case "reattach" -> accepts && attached.add(args[0]);
                      default -> throw new UnsupportedOperationException(method.getName());
                    }));
  }

  private static JsonNode path(String text) {
    return new ObjectMapper().createObjectNode().put("path", text);
  }

  @Test
  void reattach_lostDirectory_begins() throws Exception {
    JsonNode answer = control(State.LOST, false, true).reattach(path("/disk/x/../a"));
    assertThat(answer.path("path").asText()).isEqualTo("/disk/a");
    assertThat(attached).containsExactly(DISK);
  }

  @Test
  void reattach_underWayAlready_isNotBegunTwice() throws Exception {
    control(State.LOST, true, false).reattach(path("/disk/a"));
    assertThat(attached).isEmpty();
  }

  @Test
  void reattach_whatCannotBe_saysWhy() {
    refused(control(State.SERVING, false, true), "/disk/a", "not out, its state is SERVING");
    refused(control(State.LOST, false, false), "/disk/a", "accesses from before");
    refused(control(State.LOST, false, true), "/disk/b", "those are [/disk/a]");
    refused(control(State.LOST, false, true), "a", "path is 'a', not absolute");
    refused(new SsdControl(null), "/disk/a", "no SSD tier");
    assertThat(attached).isEmpty();
  }

  private static void refused(SsdControl control, String path, String text) {
    assertThatThrownBy(() -> control.reattach(path(path)))
        .isInstanceOf(RequestException.class)
        .hasMessageContaining(text);
  }
}
