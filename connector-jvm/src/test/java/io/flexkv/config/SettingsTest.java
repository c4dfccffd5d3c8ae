package io.flexkv.config;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Map;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

class SettingsTest {
  @TempDir Path folder;

  private Map<String, String> envWith(String name, String text) throws Exception {
    Path file = folder.resolve(name);
    Files.writeString(file, text);
    return Map.of(
        "FLEXKV_CONFIG_PATH", file.toString(),
        "FLEXKV_CPU_CACHE_GB", "1",
        "FLEXKV_SPIN_US", "10",
        "SIZE", "7");
  }

  @Test
  void load_nothingSet_defaults() throws Exception {
    Settings settings = Settings.load(Map.of(), Map.of());
    assertThat(settings.socketPath()).isEqualTo(Path.of("/tmp/flexkv_server"));
    assertThat(settings.hostBytes()).isEqualTo(16_000_000_000L);
    assertThat(settings.changed()).isEmpty();
  }

  @Test
  void load_everySource_theStrongestWins() throws Exception {
    Map<String, String> env = envWith("c.yaml", "cpu_cache_gb: 2\nlease_ttl_s: 5\n");
    assertThat(Settings.load(env, Map.of()).number(Options.CPU_CACHE_GB)).isEqualTo(2);
    assertThat(Settings.load(env, Map.of()).integer(Options.SPIN_US)).isEqualTo(10);
    Map<String, String> over = new java.util.HashMap<>(env);
    over.put("FLEXKV_OVERRIDES", "{\"cpu_cache_gb\": 3}");
    assertThat(Settings.load(over, Map.of()).number(Options.CPU_CACHE_GB)).isEqualTo(3);
    Settings all = Settings.load(over, Map.of("cpu_cache_gb", "4.5"));
    assertThat(all.number(Options.CPU_CACHE_GB)).isEqualTo(4.5);
    assertThat(all.source(Options.CPU_CACHE_GB)).isEqualTo("--cpu-cache-gb");
    assertThat(all.nanos(Options.LEASE_TTL_S)).isEqualTo(5_000_000_000L);
  }

  @Test
  void load_overridesThatNameTheirSources_areShownWithThem() throws Exception {
    String text =
        """
        {"idle_exit_s": 0, "log_level": "INFO", "spin_us": 3, "sources":
         {"idle_exit_s": "flexkv serve", "log_level": "default"}}
        """;
    Settings settings = Settings.load(Map.of("FLEXKV_OVERRIDES", text), Map.of());
    assertThat(settings.changed())
        .containsOnly(
            Map.entry("idle_exit_s", "0 (flexkv serve)"),
            Map.entry("spin_us", "3 (FLEXKV_OVERRIDES spin_us)"));
    assertThat(settings.notes()).isEmpty();
  }

  @Test
  void load_jsonWithCommentsVariablesAndSections_isRead() throws Exception {
    Map<String, String> env =
        envWith(
            "c.json",
            """
            { // how much
              "cache_config": {"cpu_cache_gb": ${SIZE}, /* no blocks */ "num_cpu_blocks": 0},
              "enable_flexkv": true,
              "spin_us": 20,
            }
            """);
    Settings settings = Settings.load(env, Map.of());
    assertThat(settings.number(Options.CPU_CACHE_GB)).isEqualTo(7);
    assertThat(settings.integer(Options.SPIN_US)).isEqualTo(20);
  }

  @Test
  void load_secret_isNeverShown() throws Exception {
    Settings settings = Settings.load(envWith("c.yaml", "redis_password: hunter2\n"), Map.of());
    assertThat(settings.notes()).isNotEmpty();
    assertThat(settings.notes() + " " + settings.changed()).doesNotContain("hunter2");
  }

  @Test
  void wantsSsd_sizesAndSwitch_bothCount() throws Exception {
    assertThat(Settings.load(Map.of(), Map.of()).wantsSsd()).isFalse();
    assertThat(Settings.load(Map.of("FLEXKV_SSD_CACHE_GB", "1"), Map.of()).wantsSsd()).isTrue();
    Map<String, String> env =
        envWith("c.json", "{\"cache_config\": {\"enable_ssd\": false, \"num_ssd_blocks\": 9}}");
    assertThat(Settings.load(env, Map.of()).wantsSsd()).isFalse();
  }

  @Test
  void load_badValue_isNamedWithSourceAndWhatIsAllowed() {
    assertThatThrownBy(() -> Settings.load(Map.of("FLEXKV_SPIN_US", "much"), Map.of()))
        .hasMessage("FLEXKV_SPIN_US is 'much', must be an integer from 0 to 100000, microseconds");
    assertThatThrownBy(() -> Settings.load(Map.of("FLEXKV_LEASE_TTL_S", "NaN"), Map.of()))
        .hasMessageContaining("FLEXKV_LEASE_TTL_S is 'NaN'");
    assertThatThrownBy(
            () -> Settings.load(Map.of(), Map.of("server_recv_port", "tcp://127.0.0.1:5")))
        .hasMessageContaining("--server-recv-port is 'tcp://127.0.0.1:5', must be ipc://");
    assertThatThrownBy(() -> Settings.load(Map.of("FLEXKV_CONFIG_PATH", "/none.yaml"), Map.of()))
        .hasMessageContaining("cannot be read");
    assertThatThrownBy(() -> Settings.load(Map.of("FLEXKV_CONFIG_PATH", "/etc/hosts"), Map.of()))
        .hasMessageContaining("must end in .json, .yaml or .yml");
  }

  @Test
  void load_fileThatIsNoMapping_isRefused() throws Exception {
    assertThatThrownBy(() -> Settings.load(envWith("c.yaml", "- a\n- b\n"), Map.of()))
        .hasMessageContaining("no mapping");
    assertThatThrownBy(() -> Settings.load(envWith("d.json", "{"), Map.of()))
        .hasMessageContaining("cannot be parsed");
  }
}
