package io.flexkv.cache;

/**
 * Where an entry keeps what the eviction policy of one tier knows of it: the numbers of one long
 * and three ints of {@link EntryLayout}.
 *
 * @param recency when it was last used, or what else {@link EvictionOrder} goes by
 * @param older its neighbour in a list, or its place in a heap
 * @param newer its neighbour in a list, or how often it was hit
 * @param listed what {@link PolicyEra} notes: whether the policy knows it, and a list has it
 */
record PolicyFields(int recency, int older, int newer, int listed) {
  static final PolicyFields HOST =
      new PolicyFields(
          EntryLayout.RECENCY, EntryLayout.OLDER, EntryLayout.NEWER, EntryLayout.LISTED);

  static final PolicyFields SSD =
      new PolicyFields(
          EntryLayout.SSD_RECENCY,
          EntryLayout.SSD_OLDER,
          EntryLayout.SSD_NEWER,
          EntryLayout.SSD_LISTED);

  static PolicyFields of(Tier tier) {
    return tier == Tier.HOST ? HOST : SSD;
  }

  int heapPlace() {
    return older;
  }

  int hits() {
    return newer;
  }
}
