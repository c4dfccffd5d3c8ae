package io.flexkv.tier.ssd;

/** Where tests make a disk fail; asked before each call to the kernel. */
@FunctionalInterface
interface IoFaults {
  /** A disk that does what it is told. */
  IoFaults NONE = (op, length) -> length;

  /**
   * Says what the disk does with a transfer.
   *
   * @param length bytes that are about to be transferred
   * @return how many of them to transfer (a short read or write), or minus an error number to fail
   *     with instead. May block: the disk stalls
   */
  int permit(BlockOp op, int length);
}
