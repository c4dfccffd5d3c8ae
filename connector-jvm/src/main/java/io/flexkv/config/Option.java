package io.flexkv.config;

import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.List;
import java.util.Locale;
import java.util.Set;
import java.util.regex.Pattern;
import org.jspecify.annotations.Nullable;

/**
 * One option: its names in every source, its default and what it may be. All of them stand in
 * {@code options.json}, which the engine's side reads too, by the same rules ({@code options.py}).
 *
 * @param name in files, in {@code FLEXKV_OVERRIDES} and (with dashes) on the command line
 * @param env environment variable
 * @param aliases other keys that a file may use
 * @param envAliases other environment variables
 * @param type how its text is read
 * @param side who reads it
 * @param status what it does today
 * @param defaultText the default as one would write it
 * @param least smallest number, ignored for text
 * @param most largest number, ignored for text
 * @param choices what a choice may be
 * @param allowed for people: what it may be, with the unit
 * @param neutral values that ask for nothing, so that nothing is said of them
 * @param doc one sentence
 * @param says what is logged when it is given and not {@link Status#WORKS}
 * @param secret whether its value must never be printed
 * @param fileReplacesEnv whether a file replaces its environment variable even if silent on it
 * @param live whether it can be changed while the sidecar runs
 */
public record Option(
    String name,
    String env,
    List<String> aliases,
    List<String> envAliases,
    Type type,
    Side side,
    Status status,
    String defaultText,
    double least,
    double most,
    List<String> choices,
    String allowed,
    List<String> neutral,
    String doc,
    String says,
    boolean secret,
    boolean fileReplacesEnv,
    boolean live) {
  private static final int MAX_PATH_BYTES = 107;
  private static final Set<String> TRUE = Set.of("1", "true", "yes", "on");
  private static final Set<String> FALSE = Set.of("0", "false", "no", "off");
  private static final Pattern WHOLE = Pattern.compile("-?[0-9]{1,15}");
  private static final Pattern NUMBER =
      Pattern.compile("[+-]?([0-9]+(\\.[0-9]*)?|\\.[0-9]+)([eE][+-]?[0-9]{1,3})?");

  /** How the text of a value is read. */
  public enum Type {
    TEXT,
    FLAG,
    INTEGER,
    NUMBER,
    CHOICE,
    ADDRESS,
    /** Separated by {@code ;}, or a list in a file. */
    PATHS,
    /** Accepted and not looked at. */
    ANY
  }

  /** Which process an option is for; a file may hold both. */
  public enum Side {
    SIDECAR,
    BOTH,
    ENGINE
  }

  /** What an option does today. */
  public enum Status {
    WORKS,
    /** The part that it is for is not built: accepted, the rest runs. */
    ABSENT,
    /** Something else does its work: accepted. */
    REPLACED
  }

  /** Whether the sidecar reads it. */
  boolean ours() {
    return side != Side.ENGINE;
  }

  /** Its environment variables, the preferred one first. */
  List<String> envs() {
    List<String> all = new ArrayList<>();
    all.add(env);
    all.addAll(envAliases);
    return all;
  }

  /** The value in its one form ({@code 1} for a true flag), or null if it may not be. */
  @Nullable String normal(String value) {
    String text = value.strip();
    return switch (type) {
      case TEXT -> text;
      case ANY -> "(given)";
      case FLAG -> flag(text);
      case INTEGER -> WHOLE.matcher(text).matches() && inRange(text) ? text : null;
      case NUMBER -> NUMBER.matcher(text).matches() && inRange(text) ? text : null;
      case CHOICE ->
          choices.stream().filter(choice -> choice.equalsIgnoreCase(text)).findFirst().orElse(null);
      case ADDRESS -> isAddress(text) ? text : null;
      case PATHS -> paths(text).isEmpty() ? null : String.join(";", paths(text));
    };
  }

  /** Whether a value asks for more than what is there anyway. */
  boolean asks(String value) {
    String text = value.strip().toLowerCase(Locale.ROOT);
    String flag = flag(text);
    return !text.isEmpty() && !neutral.contains(text) && (flag == null || !neutral.contains(flag));
  }

  /** A value as it may be printed. */
  String shown(String value) {
    return secret ? "***" : value;
  }

  /** The folders in the text of {@link Type#PATHS}. */
  static List<String> paths(String text) {
    List<String> found = new ArrayList<>();
    for (String part : text.split(";", -1)) {
      if (!part.isBlank()) {
        found.add(part.strip());
      }
    }
    return found;
  }

  private static @Nullable String flag(String text) {
    String lower = text.toLowerCase(Locale.ROOT);
    return TRUE.contains(lower) ? "1" : FALSE.contains(lower) ? "0" : null;
  }

  private boolean inRange(String value) {
    double number = Double.parseDouble(value);
    return number >= least && number <= most;
  }

  private static boolean isAddress(String value) {
    if (!value.startsWith("ipc:///") || value.indexOf('\0') >= 0) {
      return false;
    }
    String path = value.substring("ipc://".length());
    return path.getBytes(StandardCharsets.UTF_8).length <= MAX_PATH_BYTES;
  }
}
