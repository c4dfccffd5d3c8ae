package io.flexkv.cache;

/** For tests outside of this package: moves the word as the cache thread would. */
public final class GrowingBlocks {
  private final AvailableBlocks blocks;

  public GrowingBlocks(int count) {
    blocks = new AvailableBlocks(count);
  }

  public AvailableBlocks available() {
    return blocks;
  }

  public void raiseTo(int count) {
    blocks.raiseTo(count);
  }

  public void cut() {
    blocks.cut();
  }
}
