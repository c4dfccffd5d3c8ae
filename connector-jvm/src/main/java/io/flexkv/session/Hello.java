package io.flexkv.session;

import com.fasterxml.jackson.databind.JsonNode;
import io.flexkv.protocol.Protocol;
import io.flexkv.protocol.ProtocolException;

/**
 * What a client says of itself in its first frame.
 *
 * @param role one of {@code Protocol.ROLE_…}
 * @param pid the client's process; checked against the kernel's word
 * @param instance the engine that the session belongs to; empty for tools
 * @param rank of a worker, 0 to world size − 1
 * @param worldSize workers of the instance; 0 from a worker that takes its scheduler's word
 * @param namespace hex digest of all that the bytes depend on besides tokens and layouts; empty
 *     from a worker that takes its scheduler's word
 * @param version of the protocol
 * @param build of the client, for the log
 * @param rings false = records travel as frames on the socket
 * @param kvGroups KV groups of the engine
 * @param blockTokens tokens of a block, 0 for tools
 * @param events whether the client wants {@code KvNotice} records
 */
record Hello(
    int role,
    int pid,
    String instance,
    int rank,
    int worldSize,
    String namespace,
    int version,
    String build,
    boolean rings,
    int kvGroups,
    int blockTokens,
    boolean events) {
  static final int MAX_TEXT = 512;
  static final int MAX_WORLD = 1024;
  private static final int MAX_GROUPS = 64;
  private static final int MAX_BLOCK_TOKENS = 1 << 20;

  /** Reads a payload; unknown fields of newer clients are skipped. */
  static Hello decode(byte[] payload) throws ProtocolException {
    JsonNode json = Json.object(payload);
    int role = number(json, "role", -1, Protocol.ROLE_SCHEDULER, Protocol.ROLE_TOOL);
    boolean worker = role == Protocol.ROLE_WORKER;
    int world = number(json, "world_size", 1, worker ? 0 : 1, MAX_WORLD);
    Hello hello =
        new Hello(
            role,
            number(json, "pid", -1, 1, Integer.MAX_VALUE),
            text(json, "instance"),
            number(json, "rank", 0, 0, (world == 0 ? MAX_WORLD : world) - 1),
            world,
            text(json, "namespace"),
            number(json, "version", Protocol.VERSION, 0, Integer.MAX_VALUE),
            text(json, "build"),
            bool(json, "rings", true),
            number(json, "kv_groups", 1, 0, MAX_GROUPS),
            number(json, "block_tokens", 0, 0, MAX_BLOCK_TOKENS),
            bool(json, "events", false));
    if (role != Protocol.ROLE_TOOL && hello.instance.isEmpty()) {
      throw new ProtocolException("hello lacks an instance");
    }
    if (role == Protocol.ROLE_SCHEDULER && hello.namespace.isEmpty()) {
      throw new ProtocolException("hello lacks a namespace");
    }
    return hello;
  }

  private static int number(JsonNode json, String name, int absent, int least, int most)
      throws ProtocolException {
    JsonNode node = json.get(name);
    if (node == null && absent >= 0) {
      return absent;
    }
    if (node == null
        || !node.isIntegralNumber()
        || !node.canConvertToInt()
        || node.intValue() < least
        || node.intValue() > most) {
      throw new ProtocolException(
          "hello: %s=%s, must be an integer from %d to %d".formatted(name, node, least, most));
    }
    return node.intValue();
  }

  private static String text(JsonNode json, String name) throws ProtocolException {
    JsonNode node = json.get(name);
    if (node == null) {
      return "";
    }
    if (!node.isTextual() || node.textValue().length() > MAX_TEXT) {
      throw new ProtocolException(
          "hello: %s must be text of at most %d characters".formatted(name, MAX_TEXT));
    }
    return node.textValue();
  }

  private static boolean bool(JsonNode json, String name, boolean absent) throws ProtocolException {
    JsonNode node = json.get(name);
    if (node == null) {
      return absent;
    }
    if (!node.isBoolean()) {
      throw new ProtocolException("hello: " + name + " must be true or false");
    }
    return node.booleanValue();
  }

  boolean isScheduler() {
    return role == Protocol.ROLE_SCHEDULER;
  }

  boolean isWorker() {
    return role == Protocol.ROLE_WORKER;
  }

  /** The role as a word. */
  String roleName() {
    return switch (role) {
      case Protocol.ROLE_SCHEDULER -> "scheduler";
      case Protocol.ROLE_WORKER -> "worker";
      default -> "tool";
    };
  }

  /** For logs: control characters of a stranger's text do not reach them. */
  String label() {
    String name = instance.replaceAll("[^\\x20-\\x7e]", "?");
    return switch (role) {
      case Protocol.ROLE_SCHEDULER -> "scheduler of " + name;
      case Protocol.ROLE_WORKER -> "rank " + rank + " of " + name;
      default -> "tool";
    };
  }
}
