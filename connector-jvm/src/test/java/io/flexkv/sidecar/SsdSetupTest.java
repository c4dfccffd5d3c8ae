package io.flexkv.sidecar;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ObjectNode;
import io.flexkv.cache.WritePolicy;
import io.flexkv.config.Settings;
import io.flexkv.session.SsdUse;
import io.flexkv.tier.ssd.SsdInUseException;
import io.flexkv.tier.ssd.SsdStore;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Map;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

class SsdSetupTest {
  @TempDir Path folder;

  private static SsdSetup setUp(Map<String, String> options) throws Exception {
    return SsdSetup.open(Settings.load(Map.of(), options), () -> {});
  }

  private static SsdUse open(Map<String, String> options) throws Exception {
    return setUp(options).use();
  }

  private static JsonNode told(SsdSetup setup) {
    ObjectNode told = new ObjectMapper().createObjectNode();
    setup.put(told);
    return told;
  }

  @Test
  void open_noSize_isOff() throws Exception {
    SsdSetup off = setUp(Map.of("ssd_cache_dir", folder.toString()));
    assertThat(off.use()).isNull();
    assertThat(told(off)).hasToString("{\"wanted\":false,\"unusable\":[]}");
    assertThat(open(Map.of("ssd_cache_gb", "1", "enable_ssd", "0"))).isNull();
  }

  @Test
  void open_folderIsAFile_hostTierServesAlone() throws Exception {
    Path file = Files.createFile(folder.resolve("f"));
    SsdSetup setup = setUp(Map.of("ssd_cache_gb", "0.1", "ssd_cache_dir", file.toString()));
    assertThat(setup.use()).isNull();
    JsonNode told = told(setup);
    assertThat(told.path("wanted").asBoolean()).isTrue();
    assertThat(told.at("/unusable/0/path").asText()).isEqualTo(file.toString());
    assertThat(told.at("/unusable/0/cause").asText()).contains("is not a folder");
    assertThat(told.path("unusable")).hasSize(1);
  }

  @Test
  void open_oneFolderOfTwoCannotBe_isToldWithItsCauseAlone() throws Exception {
    Path file = Files.createFile(folder.resolve("f"));
    String both = folder.resolve("a") + ";" + file;
    SsdSetup setup = setUp(Map.of("ssd_cache_gb", "0.1", "ssd_cache_dir", both));
    try (var store = setup.use().store()) {
      assertThat(store.directories()).hasSize(1);
      JsonNode told = told(setup);
      assertThat(told.path("wanted").asBoolean()).isTrue();
      assertThat(told.path("unusable")).hasSize(1);
      assertThat(told.at("/unusable/0/path").asText()).isEqualTo(file.toString());
    }
  }

  @Test
  void open_oneFolderOfTwoCannotBe_capacityAndLogAreOfTheOtherAlone() throws Exception {
    Path good = folder.resolve("a");
    Path file = Files.createFile(folder.resolve("f"));
    String both = good + ";" + file;
    SsdSetup setup = setUp(Map.of("ssd_cache_gb", "0.1", "ssd_cache_dir", both));
    try (var store = setup.use().store()) {
      assertThat(store.capacityBytes()).isEqualTo(50_000_000L);
      assertThat(SsdSetup.summary(store)).isEqualTo("50000000 bytes in [" + good + "]");
    }
  }

  @Test
  void open_namedFolderIsInUse_saysWhoHasItAndTheWayOut() throws Exception {
    Map<String, String> options =
        Map.of("ssd_cache_gb", "0.1", "ssd_cache_dir", folder.resolve("a").toString());
    try (var first = open(options).store()) {
      assertThatThrownBy(() -> open(options))
          .isInstanceOf(SsdInUseException.class)
          .hasMessageContaining(folder.resolve("a").toString())
          .hasMessageContaining("in use by process " + ProcessHandle.current().pid())
          .hasMessageContaining("ssd_cache_dir of its own");
      assertThat(first.directories().getFirst().state()).isNotEqualTo(SsdStore.State.LOST);
    }
  }

  @Test
  void open_options_reachTheStoreAndTheCore() throws Exception {
    SsdUse use =
        open(
            Map.of(
                "ssd_cache_gb",
                "0.1",
                "ssd_cache_dir",
                folder.resolve("a") + ";" + folder.resolve("b"),
                "ssd_write_policy",
                "second_hit",
                "ssd_wait_ms",
                "70",
                "num_ssd_blocks",
                "9"));
    try (var store = use.store()) {
      assertThat(store.directories()).hasSize(2);
      assertThat(store.capacityBytes()).isBetween(90_000_000L, 100_000_000L);
      assertThat(use.config().writePolicy()).isEqualTo(WritePolicy.SECOND_HIT);
      assertThat(use.config().waitNanos()).isEqualTo(70_000_000L);
      assertThat(use.maxBlocks()).isEqualTo(9);
    }
  }

  @Test
  void options_scrubRate_isMegabytesASecond() throws Exception {
    Map<String, String> slow = Map.of("ssd_cache_gb", "0.1", "ssd_scrub_mb_s", "5");
    assertThat(SsdSetup.options(Settings.load(Map.of(), slow)).scrubBytesPerSecond())
        .isEqualTo(5_000_000);
    Map<String, String> silent = Map.of("ssd_cache_gb", "0.1");
    assertThat(SsdSetup.options(Settings.load(Map.of(), silent)).scrubBytesPerSecond()).isZero();
  }
}
