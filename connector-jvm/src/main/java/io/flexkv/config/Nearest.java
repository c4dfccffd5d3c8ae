package io.flexkv.config;

import static java.util.Objects.requireNonNull;

import java.util.Collection;
import java.util.List;
import java.util.Map;
import java.util.function.UnaryOperator;

/** The known name that somebody most probably meant. */
public final class Nearest {
  private Nearest() {}

  /** Words for a message: what was most probably meant, if anything is near. */
  public static String words(String seen, Collection<String> known) {
    return words(seen, known, best -> best);
  }

  /** The same of a key in a file: one of an option that does something. */
  static String key(String seen) {
    return words(seen, keys());
  }

  /** The same of an environment variable, whose name without the prefix is {@code seen}. */
  static String variable(String seen) {
    return words(seen, keys(), key -> requireNonNull(Options.BY_KEY.get(key)).env());
  }

  private static List<String> keys() {
    return Options.BY_KEY.entrySet().stream()
        .filter(entry -> entry.getValue().status() == Option.Status.WORKS)
        .map(Map.Entry::getKey)
        .toList();
  }

  private static String words(
      String seen, Collection<String> known, UnaryOperator<String> written) {
    String best = of(seen, known);
    return distance(seen, best) * 3 > Math.max(seen.length(), best.length())
        ? ""
        : "; did you mean '" + written.apply(best) + "'?";
  }

  static String of(String seen, Collection<String> known) {
    String best = "";
    int least = Integer.MAX_VALUE;
    for (String candidate : known.stream().sorted().toList()) {
      int distance = distance(seen, candidate);
      if (distance < least) {
        least = distance;
        best = candidate;
      }
    }
    return best;
  }

  /** Levenshtein's distance. */
  private static int distance(String a, String b) {
    int[] row = new int[b.length() + 1];
    for (int j = 0; j <= b.length(); j++) {
      row[j] = j;
    }
    for (int i = 1; i <= a.length(); i++) {
      int diagonal = row[0];
      row[0] = i;
      for (int j = 1; j <= b.length(); j++) {
        int substituted = diagonal + (a.charAt(i - 1) == b.charAt(j - 1) ? 0 : 1);
        diagonal = row[j];
        row[j] = Math.min(substituted, 1 + Math.min(row[j], row[j - 1]));
      }
    }
    return row[b.length()];
  }
}
