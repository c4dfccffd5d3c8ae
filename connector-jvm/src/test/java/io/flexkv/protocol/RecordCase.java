package io.flexkv.protocol;

import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.util.HexFormat;
import java.util.LinkedHashMap;
import java.util.Map;
import java.util.function.Supplier;
import java.util.random.RandomGenerator;
import java.util.stream.Collectors;
import java.util.stream.IntStream;
import java.util.stream.LongStream;

/** One record type: random fields, the Java encoder and a view that reads every field back. */
abstract class RecordCase {
  /** The fields of a record by their Python names: Long (as unsigned), byte[], int[] or long[]. */
  static final class Fields extends LinkedHashMap<String, Object> {
    private static final long serialVersionUID = 1L;

    Fields with(String name, Object value) {
      put(name, value);
      return this;
    }

    long num(String name) {
      return (Long) get(name);
    }

    int i(String name) {
      return (int) num(name);
    }

    byte[] bytes(String name) {
      return (byte[]) get(name);
    }

    int[] ints(String name) {
      return (int[]) get(name);
    }

    long[] longs(String name) {
      return (long[]) get(name);
    }

    String text() {
      return entrySet().stream()
          .map(e -> e.getKey() + "=" + text(e.getValue()))
          .collect(Collectors.joining(" "));
    }

    private static String text(Object value) {
      return switch (value) {
        case Long n -> Long.toUnsignedString(n);
        case byte[] b -> HexFormat.of().formatHex(b);
        case int[] a ->
            IntStream.of(a).mapToObj(Integer::toUnsignedString).collect(Collectors.joining(","));
        case long[] a ->
            LongStream.of(a).mapToObj(Long::toUnsignedString).collect(Collectors.joining(","));
        default -> throw new IllegalArgumentException(value.toString());
      };
    }
  }

  final String name;

  RecordCase(String name) {
    this.name = name;
  }

  abstract Fields random(RandomGenerator random);

  abstract int encode(MemorySegment to, Fields fields);

  abstract RecordView view();

  /** Reads every field; the view is wrapped. */
  abstract Fields read(RecordView view);

  @Override
  public String toString() {
    return name;
  }

  byte[] encode(Fields fields) {
    byte[] buffer = new byte[Protocol.MAX_RECORD_BYTES];
    java.util.Arrays.fill(buffer, (byte) 0xEE);
    int length = encode(MemorySegment.ofArray(buffer), fields);
    return java.util.Arrays.copyOf(buffer, length);
  }

  String decode(byte[] record) throws ProtocolException {
    RecordView view = view();
    view.wrap(MemorySegment.ofArray(record), record.length);
    return name + " " + read(view).text();
  }

  // ------------------------------------------------------------------ random fields

  static Long u64(RandomGenerator random) {
    return switch (random.nextInt(4)) {
      case 0 -> 0L;
      case 1 -> -1L;
      case 2 -> (long) random.nextInt(1000);
      default -> random.nextLong();
    };
  }

  static Long u32(RandomGenerator random) {
    return u64(random) & 0xFFFF_FFFFL;
  }

  static Long u16(RandomGenerator random) {
    return u64(random) & 0xFFFFL;
  }

  static byte[] bytes(RandomGenerator random, int length) {
    byte[] bytes = new byte[length];
    random.nextBytes(bytes);
    return bytes;
  }

  static int[] ints(RandomGenerator random, int length) {
    return IntStream.generate(random::nextInt).limit(length).toArray();
  }

  static byte[] bytesOf(RecordView view, long offset, long length) {
    return view.segment().asSlice(offset, length).toArray(ValueLayout.JAVA_BYTE);
  }

  static int[] intsOf(RecordView view, long offset, int count) {
    return view.segment().asSlice(offset, 4L * count).toArray(Wire.U32);
  }

  /** A case made of functions, for records of numbers only. */
  static RecordCase of(
      String name,
      java.util.function.Function<RandomGenerator, Fields> random,
      java.util.function.ToIntBiFunction<MemorySegment, Fields> encoder,
      Supplier<RecordView> view,
      java.util.function.Function<RecordView, Fields> reader) {
    return new RecordCase(name) {
      @Override
      Fields random(RandomGenerator r) {
        return random.apply(r);
      }

      @Override
      int encode(MemorySegment to, Fields fields) {
        return encoder.applyAsInt(to, fields);
      }

      @Override
      RecordView view() {
        return view.get();
      }

      @Override
      Fields read(RecordView v) {
        return reader.apply(v);
      }
    };
  }

  static Map<String, RecordCase> all() {
    return RecordCases.ALL;
  }
}
