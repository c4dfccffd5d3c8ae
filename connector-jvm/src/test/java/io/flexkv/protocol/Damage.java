package io.flexkv.protocol;

import java.util.Arrays;
import java.util.random.RandomGenerator;

/** Ways in which bytes arrive broken. */
final class Damage {
  private Damage() {}

  static byte[] damage(byte[] good, RandomGenerator random) {
    return switch (random.nextInt(5)) {
      case 0 -> Arrays.copyOf(good, random.nextInt(good.length + 1));
      case 1 -> Arrays.copyOf(good, good.length + 1 + random.nextInt(64));
      case 2 -> withLength(Arrays.copyOf(good, random.nextInt(good.length + 1)));
      case 3 -> {
        byte[] noise = new byte[random.nextInt(200)];
        random.nextBytes(noise);
        yield random.nextBoolean() ? withLength(noise) : noise;
      }
      default -> {
        byte[] flipped = good.clone();
        for (int i = 1 + random.nextInt(8); i > 0; i--) {
          // Mostly in the fixed fields, where the lengths are.
          int at = random.nextInt(random.nextInt(4) == 0 ? good.length : Math.min(56, good.length));
          flipped[at] ^= (byte) (1 << random.nextInt(8));
        }
        yield flipped;
      }
    };
  }

  /** Makes the header tell the truth, so that the body is what decides. */
  private static byte[] withLength(byte[] bytes) {
    for (int i = 0; i < 4 && i < bytes.length; i++) {
      bytes[i] = (byte) (bytes.length >>> (8 * i));
    }
    return bytes;
  }
}
