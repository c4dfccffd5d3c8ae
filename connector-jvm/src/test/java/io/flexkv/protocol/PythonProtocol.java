package io.flexkv.protocol;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import org.graalvm.polyglot.Context;
import org.graalvm.polyglot.Value;

/**
 * The very file {@code python-shim/src/flexkv/protocol.py}, run by GraalPy.
 *
 * <p>Values cross the border as text, one {@code name=value} a field in the order of the dataclass:
 * integers decimal, bytes in hex, tuples joined by commas. So neither side's number types can hide
 * a difference.
 */
public final class PythonProtocol implements AutoCloseable {
  private static final String DRIVER =
      """
      import dataclasses, sys, types
      p = types.ModuleType("protocol")
      sys.modules["protocol"] = p
      exec(compile(SOURCE, "protocol.py", "exec"), p.__dict__)

      def to_text(record):
          parts = []
          for f in dataclasses.fields(record):
              v = getattr(record, f.name)
              if isinstance(v, bytes):
                  v = v.hex()
              elif isinstance(v, tuple):
                  v = ",".join(map(str, v))
              parts.append(f"{f.name}={v}")
          return " ".join(parts)

      def from_text(name, text):
          cls = getattr(p, name)
          kinds = {f.name: f.type for f in dataclasses.fields(cls)}
          values = {}
          for part in text.split(" "):
              key, value = part.split("=")
              if kinds[key] == "bytes":
                  values[key] = bytes.fromhex(value)
              elif kinds[key].startswith("tuple"):
                  values[key] = tuple(int(v) for v in value.split(",") if v)
              else:
                  values[key] = int(value)
          return cls(**values)

      def encode(name, text):
          return from_text(name, text).encode().hex()

      def decode(data):
          try:
              record = p.decode_record(bytes.fromhex(data))
          except p.ProtocolError as error:
              return "ProtocolError"
          return type(record).__name__ + " " + to_text(record)
      """;

  private final Context context;
  private final Value bindings;

  public PythonProtocol() throws IOException {
    context = Context.newBuilder("python").allowAllAccess(true).build();
    bindings = context.getBindings("python");
    bindings.putMember("SOURCE", Files.readString(source()));
    context.eval("python", DRIVER);
  }

  private static Path source() {
    Path relative = Path.of("python-shim", "src", "flexkv", "protocol.py");
    for (Path folder = Path.of("").toAbsolutePath(); folder != null; folder = folder.getParent()) {
      if (Files.isRegularFile(folder.resolve(relative))) {
        return folder.resolve(relative);
      }
    }
    throw new IllegalStateException("no " + relative + " above " + Path.of("").toAbsolutePath());
  }

  /** Bytes (hex) of a record given by its class and fields. */
  public String encode(String name, String fields) {
    return bindings.getMember("encode").execute(name, fields).asString();
  }

  /** "Class field=value …" of a record given in hex, or {@code ProtocolError}. */
  public String decode(String hex) {
    return bindings.getMember("decode").execute(hex).asString();
  }

  /** Whatever an expression yields; the module is {@code p}. */
  public Value eval(String expression) {
    return context.eval("python", expression);
  }

  @Override
  public void close() {
    context.close();
  }
}
