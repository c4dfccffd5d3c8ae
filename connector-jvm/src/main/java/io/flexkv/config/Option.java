package io.flexkv.config;

/**
 * One option: its names in every source, its default and what it may be.
 *
 * @param name in files, in {@code FLEXKV_OVERRIDES} and (with dashes) on the command line
 * @param env environment variable
 * @param type how its text is read
 * @param defaultText the default as one would write it
 * @param allowed for people: what it may be, with the unit
 * @param least smallest number, ignored for text
 * @param most largest number, ignored for text
 * @param side who reads it
 * @param doc one sentence
 */
public record Option(
    String name,
    String env,
    Type type,
    String defaultText,
    String allowed,
    double least,
    double most,
    Side side,
    String doc) {
  /** How the text of a value is read. */
  public enum Type {
    TEXT,
    INTEGER,
    NUMBER,
    CHOICE,
    ADDRESS
  }

  /** Which process an option is for; a file may hold both. */
  public enum Side {
    SIDECAR,
    BOTH,
    ENGINE
  }
}
