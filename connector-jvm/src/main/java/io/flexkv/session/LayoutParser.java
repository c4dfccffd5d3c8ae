package io.flexkv.session;

import com.fasterxml.jackson.databind.JsonNode;
import io.flexkv.device.AllocationHandle;
import io.flexkv.device.DeviceException;
import io.flexkv.device.RankLayout;
import io.flexkv.device.Region;
import io.flexkv.protocol.RequestException;
import java.util.ArrayList;
import java.util.HexFormat;
import java.util.List;

/** Reads the {@code layout} and {@code fences} of a registration. */
final class LayoutParser {
  private static final int REGION_FIELDS = 5;
  private static final int MAX_FENCES = 1024;
  private static final int MAX_FINGERPRINT = 256;

  private LayoutParser() {}

  static RankLayout layout(JsonNode json) throws RequestException {
    if (!json.isObject()) {
      throw malformed("layout is not an object");
    }
    List<AllocationHandle> allocations = new ArrayList<>();
    for (JsonNode allocation : array(json, "allocations", RankLayout.MAX_ALLOCATIONS)) {
      allocations.add(allocation(allocation));
    }
    List<Region> regions = new ArrayList<>();
    long blocks = number(json, "num_blocks", 1, RankLayout.MAX_BLOCKS);
    for (JsonNode region : array(json, "regions", RankLayout.MAX_REGIONS)) {
      if (!region.isArray() || region.size() != REGION_FIELDS) {
        throw malformed("region " + regions.size() + " is not an array of five numbers");
      }
      for (JsonNode field : region) {
        if (!field.isIntegralNumber() || !field.canConvertToLong() || field.longValue() < 0) {
          throw malformed("region %d holds %s".formatted(regions.size(), field));
        }
      }
      regions.add(
          new Region(
              (int) Math.min(region.get(0).longValue(), Integer.MAX_VALUE),
              region.get(1).longValue(),
              region.get(2).longValue(),
              region.get(3).longValue(),
              (int) Math.min(region.get(4).longValue(), Integer.MAX_VALUE)));
    }
    String fingerprint = text(json, "fingerprint");
    if (fingerprint.isEmpty() || fingerprint.length() > MAX_FINGERPRINT) {
      throw malformed("fingerprint of " + fingerprint.length() + " characters");
    }
    try {
      RankLayout layout = RankLayout.of(allocations, regions, fingerprint);
      if (layout.blocks() != blocks) {
        throw malformed("num_blocks=%d, the regions have %d".formatted(blocks, layout.blocks()));
      }
      return layout;
    } catch (DeviceException e) {
      throw malformed(e.getMessage());
    }
  }

  private static AllocationHandle allocation(JsonNode json) throws RequestException {
    String kind = text(json, "kind");
    long most = Long.MAX_VALUE;
    return switch (kind) {
      case "process" ->
          new AllocationHandle.ProcessMemory(
              (int) number(json, "pid", 1, Integer.MAX_VALUE),
              number(json, "start_ticks", 0, most),
              number(json, "address", 1, most),
              number(json, "length", 1, most));
      case "cuda_ipc" ->
          new AllocationHandle.CudaIpc(
              text(json, "handle"),
              number(json, "offset", 0, most),
              number(json, "length", 1, most),
              text(json, "gpu_uuid"));
      case "posix_fd", "memfd" ->
          throw new RequestException(
              "refused",
              "allocations of kind %s are not served yet; served are process and cuda_ipc"
                  .formatted(kind));
      default ->
          throw new RequestException(
              "refused",
              "unknown kind of allocation '%s'; served are process and cuda_ipc"
                  .formatted(kind.replaceAll("[^\\x20-\\x7e]", "?")));
    };
  }

  /** The event handles, empty where the engine has none. */
  static List<byte[]> fences(JsonNode json) throws RequestException {
    if (json.isNull() || json.isMissingNode()) {
      return List.of();
    }
    String kind = text(json, "kind");
    if (!kind.equals("cuda_ipc_event")) {
      throw new RequestException(
          "refused", "unknown kind of fences '%s'; served is cuda_ipc_event".formatted(kind));
    }
    List<byte[]> handles = new ArrayList<>();
    for (JsonNode handle : array(json, "handles", MAX_FENCES)) {
      try {
        handles.add(HexFormat.of().parseHex(handle.asText()));
      } catch (IllegalArgumentException e) {
        throw malformed("fence handle " + handles.size() + " is not hex");
      }
    }
    return handles;
  }

  static JsonNode array(JsonNode json, String name, int most) throws RequestException {
    JsonNode node = json.path(name);
    if (!node.isArray() || node.size() > most) {
      throw malformed("%s must be an array of at most %d".formatted(name, most));
    }
    return node;
  }

  static long number(JsonNode json, String name, long least, long most) throws RequestException {
    JsonNode node = json.path(name);
    if (!node.isIntegralNumber()
        || !node.canConvertToLong()
        || node.longValue() < least
        || node.longValue() > most) {
      throw malformed("%s=%s, must be an integer from %d to %d".formatted(name, node, least, most));
    }
    return node.longValue();
  }

  static String text(JsonNode json, String name) throws RequestException {
    JsonNode node = json.path(name);
    if (!node.isTextual()) {
      throw malformed(name + " must be text");
    }
    return node.textValue();
  }

  private static RequestException malformed(String message) {
    return new RequestException("malformed", message);
  }
}
