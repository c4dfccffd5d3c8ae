package io.flexkv.cache;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.function.Consumer;
import org.jspecify.annotations.Nullable;

/**
 * A map from {@code long} to objects by open addressing with linear probing: looking up allocates
 * nothing. The order of iteration depends on the keys and the history alone, so runs repeat.
 */
final class LongMap<V> {
  private static final int MIN_CAPACITY = 16;

  private long[] keys = new long[MIN_CAPACITY];
  private @Nullable Object[] values = new @Nullable Object[MIN_CAPACITY];
  private int size;

  int size() {
    return size;
  }

  @Nullable V get(long key) {
    int mask = keys.length - 1;
    for (int i = home(key, mask); ; i = (i + 1) & mask) {
      Object value = values[i];
      if (value == null) {
        return null;
      }
      if (keys[i] == key) {
        return cast(value);
      }
    }
  }

  /** Puts a value under a key that must be free. */
  void putNew(long key, V value) {
    if (2 * (size + 1) > keys.length) {
      resize(2 * keys.length);
    }
    int mask = keys.length - 1;
    int i = home(key, mask);
    while (values[i] != null) {
      if (keys[i] == key) {
        throw new IllegalStateException("key " + key + " is taken");
      }
      i = (i + 1) & mask;
    }
    keys[i] = key;
    values[i] = value;
    size++;
  }

  @Nullable V remove(long key) {
    int mask = keys.length - 1;
    for (int i = home(key, mask); ; i = (i + 1) & mask) {
      Object value = values[i];
      if (value == null) {
        return null;
      }
      if (keys[i] == key) {
        closeGap(i, mask);
        size--;
        return cast(value);
      }
    }
  }

  /** A copy of the values, for loops that remove. */
  List<V> snapshot() {
    List<V> result = new ArrayList<>(size);
    forEach(result::add);
    return result;
  }

  void forEach(Consumer<V> action) {
    for (Object value : values) {
      if (value != null) {
        action.accept(cast(value));
      }
    }
  }

  void clear() {
    Arrays.fill(values, null);
    size = 0;
  }

  /** Moves later entries of the probe chain back, so that no lookup stops too early. */
  private void closeGap(int removed, int mask) {
    int gap = removed;
    for (int i = (gap + 1) & mask; values[i] != null; i = (i + 1) & mask) {
      int distance = (i - home(keys[i], mask)) & mask;
      if (distance >= ((i - gap) & mask)) {
        keys[gap] = keys[i];
        values[gap] = values[i];
        gap = i;
      }
    }
    values[gap] = null;
  }

  private void resize(int capacity) {
    long[] oldKeys = keys;
    @Nullable Object[] oldValues = values;
    keys = new long[capacity];
    values = new @Nullable Object[capacity];
    int mask = capacity - 1;
    for (int j = 0; j < oldKeys.length; j++) {
      if (oldValues[j] != null) {
        int i = home(oldKeys[j], mask);
        while (values[i] != null) {
          i = (i + 1) & mask;
        }
        keys[i] = oldKeys[j];
        values[i] = oldValues[j];
      }
    }
  }

  private static int home(long key, int mask) {
    return (int) KeySalt.mix(key) & mask;
  }

  @SuppressWarnings("unchecked")
  private V cast(Object value) {
    return (V) value;
  }
}
