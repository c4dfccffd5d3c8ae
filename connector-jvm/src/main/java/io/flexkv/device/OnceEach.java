package io.flexkv.device;

import java.util.Map;
import java.util.Set;
import java.util.function.Function;
import java.util.stream.Collectors;
import org.jspecify.annotations.Nullable;

/**
 * One value for each of some keys that are known before, made with the first who asks for it and
 * kept for good. Whoever waits for the making of one value holds up nobody who wants another: a GPU
 * may hang while it is opened. Thread-safe.
 */
final class OnceEach<V> {
  /** Makes a value. */
  @FunctionalInterface
  interface Maker<V> {
    V make() throws DeviceException;
  }

  private static final class Holder<V> {
    @Nullable V value;
  }

  private final Map<String, Holder<V>> holders;

  OnceEach(Set<String> keys) {
    holders = keys.stream().collect(Collectors.toMap(Function.identity(), key -> new Holder<>()));
  }

  /** The value of a key, made if it is not there; a failure is not kept. */
  V get(String key, Maker<V> maker) throws DeviceException {
    Holder<V> holder = holders.get(key);
    if (holder == null) {
      throw new IllegalArgumentException(key + " is none of " + holders.keySet());
    }
    synchronized (holder) {
      V value = holder.value;
      if (value == null) {
        value = maker.make();
        holder.value = value;
      }
      return value;
    }
  }
}
